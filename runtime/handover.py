"""From prefill to decode: a request's KV goes from one instance to another.

The decode instance reserves blocks before anything is sent; while it has no room, the KV stays
where it was computed and takes up blocks there, so that a full decode pool slows the prefill pool
down and nothing is refused. Reservations of an instance are granted in order.

Sent layer by layer, KV of a step follows the computation: all but the last layer's can be on its
way while the step still runs.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Literal

from servesim.runtime.events import EventQueue, Order
from servesim.runtime.member import Member, chosen
from servesim.runtime.network.flows import Flow
from servesim.runtime.records import RequestRecords, State
from servesim.runtime.request import RequestSpec
from servesim.runtime.roles import Role, prefill_part
from servesim.runtime.routers import Router
from servesim.runtime.routers.least_loaded import LeastLoaded
from servesim.runtime.sequence import Sequence as EngineSequence
from servesim.runtime.transfers import Transfers


@dataclass(frozen=True)
class HandoverOptions:
    """How KV goes from prefill to decode instances.

    Attributes:
        transfer: send after the prefill, or layer by layer while it runs.
        first_token: who gives it. ``decode``, as in vLLM: the decode instance computes the last
            prompt token again, so the time to the first token includes the transfer.
            ``prefill``: it comes at once, and the second one waits for the transfer.
        router: chooses the decode instance.
    """

    transfer: Literal["after_prefill", "layerwise"] = "after_prefill"
    first_token: Literal["decode", "prefill"] = "decode"
    router: Router = field(default_factory=LeastLoaded)

    @property
    def generated(self) -> int:
        """Tokens of the answer that the decode instance gets with the KV."""
        return int(self.first_token == "prefill")


@dataclass(eq=False, slots=True)
class Handover:
    """One request between two instances.

    Attributes:
        source: where its prompt is computed.
        target: where it will decode, once chosen.
        kept: the sequence at the source, when its prompt is done.
        reserved: the sequence at the target, when it has its blocks.
        ready: prompt tokens whose KV can be sent; parts of layers count as parts of tokens.
        sent: prompt tokens whose KV is at the target, or on its way.
        early: whether to send before the prefill is over.
    """

    spec: RequestSpec
    row: int
    source: Member
    early: bool
    target: Member | None = None
    kept: EngineSequence | None = None
    reserved: EngineSequence | None = None
    ready: float = 0.0
    sent: float = 0.0
    flow: Flow | None = None


class Handovers:
    """All requests that prefill instances compute or still hold, by row of the records."""

    def __init__(
        self,
        members: Sequence[Member],
        transfers: Transfers,
        events: EventQueue,
        requests: RequestRecords,
        options: HandoverOptions,
        wake: Callable[[Member, float], None],
    ) -> None:
        self._decoders = [one for one in members if one.instance.role is Role.DECODE]
        self._transfers = transfers
        self._events = events
        self._requests = requests
        self._options = options
        self._wake = wake
        self._open: dict[int, Handover] = {}
        self._queues: dict[int, deque[Handover]] = {one.number: deque() for one in self._decoders}
        for one in members:
            layerwise = options.transfer == "layerwise"
            one.engine.tells_prefills = layerwise and one.instance.role is Role.PREFILL

    def __len__(self) -> int:
        return len(self._open)

    def possible(self, spec: RequestSpec) -> str | None:
        """Why no decode instance could ever take ``spec``; None if one can."""
        reason: str | None = "no decode instance serves its model"
        for one in self._decoders:
            if one.serves(spec, decodes=True):
                reason = one.refusal(spec)
                if reason is None:
                    return None
        return reason

    def needed(self, spec: RequestSpec) -> bool:
        """Whether anything is left to decode after the prefill."""
        return spec.output_tokens > self._options.generated

    def begin(self, spec: RequestSpec, row: int, source: Member) -> None:
        """A request was sent to prefill instance ``source``."""
        early = self._options.transfer == "layerwise"
        self._open[row] = Handover(spec, row, source, early)
        source.engine.submit(prefill_part(spec), row, hands_over=True)

    # The prefill goes on.

    def step_started(self, source: Member, now: float) -> None:
        """A step with prefills runs on ``source``: its KV comes layer by layer, from ``now`` on."""
        start_s, end_s, grants = source.engine.prefills()
        layers = source.instance.num_layers
        first_layer_s = max(now, start_s + (end_s - start_s) / layers)
        for seq, computed, new in grants:
            one = self._open.get(seq.index)
            if one is None or not one.early:
                continue
            most = computed + new * (layers - 1) / layers
            self._events.push(first_layer_s, Order.TRANSFER, partial(self._computed, one, most))
            self._events.push(end_s, Order.TRANSFER, partial(self._computed, one, computed + new))

    def _computed(self, one: Handover, tokens: float, now: float) -> None:
        """KV of the first ``tokens`` of a request is there, unless it was given up."""
        if self._open.get(one.row) is one and one.early:
            one.ready = max(one.ready, tokens)
            self._place(one, now)
            self._send(one, now)

    def prefilled(self, seq: EngineSequence, now: float) -> None:
        """A prefill is over."""
        one = self._open[seq.index]
        if seq.ticket is None:  # preempted while its last step was under way: its KV is gone
            one.source.engine.submit(seq.spec, one.row, hands_over=True)
            return
        one.kept, one.ready = seq, one.spec.prompt_tokens
        self._place(one, now)
        self._send(one, now)

    # The decode instance makes room.

    def _place(self, one: Handover, now: float) -> None:
        """Choose a decode instance that is up, if there is one, and queue for its blocks."""
        if one.target is not None:
            return
        able = [
            decoder
            for decoder in self._decoders
            if decoder.state is State.UP
            and decoder.serves(one.spec, decodes=True)
            and decoder.refusal(one.spec) is None
        ]
        if able:
            one.target = chosen(self._options.router, one.spec, able)
            one.target.coming += 1
            self._requests.instance[one.row] = one.target.number
            self._queues[one.target.number].append(one)
            self.room(one.target, now)

    def room(self, target: Member, now: float) -> None:
        """Grant reservations of ``target`` as long as there is room."""
        queue = self._queues.get(target.number)
        while queue:
            one = queue[0]
            seq = target.engine.reservations.reserve(one.spec, one.row, self._options.generated)
            if seq is None:
                break
            queue.popleft()
            one.reserved, one.sent = seq, seq.cached_tokens or 0
            self._send(one, now)

    # The transfer.

    def _send(self, one: Handover, now: float) -> None:
        """Send what can be sent; the decode begins when nothing is left."""
        if one.reserved is None or one.flow is not None:
            return
        assert one.target is not None
        last = one.kept is not None
        if not last and one.ready <= one.sent:
            return
        receiver = one.target.instance
        size = max(one.ready - one.sent, 0.0) * receiver.kv_bytes_per_token
        size += receiver.state_bytes if last else 0.0
        one.sent = max(one.sent, one.ready)
        if not self._requests.transfer_start_s[one.row] <= now:
            self._requests.transfer_start_s[one.row] = now
        ends = one.source.name, one.target.name
        one.flow = self._transfers.send(now, ends, size, partial(self._arrived, one, last))

    def _arrived(self, one: Handover, last: bool, now: float) -> None:
        one.flow = None
        if not last:
            self._send(one, now)
            return
        assert one.kept is not None
        assert one.target is not None
        assert one.reserved is not None
        del self._open[one.row]
        self._requests.transfer_end_s[one.row] = now
        generated = self._options.generated
        token_s = self._requests.first_token_s[one.row] if generated else None
        one.target.coming -= 1
        one.target.engine.reservations.receive(one.reserved, token_s)
        self._wake(one.target, now)
        one.source.engine.reservations.release(one.kept)
        self._wake(one.source, now)

    # Things go wrong.

    def lost(self, failed: Member, now: float) -> list[int]:
        """``failed`` lost its KV: rows of the requests that it had prefilled or was to prefill.

        Requests that were to decode there go to another decode instance.
        """
        ours = [one for one in self._open.values() if one.source is failed]
        for one in ours:
            self._withdraw(one, now)
            del self._open[one.row]
        for one in list(self._open.values()):
            if one.target is failed:
                self._withdraw(one, now)
                if one.kept is not None:
                    self._place(one, now)
        self._room_everywhere(now)
        return [one.row for one in ours]

    def place_all(self, now: float) -> None:
        """A decode instance came up: requests without one may go there."""
        for one in list(self._open.values()):
            if one.kept is not None:
                self._place(one, now)

    def relieve(self, now: float) -> bool:
        """Resolve a standstill: requests not prefilled yet give up the blocks they wait with.

        They wait until they are prefilled, then queue again. Returns whether there were any.
        """
        early = [one for one in self._open.values() if one.target and one.kept is None]
        for one in early:
            one.early = False
            self._withdraw(one, now)
        self._room_everywhere(now)
        return bool(early)

    def _room_everywhere(self, now: float) -> None:
        for decoder in self._decoders:
            self.room(decoder, now)

    def abandon(self, now: float) -> list[int]:
        """Free what is kept for requests that no decode instance will take; returns their rows."""
        left = [one for one in self._open.values() if one.kept and one.target is None]
        for one in left:
            assert one.kept is not None
            del self._open[one.row]
            one.source.engine.reservations.release(one.kept)
            self._wake(one.source, now)
        return [one.row for one in left]

    def _withdraw(self, one: Handover, now: float) -> None:
        """Give up the transfer and the place at the target."""
        if one.flow is not None:
            self._transfers.cancel(now, one.flow)
        target, reserved = one.target, one.reserved
        one.target = one.reserved = one.flow = None
        one.sent = 0.0
        if target is None:
            return
        target.coming -= 1
        if reserved is None:
            self._queues[target.number].remove(one)
        elif target.state is not State.FAILED:
            target.engine.reservations.release(reserved)
            self._wake(target, now)
