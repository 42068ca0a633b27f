"""Collectives: two real processes, and the table their times become."""

import pytest

from servesim.errors import UnsupportedError
from servesim.graph.work import CollectiveWork
from servesim.hardware.collective_tables import read_curves
from servesim.hardware.load import read_toml
from servesim.hardware.measure.collectives import (
    OPERATIONS,
    collective_text,
    curves,
    group,
    peer_link,
)
from servesim.hardware.measure.ranks import OwnClock, Ranks

pytest.importorskip("torch")


def test_two_processes_run_every_collective_and_survive_an_unknown_one():
    with Ranks("torch", "cpu", 2, 1) as ranks:
        with pytest.raises(UnsupportedError, match="scatter is not measured"):
            ranks.seconds(CollectiveWork("scatter", 1024.0, 2))
        for operation in OPERATIONS:
            (call,) = ranks.calls(CollectiveWork(operation, 4096.0, 2))
            (seconds,) = OwnClock().seconds([call])
            assert 1e-7 < seconds < 10.0
        processes = ranks._processes
    assert not any(process.is_alive() for process in processes)


def test_ranks_that_cannot_start_say_why():
    with pytest.raises(UnsupportedError, match="KeyError: 'tpu'"):
        Ranks("torch", "tpu", 2, 1).__enter__()


def test_ranks_that_do_not_answer_are_not_waited_for_twice(monkeypatch):
    with Ranks("torch", "cpu", 2, 1) as ranks:
        monkeypatch.setattr("servesim.hardware.measure.ranks._ANSWER_S", 0.0)
        large = CollectiveWork("all_reduce", 4.0**12, 2)
        for _ in range(2):
            with pytest.raises(UnsupportedError, match="rank 0 does not answer"):
                ranks.seconds(large)
        monkeypatch.setattr("servesim.hardware.measure.ranks._ANSWER_S", 60.0)
        with pytest.raises(UnsupportedError, match="rank 0 does not answer"):
            ranks.seconds(large)


def test_a_message_needs_only_two_ranks():
    two, four = ([w.operation for w in group("cpu", n).works.values()] for n in (2, 4))
    assert "send" in two
    assert "send" not in four


SECONDS = {
    CollectiveWork("all_reduce", 1024.0, 2): 1e-5,
    CollectiveWork("all_reduce", 4096.0, 2): 2e-5,
    CollectiveWork("all_reduce", 1024.0, 4): 3e-5,
    CollectiveWork("all_reduce", 4096.0, 4): 4e-5,
    CollectiveWork("send", 4096.0, 2): 4.096e-6,
    CollectiveWork("send", 1024.0, 2): 3e-6,
    CollectiveWork("broadcast", 4096.0, 2): 1e-6,  # its smaller size failed
}


def test_the_table_is_what_simulate_reads(tmp_path):
    path = tmp_path / "table.toml"
    path.write_text(collective_text(SECONDS, "a test"))
    table = read_toml(path)["calibration"]["collective"]
    assert table["source"] == "a test"
    found = read_curves(table, "toy")
    assert set(found) == {"all_reduce", "send"}
    assert found["all_reduce"].at(2, 2560.0) == pytest.approx(1.5e-5)
    assert found["all_reduce"].at(4, 4096.0) == pytest.approx(4e-5)


def test_the_link_is_what_messages_show():
    link = peer_link(SECONDS)
    assert (link.bandwidth, link.latency) == (pytest.approx(1e9), 3e-6)
    assert peer_link({}) is None
    assert collective_text({}, "a test") == ""


def test_curves_ascend():
    assert curves(SECONDS)["send", 2] == [(1024.0, 3e-6), (4096.0, 4.096e-6)]
