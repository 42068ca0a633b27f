"""Weights in host memory: what they cost a step, and what room they leave."""

from __future__ import annotations

from typing import Any

import pytest

from servesim.errors import InputError, UnsupportedError
from servesim.graph.batch import BatchShape
from servesim.hardware.cost import Source
from servesim.runtime.step_model import CompiledStepModel
from servesim.runtime.streamed_step import StreamedStepModel
from servesim.scenario import Scenario
from servesim.scenario.build import Served, serve
from servesim.units import GIB

LLAMA, MIXTRAL = "meta-llama/Llama-3.1-8B", "mistralai/Mixtral-8x7B-v0.1"
PCIE = 63e9  # bytes a second, of the H100's host link
DECODES = BatchShape((), 8, 8000, 1000)


def served(model: str = LLAMA, **engine: Any) -> Served:
    engine = {"max_model_len": 4096, **engine}
    return serve(Scenario.of(model=model, hardware="h100_sxm", engine=engine).instances[0])


def seconds(one: Served) -> float:
    return one.step_model.seconds(DECODES)


def test_weights_read_when_needed_add_their_transfer() -> None:
    plain, outside = served(), served(cpu_offload_gb=2.0)
    assert seconds(outside) == pytest.approx(seconds(plain) + 2 * GIB / PCIE)
    decode = outside.step_model
    assert isinstance(decode, StreamedStepModel)
    assert decode.decode_seconds(8, 8000, 1000) == pytest.approx(seconds(outside))


def test_what_is_kept_outside_is_room_for_kv() -> None:
    plain, outside = served(), served(cpu_offload_gb=2.0)
    # A block of 16 tokens takes 2 MiB.
    assert outside.memory.kv_cache_blocks - plain.memory.kv_cache_blocks == 1024


def test_weights_fetched_ahead_hide_behind_computing() -> None:
    plain = seconds(served())
    little = served(cpu_offload_gb=0.25, offload_prefetch_step=1)
    much = served(cpu_offload_gb=2.0, offload_prefetch_step=1)
    assert plain > 0.25 * GIB / PCIE
    assert seconds(little) == pytest.approx(plain)
    assert seconds(much) == pytest.approx(2 * GIB / PCIE)


def test_of_experts_only_those_with_tokens_are_read() -> None:
    one = served(MIXTRAL, cpu_offload_gb=40.0, cpu_offload_params="experts")
    model = one.step_model
    assert isinstance(model, StreamedStepModel)
    # One token goes to 2 of 8 experts in every layer; very many go to all.
    assert model.transfer_seconds(1) == pytest.approx(40 * GIB / PCIE / 4)
    assert model.transfer_seconds(1000) == pytest.approx(40 * GIB / PCIE)


def test_a_model_that_does_not_fit_runs_from_host_memory() -> None:
    one = served("meta-llama/Llama-3.1-70B", cpu_offload_gb=90.0)
    assert one.memory.kv_cache_blocks > 256
    assert seconds(one) > 90 * GIB / PCIE


def test_waits_are_part_of_every_account() -> None:
    model = served(cpu_offload_gb=2.0).step_model
    assert isinstance(model, StreamedStepModel)
    rows = model.cost_breakdown(DECODES)
    assert sum(row.seconds for row in rows) == pytest.approx(model.seconds(DECODES))
    model.reset()
    total = model.seconds(DECODES)
    found = model.source_seconds()
    assert sum(found.values()) == pytest.approx(total)
    assert found[Source.ANALYTICAL] >= 2 * GIB / PCIE
    model.reset()
    assert sum(model.source_seconds().values()) == 0


@pytest.mark.parametrize(
    ("engine", "error", "message"),
    [
        ({"cpu_offload_gb": -1.0}, InputError, "must not be negative, not -1"),
        ({"cpu_offload_gb": 20.0}, InputError, "layers of meta-llama/Llama-3.1-8B have 13.00 GiB"),
        (
            {"cpu_offload_gb": 1.0, "cpu_offload_params": "experts"},
            InputError,
            "the experts of meta-llama/Llama-3.1-8B have 0.00 GiB",
        ),
        ({"cpu_offload_gb": 1.0, "pipeline_parallel_size": 2}, UnsupportedError, "a pipeline"),
    ],
)
def test_refused(engine: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        served(**engine)


def test_without_offload_the_step_model_is_the_plain_one() -> None:
    assert isinstance(served().step_model, CompiledStepModel)
