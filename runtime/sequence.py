"""A request inside an engine: how far it is and which KV blocks it holds."""

from __future__ import annotations

from servesim.runtime.request import RequestSpec

#: Blocks a sequence may have before the identities of two sequences could meet.
_MAX_BLOCKS = 1 << 24
#: Identities of blocks computed with an adapter lie above all others.
_ADAPTER_BITS = 80


class Sequence:
    """The mutable state of a request; only the scheduler and the KV cache change it.

    Attributes:
        spec: what the workload asked for.
        index: number of the request in the run, from 0.
        total: tokens of prompt and answer.
        limit: tokens at which it would end in any case, as far as the scheduler knows.
        overruns: it ends before that, and a step more is scheduled before anybody knows.
        known: tokens known so far: prompt and generated.
        computed: tokens whose KV is in the cache or being computed. While the sequence is
            ``decoding`` its ``DecodeSet`` tells them; this and ``known`` may stand still.
        ticket: rank in the order of admission; None when not running.
        blocks: KV blocks held, in order (their identity matters), and ``held``, how many.
        shared: identities of the leading blocks that other sequences may have too.
        registered: leading blocks that are full and known by their identity.
        cached_tokens: prefix tokens that needed no computing when first admitted, and
            ``recalled_tokens``, those of them that came from memories below.
        last_token_s: when its latest token came, kept only while it gets none.
        finished: it has left, done or not.
        hands_over: keeps its blocks when it finishes: its KV goes on to another instance.
        offset: belongs to the ``DecodeSet``.
    """

    __slots__ = (
        "_unshared",
        "blocks",
        "cached_tokens",
        "computed",
        "decoding",
        "finished",
        "hands_over",
        "held",
        "index",
        "known",
        "last_token_s",
        "limit",
        "offset",
        "overruns",
        "preemptions",
        "recalled_tokens",
        "registered",
        "shared",
        "spec",
        "ticket",
        "total",
    )

    def __init__(self, spec: RequestSpec, index: int, block_size: int) -> None:
        self.spec = spec
        self.index = index
        self.total = spec.prompt_tokens + spec.output_tokens
        self.limit = spec.prompt_tokens + (spec.max_tokens or spec.output_tokens)
        self.overruns = False
        self.known = spec.prompt_tokens
        self.computed = 0
        self.ticket: int | None = None
        self.blocks: list[int] = []
        self.held = 0
        self.registered = 0
        self.preemptions = 0
        self.cached_tokens: int | None = None
        self.recalled_tokens = 0
        self.last_token_s: float | None = None
        self.decoding = False
        self.finished = False
        self.hands_over = False
        self.offset = 0
        self.shared = block_identities(spec, block_size)
        self._unshared = -1 - index * _MAX_BLOCKS

    def unshared(self, first: int, end: int) -> range:
        """Identities of blocks ``first`` to ``end`` - 1, all beyond ``shared``: negative."""
        return range(self._unshared - first, self._unshared - end, -1)


def block_identities(spec: RequestSpec, block_size: int) -> tuple[int, ...]:
    """The request's known prefix identities in blocks of ``block_size`` tokens.

    An identity stands for everything up to the end of its block, so a larger block takes that of
    its last part, and a smaller one within a larger gets a number of its own in it. Parts that do
    not divide evenly are left out.
    """
    given, size = spec.prefix_block_ids, spec.prefix_block_size
    if spec.adapter is not None:  # what an adapter computes is of use to no other
        given = tuple((block + 1 << _ADAPTER_BITS) + spec.adapter for block in given)
    if size == block_size or not given:
        return given
    if block_size % size == 0:
        step = block_size // size
        return given[step - 1 :: step]
    if size % block_size == 0:
        parts = size // block_size
        return tuple(block * parts + part for block in given for part in range(parts))
    return ()
