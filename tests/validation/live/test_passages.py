"""What a server adds, from a client's stamps and its engine's."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from servesim.errors import InputError
from servesim.validation.live.passages import fit_front_end, passages


def _files(folder: Path, *, gap_s: float = 1.0) -> tuple[Path, Path]:
    """Nine requests, ``gap_s`` apart: 2 ms and 1 us a token to the engine, 10 ms of step, 1 ms."""
    lengths = [100 * (i + 1) for i in range(9)]
    starts = [10.0 + gap_s * i for i in range(9)]
    lines: list[dict[str, object]] = [{"kind": "engine"}]
    free = 0.0
    for i, (start, tokens) in enumerate(zip(starts, lengths, strict=True)):
        taken = max(start + 0.002 + 1e-6 * tokens, free)
        lines.append({"kind": "queued", "id": f"r{i}", "s": taken})
        free = taken + 0.010
        rows = [[f"r{i}", 0, tokens]]
        lines.append({"kind": "step", "start": taken + 1e-5, "end": free, "scheduled": rows})
    ends = [float(str(line["end"])) for line in lines if line["kind"] == "step"]
    ttfts = [end + 0.001 - start for end, start in zip(ends, starts, strict=True)]
    result, record = folder / "result.json", folder / "record"
    seen = {"start_times": starts, "ttfts": ttfts, "input_lens": lengths}
    result.write_text(json.dumps(seen), encoding="utf-8")
    record.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return result, record


def test_the_passage_is_found_again(tmp_path: Path) -> None:
    found = fit_front_end(passages(*_files(tmp_path)))
    assert found.request_s == pytest.approx(0.002)
    assert found.prompt_token_s == pytest.approx(1e-6)
    assert found.response_s == pytest.approx(0.001)


def test_requests_that_waited_for_a_step_are_left_out(tmp_path: Path) -> None:
    assert len(passages(*_files(tmp_path, gap_s=0.005))) == 1


def test_too_few_requests_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="requests of different lengths"):
        fit_front_end(passages(*_files(tmp_path))[:3])


def test_a_result_without_details_is_refused(tmp_path: Path) -> None:
    result, record = _files(tmp_path)
    result.write_text("{}", encoding="utf-8")
    with pytest.raises(InputError, match="--save-detailed"):
        passages(result, record)
