"""Work of every operator kind, by hand, and what all kinds have in common."""

from __future__ import annotations

from dataclasses import fields, is_dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from servesim.errors import UnsupportedError
from servesim.graph.batch import BatchShape
from servesim.graph.op import CONTEXT, GROUP, SEQUENCES, TOKENS, Op, OpSpec
from servesim.graph.ops import KINDS
from servesim.graph.ops.adapter import Adapter
from servesim.graph.ops.attention import Attention
from servesim.graph.ops.batched_gemm import BatchedGemm
from servesim.graph.ops.collective import Collective, LogitsGather
from servesim.graph.ops.context import ContextExchange
from servesim.graph.ops.embedding import Embedding
from servesim.graph.ops.exchange import Exchange
from servesim.graph.ops.experts import Experts
from servesim.graph.ops.gemm import Gemm, Part
from servesim.graph.ops.indexer import Indexer
from servesim.graph.ops.latent_expand import LatentExpand
from servesim.graph.ops.lm_head import LmHead
from servesim.graph.ops.norm import Norm
from servesim.graph.ops.other import Other
from servesim.graph.ops.pointwise import Pointwise
from servesim.graph.ops.recurrent import Recurrent
from servesim.graph.ops.sampler import Sampler

EXAMPLES: tuple[OpSpec, ...] = (
    Gemm(96, 64),
    LmHead(1000, 64),
    Embedding(1000, 64),
    Norm(64, addends=1, weights=64),
    Pointwise("activation", 128, 64, 128),
    Attention(8, 2, 16, 16),
    BatchedGemm(8, 32, 16),
    LatentExpand(256, 32, 8),
    Experts(16, 2, 64, 32),
    Indexer(4, 16),
    Recurrent("ssd", 8, 16, 16, 1000.0, 256.0, 2048.0),
    Sampler(1000),
    Collective("all_reduce", 64, 2),
    LogitsGather(1000, 2),
    Exchange("all_gather", 64, 4, 4),
    ContextExchange("all_gather", 64, 4),
    Adapter(16, 64, 4),
    Other("aten.cumsum", 10, 10, 10),
)
BATCH = BatchShape.of([(5, 0), (3, 7), (1, 10), (1, 20)])


def test_every_kind_has_an_example() -> None:
    assert {spec.kind for spec in EXAMPLES} == set(KINDS.names())


@pytest.mark.parametrize("spec", EXAMPLES, ids=lambda s: s.kind)
def test_contract(spec: OpSpec) -> None:
    assert is_dataclass(spec)
    assert spec.depends in {TOKENS, SEQUENCES, CONTEXT, GROUP}
    work = Op("some_name", spec).work(BATCH)
    assert work.label == "some_name"
    assert work.flops >= 0
    assert work.bytes_read > 0
    assert work.bytes_written > 0
    assert spec.weight_bytes >= 0
    assert all(isinstance(n, int) for n in spec.shape)
    first = fields(spec)[0].name
    with pytest.raises(AttributeError):
        setattr(spec, first, None)


@pytest.mark.parametrize("spec", EXAMPLES, ids=lambda s: s.kind)
def test_work_depends_on_what_the_kind_says(spec: OpSpec) -> None:
    same_tokens = BatchShape.of([(10, 0)])
    same_sequences = BatchShape.of([(1, 3)] * 4)
    if spec.depends == TOKENS:
        assert spec.work(BATCH, "x") == spec.work(same_tokens, "x")
    elif spec.depends == SEQUENCES:
        assert spec.work(BATCH, "x") == spec.work(same_sequences, "x")


def test_gemm() -> None:
    work = Gemm(96, 64).work(BATCH, "qkv_proj")
    assert (work.m, work.n, work.k) == (10, 96, 64)
    assert work.flops == 2 * 10 * 96 * 64
    assert Gemm(96, 64, bias=True).weight_elements == 96 * 64 + 96
    assert Gemm(96, 64, weight="fp8", scale_bytes=12).weight_bytes == 96 * 64 + 12


def test_gemm_columns_keep_scarce_kv_heads_whole() -> None:
    parts = (
        Part("q", 64, 8),
        Part("k", 16, 2, repeats=True),
        Part("v", 16, 2, repeats=True),
    )
    gemm = Gemm(96, 64, parts)
    assert gemm.columns(2).n == 48
    assert gemm.columns(4).n == 16 + 8 + 8
    assert gemm.columns(8).n == 8 + 8 + 8
    with pytest.raises(UnsupportedError, match=r"q: 8 do not divide among 3"):
        gemm.columns(3)


def test_lm_head_and_sampler_see_sequences() -> None:
    assert LmHead(1000, 64).work(BATCH, "lm_head").m == 4
    assert LmHead(1001, 64).columns(2).n == 501
    assert LmHead(1000, 64, tied=True).weight_bytes == 0
    assert Sampler(1000).work(BATCH, "sampler").rows == 4


def test_norm_reads_and_writes_the_residual() -> None:
    work = Norm(64, addends=1, weights=64).work(BATCH, "layernorm")
    assert work.bytes_read == 2 * 10 * 64 * 2 + 64 * 2
    assert work.bytes_written == 2 * 10 * 64 * 2
    heads = Norm(16, groups=10, weights=32).work(BATCH, "qk_norm")
    assert (heads.rows, heads.per_token) == (100, 10)


def test_attention_counts_pairs_and_keys() -> None:
    work = Attention(8, 2, 16, 16).work(BATCH, "attention")
    pairs = 5 * 6 // 2 + 3 * 7 + 3 * 4 // 2 + 11 + 21
    assert work.flops == 2 * pairs * 8 * 32
    assert (work.decode_keys, work.decode_keys_max) == (32, 21)


def test_windows_clip() -> None:
    work = Attention(8, 2, 16, 16, window=12).work(BATCH, "attention")
    assert (work.decode_keys, work.decode_keys_max) == (11 + 12, 12)
    with pytest.raises(ValueError, match="one by one"):
        Attention(8, 2, 16, 16, window=12).work(BatchShape((), 1, 20, 20), "attention")


def test_chunks_start_over() -> None:
    chunked = Attention(8, 2, 16, 16, chunk=8)
    work = chunked.work(BatchShape.of([(10, 5), (1, 7), (1, 16)]), "attention")
    assert work.prefills == ((3, 5), (7, 0))
    assert (work.decode_keys, work.decode_keys_max) == (8 + 1, 8)


@given(st.integers(1, 40), st.integers(0, 40), st.integers(1, 12))
def test_a_chunked_prefill_covers_every_token_once(new: int, context: int, chunk: int) -> None:
    batch = BatchShape(prefills=((new, context),))
    work = Attention(1, 1, 1, 1, chunk=chunk).work(batch, "attention")
    by_hand = sum((context + i) % chunk + 1 for i in range(new))
    assert work.prefill_pairs == by_hand
    assert work.query_tokens == new


@given(st.lists(st.integers(1, 100), min_size=1, max_size=8), st.integers(1, 50))
def test_decode_keys_are_those_of_each_sequence(contexts: list[int], window: int) -> None:
    batch = BatchShape.of([(1, c) for c in contexts])
    work = Attention(1, 1, 1, 1, window=window).work(batch, "attention")
    seen = np.minimum(np.array(contexts) + 1, window)
    assert work.decode_keys == seen.sum()
    assert work.decode_keys_max == seen.max()


def test_latent_attention_serves_prefills_and_decodes_apart() -> None:
    prefill = Op("attention_prefill", Attention(8, 8, 24, 16, phase="prefill"))
    decode = Op("attention", Attention(8, 1, 40, 32, latent=True, phase="decode"))
    only_decodes = BatchShape.of([(1, 10)])
    assert not prefill.runs(only_decodes)
    assert decode.runs(only_decodes)
    assert prefill.work(BATCH).query_tokens == 8  # type: ignore[attr-defined]
    assert decode.work(BATCH).query_tokens == 2  # type: ignore[attr-defined]
    assert decode.work(BATCH).kv_bytes_per_token == 80  # type: ignore[attr-defined]
    assert LatentExpand(256, 32, 8).work(BATCH, "kv_b_proj").m == 5 + 10
    assert BatchedGemm(8, 32, 16).work(BATCH, "q_absorb").flops == 2 * 8 * 2 * 32 * 16
    assert not Op("q_absorb", BatchedGemm(8, 32, 16)).runs(BatchShape.of([(5, 0)]))


def test_indexer_scores_every_key() -> None:
    work = Indexer(4, 16).work(BATCH, "indexer")
    pairs = 5 * 6 // 2 + 3 * 7 + 3 * 4 // 2 + 11 + 21
    assert work.flops == 2 * pairs * 4 * 16
    assert work.kv_bytes_per_token == 32


def test_experts_touched() -> None:
    one = Experts(16, 2, 64, 32).work(BatchShape.of_tokens(1), "experts")
    assert (one.pairs, one.touched) == (2, pytest.approx(2.0))
    many = Experts(16, 2, 64, 32).work(BatchShape.of_tokens(1000), "experts")
    assert many.touched == pytest.approx(16)
    assert many.flops == 2 * 2000 * 3 * 64 * 32
    local = Experts(16, 2, 64, 32).by_expert(4)
    assert (local.held, local.work(BatchShape.of_tokens(8), "experts").pairs) == (4, 4)
    with pytest.raises(UnsupportedError, match="16 do not divide among 3"):
        Experts(16, 2, 64, 32).by_expert(3)


def test_recurrent_states() -> None:
    work = Recurrent("ssd", 8, 16, 16, 1000.0, 256.0, 2048.0, state_dtype="fp32").work(BATCH, "s")
    assert (work.prefill_tokens, work.prefills, work.decodes) == (8, 2, 2)
    assert work.state_bytes == 8192
    assert work.flops == 10_000


def test_collectives() -> None:
    assert Collective("all_reduce", 64, 2).work(BATCH, "all_reduce").payload_bytes == 10 * 64 * 2
    assert LogitsGather(1000, 2).work(BATCH, "g").payload_bytes == 4 * 1000 * 2
