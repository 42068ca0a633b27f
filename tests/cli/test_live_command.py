"""``servesim validate live``: what is refused before anything is recorded, and what is recorded."""

from __future__ import annotations

from pathlib import Path

import pytest

from servesim.cli.commands_validate import live
from servesim.cli.main import main


@pytest.mark.parametrize(
    ("more", "complaint"),
    [
        ((), "give --out DIR"),
        (("--data", "nothing"), "no recorded runs (ARCHITECTURE/LOAD/N.json.gz) in nothing"),
        (("--out", "file"), "file: File exists"),
        (("--out", "new", "--repeats", "0"), "--repeats: must be a whole number, at least 1"),
        (("--out", "new", "--seconds", "nan"), "--seconds: must be a number above 0, not 'nan'"),
        (("--out", "new", "--load", "lite"), "did you mean 'light'"),
        (("--out", "new", "--model", "dense"), "did you mean 'dense-gqa'"),
        (("--out", "new", "--hardware", "h100_smx"), "did you mean 'h100_sxm'"),
        (("--out", "new", "--hardware", "missing.toml"), "missing.toml"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_recorded(
    more: tuple[str, ...],
    complaint: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("", encoding="utf-8")
    assert main(["validate", "live", *more]) == 2
    said = capsys.readouterr().err
    assert complaint in said
    assert said.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_only_loads_without_recordings_are_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = tmp_path / "dense-gqa" / "light" / "1.json.gz"
    done.parent.mkdir(parents=True)
    done.touch()
    asked: list[str] = []

    def record(architecture: object, campaign: live.Campaign, *_: object) -> None:
        asked.extend(load.name for load in campaign.loads)

    monkeypatch.setattr(live, "record", record)
    monkeypatch.setattr(live, "_print", lambda *_: None)
    command = ["validate", "live", "--out", str(tmp_path), "--hardware", "h100_sxm"]
    command += ["--model", "dense-gqa", "--repeats", "1", "--load"]
    assert main([*command, "light"]) == 0
    assert asked == []
    assert main([*command, "busy"]) == 0
    assert asked == ["busy"]
