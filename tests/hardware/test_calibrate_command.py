"""``servesim calibrate``: what it reads, and what it refuses before it fits anything."""

from __future__ import annotations

from pathlib import Path

import pytest

from servesim.cli.main import main
from servesim.errors import InputError, UnknownNameError
from servesim.graph.work import GemmWork
from servesim.hardware.calibrate.row import Row
from servesim.hardware.calibrate.run import calibrate
from servesim.hardware.load import DEVICES, load_device

#: Of a made-up all-reduce: seconds, and seconds a byte, of two and of four ranks.
LATENCY, BYTE = {2: 12e-6, 4: 15e-6}, {2: 5e-12, 4: 8e-12}


@pytest.fixture
def sheet(tmp_path: Path) -> Path:
    """A device file without calibration."""
    path = tmp_path / "mine.toml"
    path.write_text((DEVICES / "h100_nvl.toml").read_text().split("[calibration]")[0])
    return path


@pytest.fixture
def products(tmp_path: Path) -> Path:
    """A folder with a table of few products."""
    folder = tmp_path / "tables" / "engine-1"
    folder.mkdir(parents=True)
    lines = [f"bfloat16,{m},4096,4096,0.1" for m in (1, 2, 3)]
    (folder / "gemm_perf.csv").write_text("gemm_dtype,m,n,k,latency\n" + "\n".join(lines))
    return folder.parent


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """A folder with outputs of nccl-tests."""
    folder = tmp_path / "runs"
    folder.mkdir()
    for ranks, latency in LATENCY.items():
        lines = ["# Collective test starting: all_reduce_perf"]
        lines += [
            f"#  Rank {rank} Group 0 Pid 1 on host device {rank} [0x1b] NVIDIA H100 NVL"
            for rank in range(ranks)
        ]
        for size in (2**i for i in range(8, 30)):
            took = 1e6 * (latency + size * BYTE[ranks])
            lines.append(f" {size:>11} {size // 4} float sum -1 {took:.3f} 1 1 0 {took:.3f} 1 1 0")
        lines += ["# Out of bounds values : 0 OK", "# Avg bus bandwidth    : 100.0", "#"]
        (folder / f"{ranks}.txt").write_text("\n".join(lines) + "\n")
    return folder


def command(sheet: Path, data: Path, *more: str) -> list[str]:
    return ["calibrate", "--device", str(sheet), "--data", str(data), *more]


def refused(capsys: pytest.CaptureFixture[str], words: list[str]) -> str:
    """The one line with which the command refuses what it is told."""
    assert main(words) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    return error


@pytest.mark.parametrize("more", [("--only", "collective"), ()])
def test_outputs_of_nccl_tests_are_fitted(
    more: tuple[str, ...], sheet: Path, runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = '[calibration]\ndate = "2026-01-01"\nborrow = "h100_sxm"\n'
    sheet.write_text(sheet.read_text() + kept)
    assert main(command(sheet, runs, "--out", str(sheet), *more)) == 0
    found = load_device(str(sheet)).calibration
    assert found["borrow"] == "h100_sxm"
    fitted = found["collective"]["all_reduce"]
    for ranks, latency in LATENCY.items():
        assert fitted["latency"][str(ranks)] == pytest.approx(latency, rel=0.05)


def test_collectives_that_are_asked_for_must_be_there(
    sheet: Path, products: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sheet.read_text()
    words = command(sheet, products, "--only", "collective", "--out", str(sheet))
    assert "no collectives (nccl_perf.parquet" in refused(capsys, words)
    assert sheet.read_text() == before


def test_profiles_of_vidur_are_used_not_fitted(
    sheet: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "vidur"
    folder.mkdir()
    for name in ("mlp.csv", "attention.csv"):
        (folder / name).write_text("n_head\n32\n")
    assert f"simulate with --profile {folder}" in refused(capsys, command(sheet, folder))


def test_forms_asked_for_are_named_where_there_are_none(
    sheet: Path, products: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    error = refused(capsys, command(sheet, products, "--only", "gem.bf16"))
    assert "unknown form to fit 'gem.bf16'; did you mean 'gemm.bf16'? (known: gemm.bf16)" in error


def test_too_few_kernels_are_counted(
    sheet: Path, products: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command(sheet, products)) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert "no form can be fitted: gemm.bf16: " in error
    assert "kernels and has 3, not counting 0 held out or outside sizes of serving" in error


def test_kernels_faster_than_the_device_are_said_to_be() -> None:
    rows = [Row(GemmWork(m, 4096, 4096), 1e-12, "gemm.bf16", f"{m}") for m in range(1, 99)]
    with pytest.raises(InputError, match="too many of its kernels are faster than the device's"):
        calibrate(load_device("h100_sxm"), rows)
    with pytest.raises(UnknownNameError, match="form to fit 'moe'"):
        calibrate(load_device("h100_sxm"), rows, only=["gemm", "moe"])


@pytest.mark.parametrize(
    ("option", "where"),
    [("--out", "new.toml"), ("--report", "nope/r.md"), ("--lent", "nope/l.csv")],
)
def test_what_cannot_be_written_is_found_out_first(
    option: str,
    where: str,
    sheet: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Before tables are even looked for: there are none."""
    error = refused(capsys, command(sheet, tmp_path / "none", option, str(tmp_path / where)))
    assert where in error
    assert "no kernel tables" not in error


def test_tables_of_another_device_are_refused_where_both_are_known(
    products: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = products / "engine-1" / "gemm_perf.csv"
    head, *lines = path.read_text().splitlines()
    named = [f"{head},device", *(f"{line},NVIDIA H100 80GB HBM3" for line in lines)]
    path.write_text("\n".join(named))
    assert "not on b200_sxm" in refused(capsys, command(Path("b200_sxm"), products))
    assert main(command(Path("h100_sxm"), products)) == 2
    assert "gemm.bf16: a fit needs 16 kernels and has 3" in capsys.readouterr().err


def test_kernels_in_formats_the_device_lacks_are_left_out_with_a_word(
    sheet: Path, products: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = products / "engine-1" / "gemm_perf.csv"
    path.write_text(path.read_text() + "\nfp8,4,4096,4096,0.1")
    text = sheet.read_text()
    sheet.write_text("\n".join(line for line in text.splitlines() if not line.startswith("fp8")))
    assert main(command(sheet, products)) == 2
    said = capsys.readouterr().err
    assert "kernels in fp8: left out, mine does not compute in it" in said
    assert "gemm.bf16: a fit needs 16 kernels and has 3" in said
