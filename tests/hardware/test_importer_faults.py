"""Tables that cannot be meant: one clear line with file, line and value, never a traceback."""

import gzip
from pathlib import Path

import pytest

from servesim.errors import InputError, UnknownNameError
from servesim.hardware.calibrate.collectives import read_kernel_tables
from servesim.hardware.calibrate.geometry import Geometry
from servesim.hardware.calibrate.kernel_tables import kernel_rows
from servesim.hardware.calibrate.layer_tables import layer_rows
from servesim.hardware.calibrate.records import read_frame
from servesim.hardware.link import Link
from servesim.hardware.tables.csvfile import count, read_csv, seconds
from servesim.hardware.tables.layer_profile import load_layer_profile
from servesim.hardware.tables.nccl_tests import read_nccl_tests

HEAD = "gemm_dtype,m,n,k,latency\n"
GOOD = "bfloat16,1,512,512,0.002\n"


def kernels(folder: Path, text: str | bytes, name: str = "gemm_perf.csv") -> Path:
    (folder / name).write_bytes(text.encode() if isinstance(text, str) else text)
    return folder


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "cannot be read"),
        (HEAD, "no measurements"),
        (HEAD.replace("latency", "time") + GOOD, r"no column 'latency' \(there: .*time\)"),
        (HEAD.replace(",m,", ",rows,") + GOOD, "no column 'm'"),
        (HEAD + GOOD + GOOD.replace("0.002", "-1"), "line 3: latency: .* finite, not -1"),
        ("\n" + HEAD + "\r\n" + GOOD + "  \n" + GOOD.replace("0.002", "-1"), "line 6: latency"),
        (HEAD + GOOD.replace("0.002", "inf"), "line 2: latency: .* finite, not inf"),
        (HEAD + GOOD.replace("0.002", "fast"), "line 2: latency: .* finite, not fast"),
        (HEAD + GOOD + "bfloat16,1,5", "line 3: latency: .* finite, not nan"),
        (HEAD + GOOD.replace(",1,", ",0,"), "line 2: m: a count must be a whole number from 1"),
        (HEAD + GOOD.replace(",1,", ",one,"), "line 2: m: .* not one"),
    ],
)
def test_kernel_tables(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as error:
        kernel_rows(kernels(tmp_path, text), 0.0)
    assert "gemm_perf.csv" in str(error.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    path = tmp_path / "run.csv"
    for read in (read_frame, read_nccl_tests, lambda path: read_csv(path, dict)):
        with pytest.raises(InputError) as error:
            read(path)
        assert str(error.value) == f"{path}: cannot be read: No such file or directory"


def test_an_unknown_format_is_named_with_the_known_ones(tmp_path: Path) -> None:
    table = HEAD + GOOD + GOOD.replace("bfloat16", "float4x")
    with pytest.raises(UnknownNameError, match=r"gemm_dtype .*line 3: 'float4x'; did you mean"):
        kernel_rows(kernels(tmp_path, table), 0.0)


def test_a_file_that_is_no_parquet(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    kernels(tmp_path, b"PAR1xxxx", "gemm_perf.parquet")
    with pytest.raises(InputError, match=r"gemm_perf.parquet: cannot be read"):
        kernel_rows(tmp_path, 0.0)
    (tmp_path / "nccl_perf.parquet").write_bytes(b"PAR1xxxx")
    with pytest.raises(InputError, match=r"nccl_perf.parquet: cannot be read"):
        read_kernel_tables(tmp_path, Link("wire", 1e9, 1e-6))


def test_a_byte_order_mark_is_no_part_of_a_name(tmp_path: Path) -> None:
    assert len(kernel_rows(kernels(tmp_path, "\ufeff" + HEAD + GOOD), 0.0)) == 1
    layers = tmp_path / "layers.csv"
    layers.write_text("\ufefflayer,t\na,1\n", encoding="utf-8")
    assert read_csv(layers, lambda row: row["layer"]) == ["a"]


def test_rows_of_another_length_than_the_header(tmp_path: Path) -> None:
    path = tmp_path / "layers.csv"
    for row in ("a,1", "a,1,2,3"):
        path.write_text(f"layer,tokens,time_us\n{row}\n")
        with pytest.raises(InputError, match=r"layers.csv, line 2: not 3 values; cut off"):
            read_csv(path, dict)


def test_times_and_counts() -> None:
    assert seconds("2.5", 1e-3) == 2.5e-3
    assert (count("3"), count("3.0"), count("0")) == (3, 3, 0)
    for text in ("0", "-1", "nan", "inf", "1e999", "soon"):
        with pytest.raises(ValueError, match=r"positive and finite|could not convert"):
            seconds(text, 1e-6)
    for text in ("-1", "nan", "inf", "1.5", "one"):
        with pytest.raises(ValueError, match=r"whole number|could not convert"):
            count(text)


def test_a_damaged_archive(tmp_path: Path) -> None:
    path = tmp_path / "layers.csv.gz"
    packed = gzip.compress(b"layer\nx\n" * 99)
    flipped = packed[:10] + b"\xff" + packed[11:]  # a kind of block that there is not
    for damaged in (packed[:30], flipped):
        path.write_bytes(damaged)
        for read in (read_frame, lambda p: read_csv(p, dict)):
            with pytest.raises(InputError, match="cannot be read"):
                read(path)


def test_vidur_without_tokens(tmp_path: Path) -> None:
    (tmp_path / "mlp.csv").write_text("num_tensor_parallel_workers,time_stats.emb.median\n1,2\n")
    with pytest.raises(InputError, match=r"mlp.csv: no column 'num_tokens'"):
        load_layer_profile(tmp_path, 1, None)  # type: ignore[arg-type]


def test_layer_tables_of_a_calibration(tmp_path: Path) -> None:
    sizes = Geometry(8, 8, 1, 1, 8, 8)
    files = {
        "dense.csv": "layer,tokens,time_us\no_proj,1,-3\n",
        "per_sequence.csv": "layer,sequences,time_us\nlm_head,1,3\n",
    }
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=r"dense.csv, line 2: time_us: .* not -3"):
        layer_rows(tmp_path, "org/model", sizes, 1)
    (tmp_path / "dense.csv").write_text("tokens,time_us\n1,3\n")
    with pytest.raises(InputError, match="a table has no column 'layer'"):
        layer_rows(tmp_path, "org/model", sizes, 1)
