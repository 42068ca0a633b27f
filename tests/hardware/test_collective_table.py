"""Measured collectives as they are found: outputs of nccl-tests, AIConfigurator's tables."""

import sys
from itertools import pairwise
from pathlib import Path

import pytest

from servesim.errors import InputError, UnsupportedError
from servesim.graph.opgraph import OpGraph
from servesim.graph.work import CollectiveWork, GemmWork
from servesim.hardware.collectives import CollectiveCost
from servesim.hardware.cost import Cost, Source
from servesim.hardware.link import Link
from servesim.hardware.load import load_device
from servesim.hardware.placement import collective_cost
from servesim.hardware.tables.collectives import load_collectives
from servesim.hardware.tables.profile import load_profile

OPS = Path(__file__).parents[3] / "shared" / "ops" / "h100_sxm"
LINK = Link("wire", 1e9, 1e-6)


class PerByte:
    """A microsecond a rank, and a nanosecond a byte."""

    def cost(self, work):
        if isinstance(work, CollectiveWork):
            return Cost(1e-6 * work.ranks + 1e-9 * work.payload_bytes, Source.CALIBRATED)
        return Cost(7.0, Source.CALIBRATED)


def output(path: Path, ranks: int, rows: dict[int, float], operation: str | None = None) -> Path:
    """What nccl-tests prints: microseconds by bytes."""
    lines = ["# nccl-tests version 2.17.6 nccl-headers=22807 nccl-library=22807"]
    if operation:
        lines += [f"# Collective test starting: {operation}_perf"]
    lines += [f"# nThread 1 nGpus {ranks} minBytes 1024 maxBytes 4096 step: 2(factor)", "#"]
    lines += [
        f"#  Rank  {r} Group  0 Pid  9 on host device  {r} [0000:0f:00] X" for r in range(ranks)
    ]
    lines += [
        "#       size         count      type   redop    root     time   algbw   busbw #wrong"
    ]
    lines += [
        f"{size:12d} {size // 4:13d}  float  sum  -1  {us:.2f}  0.1  0.1  0  {us:.2f}  0.1  0.1  0"
        for size, us in rows.items()
    ]
    path.write_text("\n".join([*lines, "# Avg bus bandwidth : 0.1", "#", ""]), encoding="utf-8")
    return path


def test_a_folder_of_outputs(tmp_path: Path) -> None:
    output(tmp_path / "run1.log", 2, {0: 1.0, 1024: 10.0, 3072: 30.0}, "all_reduce")
    output(tmp_path / "run2.log", 4, {1024: 20.0, 3072: 60.0}, "all_reduce")
    output(tmp_path / "run3.log", 2, {1024: 5.0, 3072: 15.0}, "alltoall")
    (tmp_path / "notes.txt").write_text("measured on Monday")
    costs = load_collectives(tmp_path, LINK, PerByte())

    def cost(operation: str, payload: float, ranks: int) -> Cost:
        return costs.cost(CollectiveWork(operation, payload, ranks))

    assert cost("all_reduce", 2048.0, 2) == Cost(pytest.approx(20e-6), Source.MEASURED)
    assert cost("all_reduce", 2048.0, 4) == Cost(pytest.approx(40e-6), Source.MEASURED)
    assert cost("all_reduce", 16.0, 2) == Cost(pytest.approx(10e-6), Source.MEASURED)
    assert cost("all_to_all", 2048.0, 2) == Cost(pytest.approx(10e-6), Source.MEASURED)
    assert cost("all_gather", 2048.0, 2).source == Source.CALIBRATED
    assert costs.cost(GemmWork(1, 1, 1)) == Cost(7.0, Source.CALIBRATED)
    # Beyond the edge the measured slope goes on.
    assert cost("all_reduce", 3072.0, 2).seconds == pytest.approx(30e-6)
    beyond = cost("all_reduce", 6144.0, 2)
    assert beyond == Cost(pytest.approx(60e-6), Source.EXTRAPOLATED)
    assert cost("all_reduce", 3072.001, 2).seconds == pytest.approx(30e-6, rel=1e-5)
    # Among more ranks a ring takes 14 steps of 1 µs after 4 µs, not 6, and links carry more.
    latency, rest = 20e-6 * (4 + 14) / (4 + 6), 40e-6 * (7 / 8) / (3 / 4)
    assert cost("all_reduce", 3072.0, 8) == Cost(pytest.approx(latency + rest), Source.EXTRAPOLATED)


class Switching:
    """A fallback with a switch of protocol that makes larger payloads faster."""

    def cost(self, work):
        slow = work.ranks if work.payload_bytes < 2**16 else 1
        return Cost(5e-6 * slow + 1e-10 * work.payload_bytes, Source.ANALYTICAL)


def test_switches_of_the_fallback_do_not_show_in_what_was_measured(tmp_path: Path) -> None:
    sizes = {2**i: 10 + 2**i / 1e4 for i in range(10, 24)}
    path = output(tmp_path / "run.txt", 4, sizes, "all_reduce")
    costs = load_collectives(path, LINK, Switching())
    for ranks in (2, 3, 4, 5, 8):
        payloads = [2 ** (i / 4) for i in range(32, 120)]
        times = [costs.cost(CollectiveWork("all_reduce", p, ranks)).seconds for p in payloads]
        assert all(a <= b <= 1.2 * a for a, b in pairwise(times))


def test_an_older_output_is_named_by_its_file(tmp_path: Path) -> None:
    path = output(tmp_path / "reduce_scatter_perf.n2.txt", 2, {1024: 10.0, 4096: 30.0})
    costs = load_collectives(path, LINK, PerByte())
    assert costs.cost(CollectiveWork("reduce_scatter", 1024.0, 2)).source == Source.MEASURED
    with pytest.raises(InputError, match=r"its collective is none, .* the file's name must"):
        load_collectives(output(tmp_path / "x.txt", 2, {8: 1.0, 9: 2.0}), LINK, PerByte())
    with pytest.raises(InputError, match="its collective is 'hypercube'"):
        load_collectives(output(path, 2, {8: 1.0, 9: 2.0}, "hypercube"), LINK, PerByte())


def test_a_slow_first_run_makes_no_time_negative(tmp_path: Path) -> None:
    path = output(tmp_path / "all_reduce.txt", 8, {1024: 100.0, 2048: 20.0, 4096: 21.0})
    costs = load_collectives(path, LINK, PerByte())
    for ranks in (2, 4, 16):
        for payload in (1024.0, 2048.0, 1e6):
            assert costs.cost(CollectiveWork("all_reduce", payload, ranks)).seconds > 0.0


def test_among_more_devices_than_the_link_joins(tmp_path: Path) -> None:
    path = output(tmp_path / "all_reduce.txt", 16, {1024: 10.0, 4096: 40.0})
    pair = Link("pair", 1e9, 1e-6, devices=2)
    costs = load_collectives(path, pair, CollectiveCost(pair))
    assert costs.cost(CollectiveWork("all_reduce", 2048.0, 16)).source == Source.MEASURED
    fewer = costs.cost(CollectiveWork("all_reduce", 4096.0, 2))
    # Two steps of a ring, not 30; one payload on each link, not 15/8.
    assert fewer == Cost(pytest.approx(10e-6 * 6 / 34 + 30e-6 * 8 / 15), Source.EXTRAPOLATED)
    with pytest.raises(UnsupportedError, match="pair joins 2"):
        costs.cost(CollectiveWork("all_reduce", 2048.0, 32))


def test_parquet_without_its_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("pyarrow", "pyarrow.parquet"):
        monkeypatch.setitem(sys.modules, name, None)
    for name in ("nccl_perf", "gemm_perf"):
        (tmp_path / f"{name}.parquet").write_bytes(b"")
    with pytest.raises(UnsupportedError, match="needs pyarrow: pip install"):
        load_collectives(tmp_path, LINK, PerByte())
    with pytest.raises(UnsupportedError, match="needs pyarrow: pip install"):
        load_profile(tmp_path, OpGraph("m", (), (), 0, 0, 0.0, 8, 8, 8), load_device("h100_sxm"))


def test_what_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no output of nccl-tests and no table"):
        load_collectives(tmp_path, LINK, PerByte())
    with pytest.raises(InputError, match="no such file or folder"):
        load_collectives(tmp_path / "absent", LINK, PerByte())


@pytest.mark.skipif(not OPS.is_dir(), reason=f"no kernel tables in {OPS}")
def test_tables_of_aiconfigurator_agree_with_what_was_fitted_to_them() -> None:
    device = load_device("h100_sxm")
    fitted = collective_cost(device, load_device)
    assert device.peer_link
    table = load_collectives(OPS, device.peer_link, fitted)
    nccl = load_collectives(OPS / "nccl-2.29.2" / "nccl_perf.parquet", device.peer_link, fitted)
    for payload in (2.0**14, 2.0**20, 2.0**26):
        for operation in ("all_reduce", "all_gather", "all_to_all"):
            work = CollectiveWork(operation, payload, 4)
            found = table.cost(work)
            assert found.source == Source.MEASURED
            assert found.seconds == pytest.approx(fitted.cost(work).seconds, rel=0.15)
            if operation != "all_reduce":
                assert nccl.cost(work) == found
    small = CollectiveWork("all_reduce", 2.0**14, 4)
    assert table.cost(small).seconds < nccl.cost(small).seconds  # the engine's own is quicker
    huge, edge = CollectiveWork("all_gather", 1e12, 4), CollectiveWork("all_gather", 2e12, 4)
    assert table.cost(huge).seconds < table.cost(edge).seconds
