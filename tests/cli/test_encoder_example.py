"""The example with encode instances, and what its images cost."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from servesim import Result, Scenario, simulate
from servesim.cli.render_deployment import kv_capacity, memory_parts
from servesim.errors import InputError, UnsupportedError
from servesim.graph.batch import BatchShape
from servesim.graph.work import AttentionWork, GemmWork
from servesim.models.config import resolve
from servesim.models.load import load_tower
from servesim.models.towers import vision_tower
from servesim.runtime.records import Status
from servesim.runtime.workloads import WORKLOADS
from servesim.scenario import build
from servesim.scenario.encoder import TowerEncoder

EXAMPLE = Path(__file__).parents[2] / "examples" / "encoder.toml"
SMALL = {"num_requests": 60}


def run(**sections: object) -> Result:
    got = simulate(Scenario.load(EXAMPLE).changed(workload=SMALL), **sections)
    assert got.metrics.finished == SMALL["num_requests"]
    return got


def in_engine(**workload: object) -> Result:
    whole = Scenario.load(EXAMPLE)
    options = {"kind": whole.workload.kind, **whole.workload.options, **SMALL, **workload}
    return simulate(
        model={"id": "Qwen/Qwen2.5-VL-7B-Instruct"},
        hardware="h100_sxm",
        engine={"max_model_len": 16384},
        workload=options,
    )


def encoder_of(got: Result) -> TowerEncoder:
    encoder = got.deployment.engines[0].encoder
    assert isinstance(encoder, TowerEncoder)
    return encoder


def test_images_of_others_hold_no_step_up() -> None:
    apart, inside = run(), in_engine()
    assert apart.metrics.tpot.mean < 0.7 * inside.metrics.tpot.mean
    requests = apart.records.requests
    assert (requests.column("instance") == 2).all()
    # Each embedding, 3584 elements of bf16, goes to the language model once.
    images = sum(sum(spec) for spec in _images(apart))
    sent = sum(size for name, size in apart.records.links.items() if name.endswith("llm"))
    assert sent == images * 3584 * 2
    assert min(requests.column("prompt_tokens")) > 200
    first = requests.column("first_token_s") - requests.column("arrival_s")
    assert first.min() > encoder_of(apart).seconds([min(map(sum, _images(apart)))])


def _images(got: Result) -> list[tuple[int, ...]]:
    scenario = got.scenario
    source = WORKLOADS.build(scenario.workload.kind, scenario.workload.options).source()
    found = []
    while source.next_s() is not None:
        found.append(source.take().images)
    return found


def test_one_request_takes_encoder_way_and_prompt_one_after_another() -> None:
    one = {"num_requests": 1, "images": 2, "image_tokens": 600, "prompt_tokens": 100}
    got = simulate(Scenario.load(EXAMPLE).changed(workload=one))
    requests = got.records.requests
    encoder, llm = got.deployment.engines[0], got.deployment.engines[2]
    assert encoder.encoder is not None
    way = 1200 * 3584 * 2 / 25e9 + 10e-6
    prompt = llm.step_model.seconds(BatchShape(((1300, 0),)))
    expected = encoder.encoder.seconds([600, 600]) + way + prompt
    took = requests.first_token_s[0] - requests.arrival_s[0]
    assert took == pytest.approx(expected, rel=1e-6)
    inside = in_engine(**one)
    first = inside.records.requests
    inner = inside.deployment.engines[0].encoder
    assert inner is not None
    took = first.first_token_s[0] - first.arrival_s[0]
    assert took == pytest.approx(inner.seconds([600, 600]) + prompt, rel=1e-6)


def test_a_tower_attends_within_each_image_all_to_all() -> None:
    tower = load_tower("google/gemma-3-27b-it")
    assert tower is not None
    ops = {op.name: op for block in tower.blocks for op in block.ops}
    batch = BatchShape(((4096, 0), (4096, 0)))
    attention, gemm = ops["attention"].work(batch), ops["up_proj"].work(batch)
    assert isinstance(attention, AttentionWork) and isinstance(gemm, GemmWork)
    assert gemm.m == 2 * 4096
    # Two products of 16 heads of 72 for each of 4096² pairs, two images.
    assert attention.flops == pytest.approx(2 * 2 * 16 * 2 * 72 * 4096**2, rel=1e-3)


@pytest.mark.parametrize(
    ("model", "patches", "embeddings"),
    [
        ("google/gemma-3-27b-it", 4096 / 256, 1),
        ("llava-hf/llava-1.5-7b-hf", 1, 1),
        ("Qwen/Qwen2.5-VL-7B-Instruct", 4, 1),
        ("Qwen/Qwen3-VL-30B-A3B-Instruct", 4, 4),  # three deepstack layers
    ],
)
def test_patches_of_a_token(model: str, patches: float, embeddings: int) -> None:

    tower = vision_tower(resolve(model))
    assert tower is not None
    assert (tower.patches_per_token, tower.embeddings) == (patches, embeddings)


def test_an_encode_instance_keeps_its_tower_and_embeddings() -> None:
    served = build(Scenario.load(EXAMPLE)).served[0]
    parts = dict(memory_parts(served))
    assert parts["weights"] == pytest.approx(1.353e9, rel=1e-3)
    assert sum(parts.values()) == pytest.approx(served.device.memory.capacity_bytes)
    assert kv_capacity(served) == f"of {int(parts['embeddings'] // (3584 * 32)) * 16 - 16:,} tokens"


def test_images_in_a_trace(tmp_path: Path) -> None:
    lines = [
        {"arrival_s": 0.0, "prompt_tokens": 700, "output_tokens": 2, "images": [300, 300]},
        {"arrival_s": 0.1, "prompt_tokens": 20, "output_tokens": 2},
    ]
    path = tmp_path / "trace.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    trace = {"kind": "jsonl", "path": str(path)}
    got = simulate(Scenario.load(EXAMPLE).changed(workload=trace))
    assert got.metrics.finished == 2
    assert sum(one.steps.column("prefill_tokens").sum() for one in got.records.instances[:2]) == 600


def test_what_has_no_tower_encodes_nothing() -> None:
    text = {"id": "Qwen/Qwen3-8B"}
    with pytest.raises(UnsupportedError, match="no vision tower"):
        build(Scenario.load(EXAMPLE).changed(model=text))
    got = simulate(
        model=text, hardware="h100_sxm", workload={"num_requests": 2, "images": 1, "rate": 1.0}
    )
    assert np.all(got.records.requests.column("status") == Status.REJECTED)
    with pytest.raises((UnsupportedError, InputError), match="pipeline_parallel_size"):
        build(Scenario.load(EXAMPLE).changed(engine={"pipeline_parallel_size": 2}))
