"""Speculative decoding: tokens a step against the closed form, and what must not change."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from runtime_runs import SLOW, Given, everything, request, run

from servesim.errors import InputError, UnknownNameError
from servesim.graph.batch import BatchShape
from servesim.graph.ops.attention import Attention
from servesim.runtime.cluster import simulate
from servesim.runtime.config import EngineConfig
from servesim.runtime.instance import Instance
from servesim.runtime.records import Status
from servesim.runtime.request import RequestSpec
from servesim.runtime.speculation import Speculation
from servesim.runtime.step import LinearStepModel


def speculating(requests: list[RequestSpec], **options: object) -> object:
    spec = {"method": "ngram_gpu", "num_speculative_tokens": 3, "acceptance_rate": 0.7}
    own = [key for key in options if key in Speculation.__slots__ and key != "model"]
    more = {key: options.pop(key) for key in own}
    if more.get("method") == "draft_model":
        more["model"] = "tiny"
    return run(requests, speculative_config={**spec, **more}, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("rate", [0.0, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("drafts", [1, 4])
def test_tokens_a_step_are_those_of_the_closed_form(rate: float, drafts: int) -> None:
    given_ = {"acceptance_rate": rate, "num_speculative_tokens": drafts}
    records = speculating([request(i, 0, 4, 2001) for i in range(4)], **given_)
    steps = records.instances[0].steps  # type: ignore[attr-defined]
    mean = 1 + steps.column("extra_tokens").sum() / steps.column("decodes").sum()
    expected = drafts + 1 if rate == 1 else (1 - rate ** (drafts + 1)) / (1 - rate)
    assert mean == pytest.approx(expected, rel=0.03)


def test_a_rate_for_each_position_and_steps_without_a_draft() -> None:
    records = speculating(
        [request(i, 0, 4, 3001) for i in range(4)],
        num_speculative_tokens=2, acceptance_rate=(0.8, 0.5), proposal_rate=0.5,
    )  # fmt: skip
    steps = records.instances[0].steps  # type: ignore[attr-defined]
    mean = 1 + steps.column("extra_tokens").sum() / steps.column("decodes").sum()
    assert mean == pytest.approx(1 + 0.5 * (0.8 + 0.4), rel=0.03)


def test_time_by_hand() -> None:
    # All drafts right: 1 token of the prompt's step, then 4 a step: 9 tokens in 3 steps.
    model = LinearStepModel(base_s=1.0, per_token_s=0.1)
    records = speculating([request(0, 0, 5, 9)], acceptance_rate=1.0, model=model)
    assert records.requests.finished_s[0] == pytest.approx(1.5 + 2 * 1.4)  # type: ignore[attr-defined]
    steps = records.instances[0].steps  # type: ignore[attr-defined]
    assert len(steps) == 3
    assert list(steps.extra_tokens) == [0, 3, 3]


def test_gaps_are_all_there() -> None:
    requests = [request(i, 0.3 * i, 30 + i, 5 + i) for i in range(20)]
    records = speculating(requests)
    gaps = records.instances[0].steps.gaps()  # type: ignore[attr-defined]
    columns = records.requests  # type: ignore[attr-defined]
    decoding = columns.column("finished_s") - columns.column("first_token_s")
    assert gaps.values @ gaps.weights == pytest.approx(decoding.sum())
    assert gaps.weights.sum() == sum(spec.output_tokens - 1 for spec in requests)


lengths = st.lists(
    st.tuples(st.integers(0, 20), st.integers(1, 90), st.integers(1, 30)), min_size=1, max_size=12
)


@settings(max_examples=60, deadline=None)
@given(lengths, st.integers(9, 40), st.booleans(), st.booleans(), st.integers(1, 7))
def test_all_finish(
    given_: list[tuple[int, int, int]], blocks: int, caching: bool, ahead: bool, drafts: int
) -> None:
    requests = [
        request(i, at / 4, prompt, output)
        for i, (at, prompt, output) in enumerate(sorted(given_, key=lambda x: x[0]))
    ]
    options = {
        "blocks": blocks, "enable_prefix_caching": caching, "async_scheduling": ahead,
        "num_speculative_tokens": drafts,
    }  # fmt: skip
    records = speculating(requests, **options)
    assert records.requests.count(Status.FINISHED) == len(requests)  # type: ignore[attr-defined]


@settings(max_examples=30, deadline=None)
@given(lengths, st.booleans())
def test_drafts_that_are_never_right_change_no_decision(
    given_: list[tuple[int, int, int]], ahead: bool
) -> None:
    requests = [
        request(i, at / 4, prompt, output)
        for i, (at, prompt, output) in enumerate(sorted(given_, key=lambda x: x[0]))
    ]
    steady = LinearStepModel(base_s=1.0)
    options = {
        "blocks": 1000,
        "max_num_batched_tokens": 2000,
        "async_scheduling": ahead,
        "model": steady,
    }
    without = run(requests, **options)  # type: ignore[arg-type]
    wrong = speculating(requests, acceptance_rate=0.0, **options)
    for name in ("first_token_s", "finished_s"):
        assert list(without.requests.column(name)) == list(wrong.requests.column(name))  # type: ignore[attr-defined]


def test_drafts_are_tokens_and_rows_but_no_sequences_of_keys() -> None:
    batch = BatchShape((), 4, 400, 100, np.full(4, 100), drafts=3)
    assert batch.tokens == batch.sequences == 16
    attention = Attention(32, 8, 128, 128)
    plain = attention.work(BatchShape((), 4, 400, 100), "")
    work = attention.work(batch, "")
    assert work.decode_keys == plain.decode_keys
    assert work.flops == 4 * plain.flops


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"method": "oracle"}, UnknownNameError, "oracle"),
        ({"num_speculative_tokens": 0}, InputError, "at least 1"),
        ({"acceptance_rate": 1.5}, InputError, "in \\[0, 1\\]"),
        ({"acceptance_rate": [0.5]}, InputError, "1 positions"),
        ({"method": "draft_model"}, InputError, "needs a model"),
        ({"tokens": 3}, UnknownNameError, "tokens"),
        ({"num_speculative_tokens": 2048}, InputError, "leaves no room"),
    ],
)
def test_bad_options_are_refused(
    options: dict[str, object], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        EngineConfig(speculative_config=options)


def test_off_by_default() -> None:
    assert EngineConfig().speculation is None
    assert run([request(0, 0, 5, 9)], model=SLOW).instances[0].steps.extra_tokens[-1] == 0


def test_a_step_costs_the_drafts_there_are() -> None:
    # No draft at all: a step of two sequences has one token each.
    model = LinearStepModel(base_s=1.0, per_token_s=0.1)
    options = {"method": "ngram", "proposal_rate": 0.0, "num_speculative_tokens": 5}
    records = speculating([request(0, 0, 5, 2), request(1, 0, 5, 2)], model=model, **options)
    assert records.requests.finished_s[0] == pytest.approx(2.0 + 1.2)  # type: ignore[attr-defined]


def test_each_replica_draws_from_a_stream_of_its_own() -> None:
    config = EngineConfig(speculative_config={"method": "ngram_gpu", "num_speculative_tokens": 3})
    engines = [Instance(config, SLOW, 1000, name=name) for name in ("one", "other")]
    twins = [request(i, 0, 5, 200) for i in range(2)]
    both, again = (simulate(Given(twins), engines) for _ in range(2))
    ends = both.requests.column("finished_s")
    assert ends[0] != ends[1]
    assert list(ends) == list(again.requests.column("finished_s"))
    # The first draws as if it were alone.
    alone = simulate(Given(twins[:1]), engines[1:])
    assert ends[0] == alone.requests.finished_s[0]


@settings(max_examples=80, deadline=None)
@given(
    lengths,
    st.sampled_from([12, 40, 400]),
    st.booleans(),
    st.sampled_from(["ngram", "ngram_gpu", "eagle", "draft_model"]),
    st.sampled_from([(8, 64), (3, 64), (8, 20)]),
)
def test_drafts_served_together_are_those_served_one_by_one(
    given_: list[tuple[int, int, int]],
    blocks: int,
    caching: bool,
    method: str,
    limits: tuple[int, int],
) -> None:
    requests = [
        request(
            i, at / 4, prompt, output,
            prefix_block_ids=tuple(range(prompt // 4)) if i % 2 else (), prefix_block_size=4,
        )
        for i, (at, prompt, output) in enumerate(sorted(given_))
    ]  # fmt: skip
    sequences, tokens = limits
    together, one_by_one = (
        speculating(
            requests, method=method, visit_all=visit_all, blocks=blocks, block_size=4,
            max_num_seqs=sequences, max_num_batched_tokens=tokens, max_model_len=140,
            enable_prefix_caching=caching, async_scheduling=method != "ngram",
            proposal_rate=0.6 if method == "ngram" else 1.0,
        )
        for visit_all in (False, True)
    )  # fmt: skip
    assert everything(together) == everything(one_by_one)  # type: ignore[arg-type]
