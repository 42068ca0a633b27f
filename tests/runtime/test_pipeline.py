"""Pipelines against closed forms: stages of known times, batches in flight."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from runtime_runs import Given, everything, request

from servesim.errors import InputError
from servesim.runtime.cluster import simulate
from servesim.runtime.config import EngineConfig
from servesim.runtime.engine import Engine
from servesim.runtime.instance import EngineOptions, Instance
from servesim.runtime.parallel.pipeline import PipelineEngine
from servesim.runtime.parallel.stages import StagedStepModel
from servesim.runtime.records import Records, RequestRecords, Status
from servesim.runtime.request import RequestSpec
from servesim.runtime.step import LinearStepModel

T = 0.5


def pipeline(stages: int, hop: float = 0.0, blocks: int = 10_000, **config: object) -> Instance:
    given_ = {"max_num_seqs": 8, "max_num_batched_tokens": 64, **config}
    model = StagedStepModel((LinearStepModel(base_s=T),) * stages, lambda tokens: hop)
    return Instance(EngineConfig(**given_), model, blocks)  # type: ignore[arg-type]


def run(requests: list[RequestSpec], instance: Instance, visit_all: bool = False) -> Records:
    options = EngineOptions(visit_all=visit_all)
    return simulate(Given(requests), [instance], options=options)


@pytest.mark.parametrize("stages", [1, 2, 4])
def test_a_single_batch_takes_every_stage_in_turn(stages: int) -> None:
    # One request: prompt and 9 further tokens, each through all stages: bubbles (p-1)/p.
    records = run([request(0, 0.0, 5, 10)], pipeline(stages, hop=0.1))
    step = stages * T + (stages - 1) * 0.1
    assert records.requests.first_token_s[0] == pytest.approx(step)
    assert records.requests.finished_s[0] == pytest.approx(10 * step)


@pytest.mark.parametrize("stages", [2, 3, 4])
def test_many_batches_in_flight_come_out_one_a_stage_time(stages: int) -> None:
    # Prompts as long as a step: each batch is one request, so every stage always has one.
    tokens = 20
    requests = [request(i, 0.0, 64, tokens) for i in range(stages)]
    records = run(requests, pipeline(stages))
    done = np.sort(records.requests.column("finished_s"))
    # Batch i starts i stage times later; then each lane comes round every p*t.
    expected = [(stages * tokens + i) * T for i in range(stages)]
    assert done == pytest.approx(expected)
    steps = records.instances[0].steps
    assert np.diff(steps.column("end_s")) == pytest.approx(T)
    assert steps.gaps().values == pytest.approx(stages * T)


def test_the_slowest_stage_sets_the_pace() -> None:
    stages = (LinearStepModel(0.2), LinearStepModel(0.7), LinearStepModel(0.2))
    instance = Instance(
        EngineConfig(max_num_seqs=8, max_num_batched_tokens=64), StagedStepModel(stages), 1000
    )
    records = run([request(i, 0.0, 64, 10) for i in range(3)], instance)
    ends = records.instances[0].steps.column("end_s")
    assert ends[0] == pytest.approx(1.1)
    assert np.diff(ends) == pytest.approx(0.7)


def test_chunks_of_a_prompt_follow_each_other() -> None:
    # 128 tokens in two chunks: the second enters when stage 0 is free, not when the first is out.
    records = run([request(0, 0.0, 128, 1)], pipeline(4))
    assert records.requests.finished_s[0] == pytest.approx(5 * T)


def test_rows_do_not_overlap_and_gaps_are_all_there() -> None:
    requests = [request(i, 0.3 * i, 30 + i, 5 + i) for i in range(20)]
    records = run(requests, pipeline(3, hop=0.01))
    steps = records.instances[0].steps
    assert (steps.column("start_s")[1:] >= steps.column("end_s")[:-1] - 1e-12).all()
    gaps = steps.gaps()
    decoding = records.requests.column("finished_s") - records.requests.column("first_token_s")
    assert gaps.values @ gaps.weights == pytest.approx(decoding.sum())
    assert gaps.weights.sum() == sum(spec.output_tokens - 1 for spec in requests)


specs = st.lists(
    st.tuples(st.integers(0, 20), st.integers(1, 90), st.integers(1, 30)), min_size=1, max_size=12
)


_PREEMPTED_AT_ITS_END = [(0, 1, 3), (0, 63, 3), (0, 63, 3), (0, 64, 2), (7, 65, 1), (7, 65, 1)]


@settings(max_examples=60, deadline=None)
@given(specs, st.integers(1, 4), st.integers(9, 40), st.booleans())
@example(_PREEMPTED_AT_ITS_END, 3, 26, False)
def test_everything_finishes_however_scarce_the_blocks(
    lengths: list[tuple[int, int, int]], stages: int, blocks: int, caching: bool
) -> None:
    requests = [
        request(i, at / 4, prompt, output)
        for i, (at, prompt, output) in enumerate(sorted(lengths, key=lambda x: x[0]))
    ]
    instance = pipeline(stages, blocks=blocks, enable_prefix_caching=caching)
    records = run(requests, instance)
    assert records.requests.count(Status.FINISHED) == len(requests)
    times = [records.requests.column(n) for n in ("queued_s", "first_token_s", "finished_s")]
    assert (times[0] <= times[1]).all()
    assert (times[1] <= times[2]).all()


@settings(max_examples=40, deadline=None)
@given(specs, st.integers(9, 40))
def test_one_stage_is_the_synchronous_engine(
    lengths: list[tuple[int, int, int]], blocks: int
) -> None:
    requests = [
        request(i, at / 4, prompt, output)
        for i, (at, prompt, output) in enumerate(sorted(lengths, key=lambda x: x[0]))
    ]
    staged = run(requests, pipeline(1, blocks=blocks))
    config = EngineConfig(max_num_seqs=8, max_num_batched_tokens=64, async_scheduling=False)
    plain = run(requests, Instance(config, LinearStepModel(T), blocks))
    for name in ("first_token_s", "finished_s"):
        assert staged.requests.column(name) == pytest.approx(plain.requests.column(name))


@settings(max_examples=40, deadline=None)
@given(specs, st.integers(2, 3), st.integers(9, 40))
def test_counting_decides_as_visiting(
    lengths: list[tuple[int, int, int]], stages: int, blocks: int
) -> None:
    requests = [
        request(i, at / 4, prompt, output)
        for i, (at, prompt, output) in enumerate(sorted(lengths, key=lambda x: x[0]))
    ]
    counted, visited = (run(requests, pipeline(stages, blocks=blocks), v) for v in (False, True))
    assert everything(counted) == everything(visited)


def test_a_pipeline_needs_stages() -> None:
    instance = Instance(EngineConfig(), LinearStepModel(), 10)
    with pytest.raises(InputError, match="stages"):
        PipelineEngine(instance, RequestRecords())
    assert isinstance(Engine(instance, RequestRecords()), Engine)
