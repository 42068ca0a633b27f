"""Recorded traffic: what readers make of a file, and what they refuse."""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from servesim.errors import InputError
from servesim.runtime.prefix_statistics import Shape, TraceStatistics, shapes, statistics
from servesim.runtime.request import RequestSpec
from servesim.runtime.workloads import WORKLOADS

TRACES = Path(__file__).parents[3] / "shared" / "traces"

AZURE = "TIMESTAMP,ContextTokens,GeneratedTokens\n"
BURSTGPT = "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n"


def mooncake(timestamp: float, prompt: int, output: int, *ids: int) -> str:
    row = {"timestamp": timestamp, "input_length": prompt, "output_length": output}
    return json.dumps({**row, "hash_ids": ids}) + "\n"


def gmi(timestamp: object, prompt: int, *ids: int) -> str:
    row = {"timestamp": timestamp, "input_length": prompt, "output_length": 9, "hash_ids": ids}
    return json.dumps(row) + "\n"


#: Two or three good rows of each kind.
FILES: dict[str, str] = {
    "mooncake": mooncake(0, 1100, 5, 0, 1, 2) + mooncake(1500, 1024, 7, 0, 3),
    "gmi": gmi("1000000000", 70, 5, 8, 5) + gmi("3500000000", 70, 5, 9, 5),
    "azure": AZURE + "2023-11-16 18:17:03.9799600,4808,10\n2023-11-16 18:17:04.0319600,3180,8\n",
    "burstgpt": BURSTGPT
    + "5,ChatGPT,472,18,490,Conversation log\n45,GPT-4,30,0,30,API log\n"
    + "118,GPT-4,1087,230,1317,API log\n",
    "jsonl": '{"arrival_s": 0, "prompt_tokens": 3, "output_tokens": 2}\n' * 2,
}


def read(tmp_path: Path, kind: str, text: str, **options: Any) -> list[RequestSpec]:
    path = tmp_path / "trace"
    path.write_text(text)
    workload = WORKLOADS.build(kind, {"path": path, **options})
    entries: list[RequestSpec] = workload.entries()  # type: ignore[attr-defined]
    return entries


def test_mooncake_counts_milliseconds_and_full_blocks(tmp_path: Path) -> None:
    first, second = read(tmp_path, "mooncake", FILES["mooncake"])
    assert first == RequestSpec(0, 0.0, 1100, 5, (0, 1), 512)
    assert second == RequestSpec(1, 1.5, 1024, 7, (0, 3), 512)


def test_gmi_pieces_count_from_the_start_on(tmp_path: Path) -> None:
    first, second = read(tmp_path, "gmi", FILES["gmi"])
    assert (first.arrival_s, second.arrival_s) == (0.0, 2.5)
    assert first.prefix_block_ids == (0, 1)  # 70 tokens have two pieces of 32
    assert second.prefix_block_ids == (0, 2)


@pytest.mark.parametrize("zone", ["", "+00:00"])
def test_azure_dates_of_both_years(tmp_path: Path, zone: str) -> None:
    rows = f"2024-05-10 23:59:59.5{zone},7,3\n2024-05-11 00:00:01{zone},9,0\n"
    rows += f"2024-05-11 00:00:02.25{zone},8,4\n"
    requests = read(tmp_path, "azure", AZURE + rows)
    assert requests == [RequestSpec(0, 0.0, 7, 3), RequestSpec(1, 2.75, 8, 4)]


def test_burstgpt_leaves_failures_out_and_filters(tmp_path: Path) -> None:
    text = FILES["burstgpt"]
    assert [r.arrival_s for r in read(tmp_path, "burstgpt", text)] == [0.0, 113.0]
    assert [r.prompt_tokens for r in read(tmp_path, "burstgpt", text, log="api")] == [1087]
    assert [r.prompt_tokens for r in read(tmp_path, "burstgpt", text, model="ChatGPT")] == [472]


@pytest.mark.parametrize(
    ("kind", "line", "text", "message"),
    [
        ("mooncake", 3, mooncake(1400, 512, 1, 0), "1.4 is before that above, 1.5"),
        ("mooncake", 3, mooncake(-1, 512, 1, 0), "timestamp must not be negative, not -1"),
        ("mooncake", 3, mooncake(2000, 512, 1, 5), "hash id 5 leaves a gap: .* end at 3"),
        ("mooncake", 3, mooncake(2000, 513, 1, 0), "1 hash_ids for 513 tokens in blocks of 512"),
        ("mooncake", 3, '{"timestamps": 1}', "unknown field 'timestamps'; .* 'timestamp'"),
        ("mooncake", 3, '{"timestamp": 2000}', "input_length is missing"),
        ("gmi", 3, gmi("3400000000", 70, 1), "2.4 is before that above, 2.5"),
        ("gmi", 3, gmi("-1", 70, 1), "timestamp must be a text of nanoseconds, not '-1'"),
        ("gmi", 3, gmi("999999999", 70, 1), "s before that of the first"),
        ("azure", 4, "yesterday,1,1\n", "TIMESTAMP must be a date and time, not 'yesterday'"),
        ("azure", 4, "2023-11-16 18:17:04.0319600,3180\n", "2 values for 3 columns"),
        ("azure", 4, "2023-11-16 18:17:05,3180,-8\n", "output_tokens must be at least 1, not -8"),
        ("azure", 4, "2023-11-16 18:17:05,3.5,8\n", "ContextTokens must be a whole number"),
        ("burstgpt", 5, "117,GPT-4,1,1,2,API log\n", "112.0 is before that above, 113.0"),
        ("burstgpt", 5, "119,GPT-4,1,1,3,API log\n", r"Total tokens 3 is not 1 \+ 1"),
        ("jsonl", 3, '{"arrival_s": -1, "prompt_tokens": 1, "output_tokens": 1}', "negative"),
    ],
)
def test_a_wrong_row_is_named_with_file_and_line(
    tmp_path: Path, kind: str, line: int, text: str, message: str
) -> None:
    with pytest.raises(InputError, match=message) as caught:
        read(tmp_path, kind, FILES[kind] + text)
    assert f"trace:{line}: " in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("TIMESTAMP,ContextToken,GeneratedTokens\n", "did you mean 'ContextTokens'"),
        ("TIMESTAMP,ContextTokens\n", "column 'GeneratedTokens' is missing"),
    ],
)
def test_a_wrong_header_is_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        read(tmp_path, "azure", text)
    assert "trace:1: " in str(caught.value)


@pytest.mark.parametrize("kind", sorted(FILES))
def test_nothing_comes_from_half_a_file(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "trace.gz"
    packed = gzip.compress(FILES[kind].encode())
    path.write_bytes(packed)
    workload = WORKLOADS.build(kind, {"path": path, "max_requests": 1})
    assert workload.source().total == 1
    for damaged in (packed[:-9], packed[:10] + b"\xff" + packed[11:]):
        path.write_bytes(damaged)
        with pytest.raises(InputError, match=r"cannot read .*trace\.gz") as caught:
            workload.source()
        assert "\n" not in str(caught.value)


def test_windows_rates_and_samples(tmp_path: Path) -> None:
    text = "".join(mooncake(1000 * i, 10, 1, 0) for i in range(1000))
    window = read(tmp_path, "mooncake", text, start_s=100, end_s=110, rate_scale=2.0)
    assert [r.arrival_s for r in window] == [i / 2 for i in range(10)]
    assert [r.id for r in window] == list(range(100, 110))
    some = read(tmp_path, "mooncake", text, sample=0.3, seed=5)
    assert 240 < len(some) < 360
    assert some == read(tmp_path, "mooncake", text, sample=0.3, seed=5)
    assert some != read(tmp_path, "mooncake", text, sample=0.3, seed=6)
    assert read(tmp_path, "mooncake", text, sample=0.3, seed=5, max_requests=7) == some[:7]
    with pytest.raises(InputError, match="none of its 1000 requests is left"):
        read(tmp_path, "mooncake", text, start_s=5000)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rate_scale": 0}, "rate_scale must be above 0, not 0"),
        ({"sample": 1.5}, r"sample must be in \(0, 1\], not 1.5"),
        ({"start_s": -1}, "start_s must not be negative"),
        ({"start_s": 5, "end_s": 5}, "end_s 5 must be after start_s 5"),
        ({"max_requests": 0}, "max_requests must be above 0"),
    ],
)
def test_selections_refused(options: Mapping[str, float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        WORKLOADS.build("mooncake", {"path": Path("any"), **options})


def test_shapes_of_shared_contexts_by_hand() -> None:
    requests = [
        RequestSpec(0, 0.0, 40, 5, (1, 2)),
        RequestSpec(1, 1.0, 33, 6, (3, 4)),
        RequestSpec(2, 3.0, 50, 7, (1, 2, 5)),
        RequestSpec(3, 4.0, 32, 8, (1, 2)),  # its last token must be computed: one block counts
    ]
    found = shapes(requests)
    assert found[2:] == [Shape(50, 7, 32, 2), Shape(32, 8, 16, 1)]
    measured = statistics(requests)
    assert measured.rate == pytest.approx(3 / 4)
    assert measured.reuse == pytest.approx(48 / 155)
    assert measured.mean_lag == 1.5
    assert measured.burstiness == pytest.approx(8.0)  # gaps 1, 2, 1: mean 4/3, variance 2/9


def resampled(**options: Any) -> list[RequestSpec]:
    source = WORKLOADS.build("resampled", options).source()
    requests = []
    while source.next_s() is not None:
        requests.append(source.take())
    assert source.total == len(requests)
    return requests


def test_traffic_drawn_again_has_the_statistics_of_its_trace(tmp_path: Path) -> None:
    path = TRACES / "mooncake_conversation_trace.jsonl.gz"
    if not path.is_file():
        pytest.skip(f"no {path.name}")
    trace = {"kind": "mooncake", "path": path}
    recorded = statistics(WORKLOADS.build("mooncake", {"path": path}).entries())  # type: ignore[attr-defined]
    drawn = statistics(resampled(trace=trace, seed=2))
    names = TraceStatistics.__dataclass_fields__
    off = {name: getattr(drawn, name) / getattr(recorded, name) - 1 for name in names}
    assert all(abs(error) < 0.15 for error in off.values()), off
    assert abs(drawn.reuse - recorded.reuse) < 0.01
    faster = statistics(resampled(trace=trace, rate=10.0, burstiness=1.0, num_requests=5000))
    assert faster.rate == pytest.approx(10.0, rel=0.05)
    assert faster.burstiness == pytest.approx(1.0, rel=0.1)


def test_a_trace_to_resample_must_be_one_of_requests(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="trace needs a kind"):
        WORKLOADS.build("resampled", {"trace": {"path": "x"}})
    with pytest.raises(InputError, match="poisson is no recorded workload"):
        resampled(trace={"kind": "poisson"})
    path = tmp_path / "trace"
    path.write_text(mooncake(0, 5, 1, 0))
    with pytest.raises(InputError, match="requests at two times"):
        resampled(trace={"kind": "mooncake", "path": path})


@pytest.mark.parametrize(
    ("kind", "name", "requests"),
    [
        ("mooncake", "mooncake_conversation_trace.jsonl.gz", 12_031),
        ("mooncake", "mooncake_synthetic_trace.jsonl.gz", 3_993),
        ("gmi", "lmbench_gmi_trace.jsonl.gz", 1_931),
        ("azure", "azure2023_conv.csv.gz", 19_366),
        ("azure", "azure2023_code.csv.gz", 8_819),
    ],
)
def test_published_traces_are_read_whole(kind: str, name: str, requests: int) -> None:
    if not (TRACES / name).is_file():
        pytest.skip(f"no {name}")
    assert WORKLOADS.build(kind, {"path": TRACES / name}).source().total == requests
