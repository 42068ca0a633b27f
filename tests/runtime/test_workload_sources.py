"""Workloads: generated ones, files, and what they refuse."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from servesim.errors import InputError, ServesimError
from servesim.runtime.lengths import LENGTHS, lengths
from servesim.runtime.request import RequestSpec
from servesim.runtime.workloads import WORKLOADS, Workload
from servesim.runtime.workloads.jsonl import JsonLines

GENERATED = ("burst", "closed_loop", "fixed_rate", "poisson")
GOOD = {"arrival_s": 0.5, "prompt_tokens": 40, "output_tokens": 3}


def drawn(workload: Workload) -> list[RequestSpec]:
    """All requests of a workload, each answered at once."""
    source, requests = workload.source(), []
    while source.next_s() is not None:
        requests.append(spec := source.take())
        source.finished(spec, spec.arrival_s)
    return requests


@pytest.mark.parametrize("name", GENERATED)
def test_every_generated_workload_is_whole_ordered_and_repeatable(name: str) -> None:
    options = {"num_requests": 50, "prompt_tokens": "uniform:low=10,high=99", "seed": 3}
    workload = WORKLOADS.build(name, options)
    requests = drawn(workload)
    assert workload.source().total == len(requests) == 50
    assert [spec.id for spec in requests] == list(range(50))
    times = [spec.arrival_s for spec in requests]
    assert times == sorted(times)
    assert requests == drawn(workload)
    assert requests != drawn(WORKLOADS.build(name, {**options, "seed": 4}))


@pytest.mark.parametrize("name", GENERATED)
def test_seeds_change_one_thing_at_a_time(name: str) -> None:
    short = drawn(
        WORKLOADS.build(name, {"prompt_tokens": 10, "output_tokens": "uniform:low=1,high=9"})
    )
    long = drawn(
        WORKLOADS.build(name, {"prompt_tokens": 99, "output_tokens": "uniform:low=1,high=9"})
    )
    assert [spec.output_tokens for spec in short] == [spec.output_tokens for spec in long]
    assert [spec.arrival_s for spec in short] == [spec.arrival_s for spec in long]


def test_poisson_arrivals_have_their_rate_and_spread() -> None:
    for burstiness in (0.5, 1.0, 4.0):
        workload = WORKLOADS.build(
            "poisson", {"num_requests": 20_000, "rate": 5.0, "burstiness": burstiness}
        )
        gaps = np.diff([spec.arrival_s for spec in drawn(workload)])
        assert gaps.mean() == pytest.approx(0.2, rel=0.03)
        assert gaps.std() / gaps.mean() == pytest.approx(burstiness**-0.5, rel=0.03)


def test_fixed_rate_and_bursts_come_when_they_should() -> None:
    steady = drawn(WORKLOADS.build("fixed_rate", {"num_requests": 4, "rate": 2.0}))
    assert [spec.arrival_s for spec in steady] == [0, 0.5, 1.0, 1.5]
    bursts = {"num_requests": 5, "burst_size": 2, "interval_s": 3.0}
    assert [spec.arrival_s for spec in drawn(WORKLOADS.build("burst", bursts))] == [0, 0, 3, 3, 6]
    at_once = drawn(WORKLOADS.build("burst", {"num_requests": 5}))
    assert [spec.arrival_s for spec in at_once] == [0] * 5


def test_groups_share_whole_blocks_of_their_prefix() -> None:
    options = {
        "num_requests": 200,
        "prompt_tokens": "uniform:low=20,high=200",
        "prefix_groups": 3,
        "prefix_tokens": 100,
    }
    requests = drawn(WORKLOADS.build("poisson", options))
    prefixes: dict[int, tuple[int, ...]] = {}
    for spec in requests:
        ids = spec.prefix_block_ids
        assert len(ids) == min(100, spec.prompt_tokens) // 16
        longest = prefixes.setdefault(ids[0], ids)
        assert ids[: len(longest)] == longest[: len(ids)]
    assert len(prefixes) == 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prefix_tokens": 64}, "prefix_tokens needs prefix_groups"),
        ({"prefix_groups": 2}, "prefix_groups needs prefix_tokens"),
        (
            {"prefix_groups": 2, "prefix_tokens": 5000, "prompt_tokens": 100},
            "the shortest shared prefix, 5000 tokens, is longer than the longest prompt, 100",
        ),
        ({"prompt_tokens": 0}, "prompt_tokens: tokens must be above 0"),
    ],
)
def test_lengths_and_prefixes_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        drawn(WORKLOADS.build("poisson", options))


@pytest.mark.parametrize(
    ("option", "low", "mean", "high"),
    [
        (7, 7, 7, 7),
        ("7", 7, 7, 7),
        ("uniform:low=3,high=9", 3, 6, 9),
        ({"kind": "uniform", "low": 3, "high": 9}, 3, 6, 9),
        ("lognormal:mean=300,sigma=0.5", 1, 300, 10_000),
        # clipped: 24% at 10, 64% at 20, and the rest about 14
        ({"kind": "lognormal", "mean": 300, "sigma": 2, "low": 10, "high": 20}, 10, 16.9, 20),
        ({"kind": "empirical", "values": [1, 4, 7]}, 1, 4, 7),
    ],
)
def test_length_distributions(option: Any, low: int, mean: float, high: int) -> None:
    sample = lengths(option).sample(np.random.default_rng(0), 20_000)
    assert sample.dtype == np.int64
    assert low <= sample.min()
    assert sample.max() <= high
    assert sample.mean() == pytest.approx(mean, rel=0.03)


def test_lengths_from_a_column_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "lengths.csv.gz"
    path.write_bytes(gzip.compress(b"name,tokens\na,5\nb,6.0\n"))
    sample = lengths(f"empirical:path={path},column=tokens").sample(np.random.default_rng(0), 50)
    assert set(sample) == {5, 6}
    with pytest.raises(InputError, match=r"no column 'length'.*it has: name, tokens"):
        lengths(f"empirical:path={path},column=length").sample(np.random.default_rng(0), 1)
    packed = gzip.compress(b"tokens\n5\n-1\n")
    path.write_bytes(packed[:10] + b"\xff" + packed[11:])
    with pytest.raises(InputError, match=r"lengths.csv.gz"):
        lengths(f"empirical:path={path},column=tokens").sample(np.random.default_rng(0), 1)
    path.write_bytes(packed)
    with pytest.raises(InputError, match=r"lengths.csv.gz:3: .*not '-1'"):
        lengths(f"empirical:path={path},column=tokens").sample(np.random.default_rng(0), 1)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (0, "tokens must be above 0, not 0"),
        ("lognorml:mean=3", "did you mean 'lognormal'"),
        ("lognormal:mean", "'mean' is not name=value"),
        ("lognormal:mean=3,sigm=1", "unknown option .* 'sigm'; did you mean 'sigma'"),
        ("lognormal:sigma=1", "mean"),
        ("uniform:low=9,high=3", r"high \(3\) must not be below low \(9\)"),
        ({"mean": 3}, "need a kind"),
        ({"kind": "empirical"}, "either values or a path"),
        ({"kind": "empirical", "values": [3, 0]}, "above 0, not 0"),
        ({"kind": "empirical", "path": 3}, "path must be a path, not 3"),
        ({"kind": "empirical", "values": [10**20]}, "each length must be at most"),
        (10**20, "tokens must be at most 1000000000, not"),
        ({"kind": "uniform", "low": 1, "high": 10**20}, "high must be at most"),
        ({"kind": "uniform", "low": 1, "high": float("nan")}, "high must be an integer, not nan"),
        ({"kind": "fixed", "tokens": True}, "tokens must be an integer, not True"),
        ({"kind": "lognormal", "mean": "x"}, "mean must be a number, not 'x'"),
        ({"kind": "lognormal", "mean": 3, "sigma": 1e308}, "sigma must be from 0 to 10"),
    ],
)
def test_lengths_refused(option: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        lengths(option)


def test_every_length_distribution_is_tried_above() -> None:
    assert LENGTHS.names() == ("empirical", "fixed", "lognormal", "uniform")


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("poison", {}, "did you mean 'poisson'"),
        ("poisson", {"rat": 1}, "did you mean 'rate'"),
        ("poisson", {"rate": 0}, "rate must be above 0, not 0"),
        ("poisson", {"num_requests": 0}, "num_requests must be above 0"),
        ("poisson", {"prompt_tokens": -4}, "above 0, not -4"),
        ("poisson", {"seed": -1}, "seed must not be negative"),
        ("burst", {"burst_size": 0}, "burst_size must be at least 1"),
        ("closed_loop", {"concurrency": 0}, "concurrency must be above 0"),
        ("closed_loop", {"think_time_s": -1.0}, "think_time_s must not be negative"),
        ("jsonl", {}, "path"),
    ],
)
def test_options_refused(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        WORKLOADS.build(name, options)


def written(tmp_path: Path, *lines: object) -> Path:
    path = tmp_path / "trace.jsonl"
    path.write_text("\n".join(x if isinstance(x, str) else json.dumps(x) for x in lines))
    return path


def test_a_file_of_requests(tmp_path: Path) -> None:
    tokens = list(range(33))
    path = written(
        tmp_path,
        GOOD,
        "",
        {**GOOD, "arrival_s": 1, "id": 7, "priority": 2, "prefix_block_ids": [4, 5]},
    )
    first, second = JsonLines(path=path).entries()
    assert (first.id, first.arrival_s, first.prompt_tokens, first.output_tokens) == (0, 0.5, 40, 3)
    assert (second.id, second.priority, second.prefix_block_ids) == (7, 2, (4, 5))
    assert JsonLines(path=path, max_requests=1).entries() == [first]
    assert drawn(JsonLines(path=path)) == [first, second]
    path = written(
        tmp_path,
        {"arrival_s": 0, "output_tokens": 1, "prompt_token_ids": tokens},
        {**GOOD, "prompt_tokens": 33, "token_ids": [*tokens[:20], *tokens[:13]]},
    )
    first, second = JsonLines(path=path).entries()
    assert (first.prompt_tokens, first.prefix_block_ids) == (33, (0, 1))
    assert second.prefix_block_ids == (0, 2)


def test_a_file_packed_with_gzip(tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl.gz"
    path.write_bytes(gzip.compress(json.dumps(GOOD).encode()))
    assert len(JsonLines(path=path).entries()) == 1
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(InputError, match="cannot read"):
        JsonLines(path=path).entries()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "not JSON"),
        ("[1]", "not a JSON object"),
        ({**GOOD, "arrival": 1}, "unknown field 'arrival'; did you mean 'arrival_s'"),
        ({"arrival_s": 1, "prompt_tokens": 3}, "output_tokens is missing"),
        ({**GOOD, "prompt_tokens": -3}, "prompt_tokens must be at least 1, not -3"),
        ({**GOOD, "output_tokens": 0}, "output_tokens must be at least 1, not 0"),
        ({**GOOD, "output_tokens": 1.5}, "output_tokens must be a whole number, not 1.5"),
        ({**GOOD, "arrival_s": "1"}, "arrival_s must be a number, not '1'"),
        ({**GOOD, "arrival_s": 0.1}, "arrival_s 0.1 is before that above, 0.5"),
        ('{"arrival_s": NaN, "prompt_tokens": 4, "output_tokens": 3}', "not nan"),
        ({**GOOD, "prefix_block_ids": "1"}, "prefix_block_ids must be a list of whole numbers"),
        ({**GOOD, "prefix_block_ids": [-1]}, "start at 0, not -1"),
        ({**GOOD, "prefix_block_ids": [1, 2, 3]}, "do not fit a sequence of 43 tokens"),
        ({**GOOD, "prefix_block_ids": [1], "token_ids": [1]}, "give one of"),
        ({**GOOD, "token_ids": [1, 2]}, "prompt_tokens is 40, but there are 2 ids"),
        ({**GOOD, "prompt_tokens": 100}, "max_model_len is 100"),
    ],
)
def test_a_wrong_line_is_named_with_file_and_number(
    tmp_path: Path, line: object, message: str
) -> None:
    path = written(tmp_path, GOOD, GOOD, line, GOOD)
    with pytest.raises(InputError, match=message) as caught:
        JsonLines(path=path, max_model_len=100).source()
    assert f"{path}:3: " in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_empty_or_missing_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="has no requests"):
        JsonLines(path=written(tmp_path)).source()
    with pytest.raises(ServesimError, match=r"cannot read .*absent"):
        JsonLines(path=tmp_path / "absent").source()


def test_a_client_with_a_limit_holds_requests_back_until_there_is_room() -> None:
    options = {"num_requests": 4, "rate": 1.0, "seed": 1}
    free = drawn(WORKLOADS.build("poisson", options))
    source = WORKLOADS.build("poisson", {**options, "max_concurrency": 2}).source()
    first, second = source.take(), source.take()
    assert [first, second] == free[:2]
    assert source.next_s() is None  # both are unfinished
    late_s = free[3].arrival_s + 10.0
    source.finished(second, late_s)
    assert source.next_s() == late_s
    third = source.take()
    assert third.arrival_s == late_s and third.prompt_tokens == free[2].prompt_tokens
    assert source.next_s() is None
    source.finished(first, late_s + 1.0)
    source.finished(third, late_s + 2.0)
    assert source.take().arrival_s == late_s + 2.0 and source.next_s() is None
    early = WORKLOADS.build("poisson", {**options, "max_concurrency": 2}).source()
    early.finished(early.take(), free[0].arrival_s)
    assert early.next_s() == free[1].arrival_s  # room that nobody waits for delays nobody
    with pytest.raises(InputError, match="max_concurrency"):
        WORKLOADS.build("poisson", {"max_concurrency": 0})
