"""Device memory that a step needs beside weights and KV cache, from the operators.

vLLM measures it at start-up (``GPUModelRunner.profile_run``, v0.19): one step of
``max_num_batched_tokens`` tokens through the model, then the sampler over ``max_num_seqs``
sequences; the higher of the two peaks counts. Checked against what it reported on H100.
"""

from __future__ import annotations

from dataclasses import dataclass

from servesim.graph.dtypes import bytes_per_element
from servesim.graph.op import Op
from servesim.graph.opgraph import Block, OpGraph
from servesim.graph.ops.attention import Attention
from servesim.graph.ops.experts import Experts
from servesim.graph.ops.gemm import Gemm
from servesim.graph.ops.latent_expand import LatentExpand
from servesim.graph.ops.pointwise import Pointwise
from servesim.graph.ops.recurrent import Recurrent

#: Tokens that fused experts work on at once (vLLM, ``VLLM_FUSED_MOE_CHUNK_SIZE``).
EXPERT_CHUNK = 16 * 1024
#: cuBLAS keeps this much for split-K partial sums (torch's default on Hopper).
CUBLAS_BYTES = 32 * 2**20
#: Tensors as wide as the hidden states alive in the middle of a layer: residual before and after
#: the addition, attention output, normalised input.
STREAM_TENSORS = 4
#: fp32 tensors of logits in the sampler: the cast logits, their softmax, the random draws.
SAMPLER_TENSORS = 3
_FP32 = 4.0
#: Cached tokens that latent attention (MLA) expands at once: as many as 8 sequences of the longest
#: length or 4 blocks of every sequence, but not more than the last number.
_LATENT_SEQUENCES, _LATENT_BLOCKS, _LATENT_LIMIT = 8, 4, 64 * 1024


@dataclass(frozen=True, slots=True)
class LargestStep:
    """The step that is measured.

    Attributes:
        tokens: new tokens (``max_num_batched_tokens``).
        sequences: sequences (``max_num_seqs``).
        max_model_len: longest sequence.
        block_size: tokens of a KV block.
    """

    tokens: int
    sequences: int
    max_model_len: int
    block_size: int = 16

    @property
    def expanded_tokens(self) -> int:
        """Cached tokens whose keys and values latent attention expands at once."""
        wanted = max(
            _LATENT_SEQUENCES * self.max_model_len,
            _LATENT_BLOCKS * self.sequences * self.block_size,
        )
        return max(min(wanted, _LATENT_LIMIT), self.sequences * self.block_size)


def activation_peak(
    graph: OpGraph, step: LargestStep, compute_units: int, stages: int = 1
) -> float:
    """Peak bytes of ``step`` on one rank.

    Args:
        graph: of one rank, and of one stage of a pipeline.
        step: the largest one.
        compute_units: SMs of the device: the top-k/top-p kernel keeps a row of logits for each.
        stages: pipeline stages; between them hidden states and residual have buffers.
    """
    stream = step.tokens * graph.hidden_size * bytes_per_element(graph.dtype)
    widest = max((_widest(graph, block, step) for block in graph.blocks), default=0.0)
    sampler = _sampler(graph, min(step.sequences, step.tokens), compute_units)
    peak = max(STREAM_TENSORS * stream + widest, stream + sampler)
    if stages > 1:
        peak += 2 * stream
    return peak + _expert_workspace(graph, step.tokens) + CUBLAS_BYTES


def _sampler(graph: OpGraph, sequences: int, compute_units: int) -> float:
    """Logits, their fp32 copies, and the last hidden states twice; only where the LM head is."""
    if not any(op.kind == "lm_head" for op, _ in graph.weighted_ops()):
        return 0.0
    size = bytes_per_element(graph.dtype)
    logits = sequences * graph.vocab_size * (size + SAMPLER_TENSORS * _FP32)
    rows = min(1 << (sequences - 1).bit_length(), compute_units)
    last = 2 * sequences * graph.hidden_size * size
    return logits + rows * graph.vocab_size * _FP32 + last


def _widest(graph: OpGraph, block: Block, step: LargestStep) -> float:
    """Bytes of what the block's largest kernel reads and writes.

    The output of an activation that a quantised GEMM reads has an 8-bit copy beside it.
    """
    narrow = {
        source
        for op in block.ops
        if isinstance(op.spec, Gemm) and op.spec.dtype != graph.dtype
        for source in op.inputs
    }
    size, widest = bytes_per_element(graph.dtype), 0.0
    for op in block.ops:
        tokens = step.expanded_tokens if isinstance(op.spec, LatentExpand) else step.tokens
        touched = _elements(op) * size
        if op.name in narrow and isinstance(op.spec, Pointwise):
            touched += op.spec.writes
        widest = max(widest, tokens * touched)
    return widest


def _elements(op: Op) -> float:
    """Activation elements a token that the operator reads and writes.

    Norms and embeddings touch tensors of the stream only, which are counted there.
    """
    elements = 0.0
    match op.spec:
        case Pointwise() as spec:
            elements = spec.reads + spec.writes
        case Gemm() as spec:
            elements = spec.row_scale * (spec.n + spec.k)
        case LatentExpand() as spec:
            elements = spec.n
        case Attention() as spec:
            keys = 1 if spec.latent else spec.kv_heads
            elements = (spec.heads + keys) * (spec.head_dim + spec.value_dim)
        case Recurrent() as spec:
            elements = spec.token_elements
        case Experts() as spec if not _keeps_workspace(spec):
            elements = spec.top_k * (2 + spec.gated) * spec.intermediate
    return elements


def _keeps_workspace(spec: Experts) -> bool:
    """MXFP4 kernels allocate as they go; the others share a workspace over all layers."""
    return spec.weight != "mxfp4"


def _expert_workspace(graph: OpGraph, tokens: int) -> float:
    """Workspaces of the fused experts: inputs and outputs of both of their GEMMs."""
    return max(
        (
            min(tokens * getattr(op.spec, "replicas", 1), max(tokens, EXPERT_CHUNK))
            * op.spec.top_k
            * bytes_per_element(graph.dtype)
            * (
                max(op.spec.intermediate, op.spec.hidden)
                + max((1 + op.spec.gated) * op.spec.intermediate, op.spec.hidden)
            )
            for op, _ in graph.weighted_ops()
            if isinstance(op.spec, Experts) and _keeps_workspace(op.spec)
        ),
        default=0.0,
    )
