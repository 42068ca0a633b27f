"""Flags generated from dataclasses."""

from __future__ import annotations

import argparse
import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest

from servesim.cli.commands import simulate
from servesim.cli.flags import add_flags, attribute_texts, given
from servesim.runtime.config import EngineConfig


@dataclass(frozen=True)
class Options:
    """Some options.

    Attributes:
        seats: how many there are,
            counted from one.
        low, high: between these; 100% of them.

    Raises:
        ValueError: never.
    """

    seats: int = 3
    low: float | None = None
    high: float | None = None
    fast: bool = True
    policy: Literal["a", "b"] = "a"
    folder: Path | None = None


def parsed(*words: str) -> dict[str, object]:
    parser = argparse.ArgumentParser()
    add_flags(parser, Options, "some", "some options")
    return given(parser.parse_args(words)).get("some", {})


def test_only_given_flags_leave_a_value() -> None:
    assert parsed() == {}
    assert parsed("--seats", "4", "--no-fast", "--policy", "b", "--low", "1") == {
        "seats": 4,
        "fast": False,
        "policy": "b",
        "low": 1.0,
    }


@pytest.mark.parametrize(("text", "tokens"), [("8192", 8192), ("8k", 8000), ("128K", 131072)])
def test_sizes_are_spelled_as_in_vllm(text: str, tokens: int) -> None:
    assert parsed("--seats", text) == {"seats": tokens}


@pytest.mark.parametrize("text", ["8x", "K", "1.5k", ""])
def test_other_spellings_of_sizes_are_refused(
    text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        parsed("--seats", text)
    assert "must be a whole number" in capsys.readouterr().err


def test_tables_are_given_as_json() -> None:
    parser = argparse.ArgumentParser()
    simulate.add_arguments(parser)
    given_ = parser.parse_args(["--speculative-config", '{"num_speculative_tokens": 2}'])
    assert given(given_)["engine"] == {"speculative_config": {"num_speculative_tokens": 2}}
    for text in ("{", "3"):
        with pytest.raises(SystemExit):
            parser.parse_args(["--speculative-config", text])


def test_texts_come_from_the_docstring() -> None:
    texts = attribute_texts(Options)
    assert texts["seats"] == "how many there are, counted from one."
    assert texts["low"] == texts["high"] == "between these; 100% of them."
    assert "ValueError" not in texts


def test_every_engine_option_is_a_flag_with_a_text() -> None:
    parser = argparse.ArgumentParser()
    simulate.add_arguments(parser)
    flags = {flag: action.help for action in parser._actions for flag in action.option_strings}
    for field in dataclasses.fields(EngineConfig):
        assert flags[f"--{field.name.replace('_', '-')}"]
