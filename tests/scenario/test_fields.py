"""Dataclasses from tables: types are checked, unknown keys named, paths resolved."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest

from servesim.errors import InputError, UnknownNameError
from servesim.fields import NameOrPath, checked_table, replaced


@dataclass(frozen=True)
class Options:
    seats: int = 1
    share: float | None = None
    fast: bool = False
    policy: Literal["fcfs", "priority"] = "fcfs"
    folder: Path | None = None
    model: NameOrPath = ""
    sizes: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.seats < 1:
            raise ValueError(f"seats must be at least 1, not {self.seats}")


def updated(spec: Options, table: dict[str, object], section: str, base: Path) -> Options:
    return replaced(spec, checked_table(Options, table, section, base), section)


def test_values_replace_and_all_else_stays() -> None:
    got = updated(Options(seats=3), {"share": 1, "sizes": [1, 2]}, "[x]", Path())
    assert got == Options(seats=3, share=1.0, sizes=(1, 2))
    assert isinstance(got.share, float)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"seats": "many"}, "[x] seats must be an integer, not 'many'"),
        ({"seats": True}, "[x] seats must be an integer, not True"),
        ({"seats": 1.5}, "[x] seats must be an integer, not 1.5"),
        ({"fast": 1}, "[x] fast must be true or false, not 1"),
        ({"policy": "lifo"}, "[x] policy must be one of 'fcfs', 'priority', not 'lifo'"),
        ({"folder": 3}, "[x] folder must be a path, not 3"),
        ({"seats": 0}, "[x]: seats must be at least 1, not 0"),
    ],
)
def test_refused_values(table: dict[str, object], message: str) -> None:
    with pytest.raises(InputError) as caught:
        updated(Options(), table, "[x]", Path())
    assert str(caught.value) == message


def test_unknown_keys_name_the_nearest() -> None:
    with pytest.raises(
        UnknownNameError, match=r"unknown key in \[x\] 'seat'.*did you mean 'seats'"
    ):
        updated(Options(), {"seat": 1}, "[x]", Path())


def test_paths_are_relative_to_the_base(tmp_path: Path) -> None:
    (tmp_path / "org" / "model").mkdir(parents=True)
    assert updated(Options(), {"folder": "a/b"}, "[x]", tmp_path).folder == tmp_path / "a/b"
    assert updated(Options(), {"folder": "/a/b"}, "[x]", tmp_path).folder == Path("/a/b")
    for text, expected in [
        ("./config.json", tmp_path / "config.json"),
        ("org/model", tmp_path / "org/model"),
        ("org/other", "org/other"),
        ("h100_sxm", "h100_sxm"),
    ]:
        assert updated(Options(), {"model": text}, "[x]", tmp_path).model == str(expected)
