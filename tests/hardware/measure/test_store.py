import pytest

from servesim.errors import InputError
from servesim.hardware.measure.store import Store

HEADER = {"machine": "toy", "versions": {"torch": "1"}}


def test_rounds_survive(tmp_path):
    path = tmp_path / "deep" / "kernels.jsonl"
    with Store(path, HEADER) as store:
        store.add("a", 1.0)
        store.add("b", 2.0)
        store.add("a", 3.0)
    with Store(path, HEADER) as again:
        assert again.rounds == {"a": [1.0, 3.0], "b": [2.0]}


def test_a_line_cut_off_by_a_kill_is_dropped_and_the_file_goes_on(tmp_path):
    path = tmp_path / "kernels.jsonl"
    with Store(path, HEADER) as store:
        store.add("a", 1.0)
    whole = path.read_text()
    path.write_text(whole + '{"kernel": "b", "sec')
    with Store(path, HEADER) as again:
        assert again.rounds == {"a": [1.0]}
        again.add("b", 2.0)
    assert path.read_text() == whole + '{"kernel": "b", "seconds": 2.0}\n'


def test_another_version_is_refused_by_name_and_value(tmp_path):
    path = tmp_path / "kernels.jsonl"
    Store(path, HEADER).__exit__(None, None, None)
    with pytest.raises(InputError, match=r"versions was \{'torch': '1'\}, is \{'torch': '2'\}"):
        Store(path, HEADER | {"versions": {"torch": "2"}})


def test_a_damaged_file_is_refused(tmp_path):
    path = tmp_path / "kernels.jsonl"
    with Store(path, HEADER) as store:
        store.add("a", 1.0)
    path.write_text(path.read_text().replace('"seconds"', "seconds"))
    with pytest.raises(InputError, match="damaged"):
        Store(path, HEADER)
