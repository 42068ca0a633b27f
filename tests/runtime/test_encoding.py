"""Images encoded in the engine, and on instances of their own: by hand, and under back-pressure."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from runtime_runs import Given, everything, request

from servesim.errors import InputError
from servesim.hardware.link import Link
from servesim.hardware.topologies import build_topology
from servesim.runtime.cluster import simulate
from servesim.runtime.config import EngineConfig
from servesim.runtime.encoder import LinearEncoder, encodable, images_begun
from servesim.runtime.failures import Failures, Outage
from servesim.runtime.instance import EngineOptions, Instance
from servesim.runtime.parallel.stages import StagedStepModel
from servesim.runtime.plan import Grant
from servesim.runtime.records import Records, Status
from servesim.runtime.request import RequestSpec
from servesim.runtime.roles import Role
from servesim.runtime.sequence import Sequence as EngineSequence
from servesim.runtime.step import LinearStepModel
from servesim.runtime.system import System

#: A step takes a second and a tenth of one per token; to encode, half a second and a twentieth.
SLOW, ENCODER = LinearStepModel(base_s=1.0, per_token_s=0.1), LinearEncoder(0.5, 0.05)
#: Ten bytes an embedding over 100 B/s with 50 ms of latency: one takes 0.1 s.
LINK = Link("test", 100.0, 0.05)


def config(**given: object) -> EngineConfig:
    given = {"max_num_seqs": 8, "max_num_batched_tokens": 64, "async_scheduling": False, **given}
    return EngineConfig(**given)  # type: ignore[arg-type]


def llm(name: str = "llm", role: Role = Role.BOTH, **given: object) -> Instance:
    return Instance(config(**given), SLOW, 100, name, role=role, kv_bytes_per_token=10.0)


def encode(name: str = "encode", blocks: int = 100) -> Instance:
    return Instance(
        config(enable_prefix_caching=False), LinearStepModel(), blocks, name, role=Role.ENCODE,
        encoder=ENCODER, embedding_bytes_per_token=10.0,
    )  # fmt: skip


def run(
    requests: Sequence[RequestSpec], *instances: Instance, failures: Failures | None = None
) -> Records:
    topology = build_topology("switch", [one.name for one in instances], LINK)
    system = System(topology, failures=failures or Failures())
    return simulate(Given(requests), instances, system=system)


def with_image(number: int, arrival_s: float, *images: int, prompt: int = 30) -> RequestSpec:
    return request(number, arrival_s, prompt, 2, images=images)


def test_an_engine_encodes_before_the_step_that_needs_it() -> None:
    one = Instance(config(), SLOW, 100, encoder=ENCODER)
    got = simulate(Given([with_image(0, 0.0, 20)]), [one]).requests
    # 0.5 + 20 x 0.05 s, then the prompt in 1 + 3 s, then one token in 1.1 s.
    assert got.first_token_s[0] == pytest.approx(1.5 + 4.0)
    assert got.finished_s[0] == pytest.approx(5.5 + 1.1)


def test_images_of_a_long_prompt_are_encoded_with_the_chunk_they_begin_in() -> None:
    seq = EngineSequence(with_image(0, 0.0, 20, 30, 25, prompt=100), 0, 16)
    begun = [list(images_begun([Grant(seq, at, 40)])) for at in (0, 40, 80)]
    assert begun == [[20, 30], [25], []]
    assert list(images_begun([Grant(seq, 20, 1)])) == [30]  # what is cached needs no encoding
    got = simulate(
        Given([with_image(0, 0.0, 20, 30, 25, prompt=100)]),
        [Instance(config(max_num_batched_tokens=40), SLOW, 100, encoder=ENCODER)],
    ).requests
    # A step encodes at most 40: chunks of 20, 30, 40 and 10 tokens, an image in each but the last.
    assert got.first_token_s[0] == pytest.approx(3 * 0.5 + 75 * 0.05 + 4 * 1.0 + 10.0)


def test_a_step_encodes_no_more_than_its_budget() -> None:
    one = EngineSequence(with_image(0, 0.0, 20, 30, 25, prompt=100), 0, 16)
    other = EngineSequence(with_image(1, 0.0, 30), 1, 16)

    def given(budget: int, *others: Grant) -> int:
        return encodable(Grant(one, 0, 90), others, budget)

    assert [given(budget) for budget in (10, 49, 50, 74, 75)] == [20, 20, 50, 50, 90]
    assert given(100, Grant(other, 0, 30)) == 50  # 70 are left
    assert given(100, Grant(other, 10, 20)) == 90  # that image was encoded before
    assert given(30, Grant(other, 0, 30)) == 0
    assert encodable(Grant(one, 60, 40), [Grant(other, 0, 30)], 30) == 40


@pytest.mark.parametrize("seed", range(30))
def test_counted_and_visited_steps_encode_alike(seed: int) -> None:
    rng = np.random.default_rng(seed)
    given = [
        with_image(i, float(at), *rng.integers(1, 25, rng.integers(4)).tolist(), prompt=90)
        for i, at in enumerate(np.sort(rng.exponential(20, 12)))
    ]
    blocks = int(rng.integers(8, 40))
    chunk = config(max_num_batched_tokens=int(rng.integers(9, 80)))
    one = Instance(chunk, SLOW, blocks, encoder=ENCODER)
    plain, fast = (
        simulate(Given(given), [one], options=EngineOptions(visit_all=visit_all))
        for visit_all in (True, False)
    )
    assert everything(plain) == everything(fast)


def test_a_pipeline_encodes_in_its_first_stage() -> None:
    one = Instance(config(), StagedStepModel((SLOW, SLOW)), 100, encoder=ENCODER)
    got = simulate(Given([with_image(0, 0.0, 20)]), [one]).requests
    assert got.first_token_s[0] == pytest.approx(1.5 + 2 * 4.0)


def test_encoding_transfer_and_prefill_add_up() -> None:
    records = run([with_image(0, 0.0, 20)], encode(), llm())
    got = records.requests
    # Encoded in 1.5 s; 200 B in 2 s and 50 ms; the prompt in 1 + 3 s.
    assert got.first_token_s[0] == pytest.approx(1.5 + 2.05 + 4.0)
    assert got.finished_s[0] == pytest.approx(7.55 + 1.1)
    assert records.links == {"encode -> switch": 200.0, "switch -> llm": 200.0}
    assert got.instance[0] == 1


def test_decode_instances_follow() -> None:
    parts = encode(), llm("p", Role.PREFILL), llm("d", Role.DECODE)
    got = run([with_image(0, 0.0, 20)], *parts).requests
    # Then 300 B of KV in 3 s and 50 ms, and a step of one token on the decode instance.
    assert got.first_token_s[0] == pytest.approx(1.5 + 2.05 + 4.0 + 3.05 + 1.1)


def test_requests_without_images_pass_by() -> None:
    got = run([request(0, 0.0, 30, 2)], encode(), llm()).requests
    assert got.first_token_s[0] == pytest.approx(4.0)


def test_images_are_encoded_together() -> None:
    given = [with_image(0, 0.0, 20), with_image(1, 0.0, 20)]
    got = run(given, encode(), llm()).requests
    # 40 embeddings in 2.5 s; both then share the link: 400 B in 4 s; prompts of 60 tokens in 7 s.
    assert list(got.first_token_s) == pytest.approx([2.5 + 4.05 + 7.0] * 2)


def test_a_queue_before_the_encoder_is_a_queue() -> None:
    """Arrivals faster than one encoder: the n-th waits for those before it, a step each."""
    encoder = Instance(
        config(max_num_seqs=1, enable_prefix_caching=False), LinearStepModel(), 100, "encode",
        role=Role.ENCODE, encoder=ENCODER,
    )  # fmt: skip
    given = [with_image(i, 0.1 * i, 20, prompt=20) for i in range(20)]
    quick = Instance(config(), LinearStepModel(), 1000, "llm")
    got = run(given, encoder, quick).requests
    first = np.array(got.first_token_s)
    assert first == pytest.approx(1.5 * np.arange(1, 21) + 0.05)
    two = [encoder, Instance(encoder.config, LinearStepModel(), 100, "encode2", role=Role.ENCODE,
                             encoder=ENCODER)]  # fmt: skip
    faster = np.array(run(given, *two, quick).requests.first_token_s)
    assert faster.max() <= first.max() / 2 + 1.5


def test_a_full_language_model_holds_the_encoder_back() -> None:
    """Embeddings for 64 tokens at the language model, for 64 at the encoder: then all wait."""
    given = [with_image(i, 0.0, 30) for i in range(12)]
    records = run(given, encode(blocks=5), llm(max_num_seqs=1))
    got = records.requests
    assert got.count(Status.FINISHED) == 12
    assert records.instances[0].steps.kv_blocks_peak <= 4
    # One after another at the language model, which never waits once it has begun.
    assert np.diff(sorted(got.first_token_s)) == pytest.approx([5.1] * 11)


@pytest.mark.parametrize("failing", ["encode", "encode2", "llm", "llm2"])
@pytest.mark.parametrize("at_s", [0.7, 2.0, 4.0, 9.0])
def test_no_request_is_lost_with_an_instance(failing: str, at_s: float) -> None:
    given = [with_image(i, 0.3 * i, 20, 5) for i in range(10)]
    outages = Failures((Outage(failing, at_s, 3.0),))
    parts = encode(), encode("encode2"), llm(), llm("llm2")
    got = run(given, *parts, failures=outages).requests
    assert got.count(Status.FINISHED) == 10
    assert (np.array(got.first_token_s) > np.array(got.arrival_s) + 1.75 + 4.0).all()


def test_the_last_encoder_gone_for_good_leaves_requests_refused() -> None:
    outages = Failures((Outage("encode", 0.7, None),))
    got = run([with_image(0, 0.0, 20), request(1, 0.0, 8, 2)], encode(), llm(), failures=outages)
    assert list(got.requests.status) == [Status.REJECTED, Status.FINISHED]
    assert "no instance is left" in got.requests.reasons[0]


def test_the_last_language_model_gone_for_good_frees_the_encoder() -> None:
    outages = Failures((Outage("llm", 0.7, None),))
    got = run([with_image(0, 0.0, 20)], encode(), llm(), failures=outages).requests
    assert list(got.status) == [Status.REJECTED]


def test_what_cannot_be_encoded_is_refused() -> None:
    got = simulate(Given([with_image(0, 0.0, 20)]), [llm()]).requests
    assert "nothing encodes" in got.reasons[0]
    got = run([with_image(0, 0.0, 60, prompt=90)], encode(blocks=3), llm()).requests
    assert "KV blocks" in got.reasons[0]
    with pytest.raises(InputError, match="need others"):
        run([with_image(0, 0.0, 20)], encode())
    with pytest.raises(InputError, match="need a network"):
        simulate(Given([with_image(0, 0.0, 20)]), [encode(), llm()])
    with pytest.raises(InputError, match="parts of the prompt"):
        with_image(0, 0.0, 40)
