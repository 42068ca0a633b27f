"""From encoder to language model: a request's embeddings go from one instance to another.

An encode instance is an engine whose prompts are images and whose blocks hold embeddings. They stay
there until the instance that will compute the prompt has room for them, and has got them: a
full language model slows the encoders down, and nothing is refused. Room is granted in order.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from servesim.runtime.member import Member, chosen
from servesim.runtime.network.flows import Flow
from servesim.runtime.records import RequestRecords, State
from servesim.runtime.request import RequestSpec
from servesim.runtime.roles import Role, encode_part
from servesim.runtime.routers.least_loaded import LeastLoaded
from servesim.runtime.sequence import Sequence as EngineSequence
from servesim.runtime.transfers import Transfers


@dataclass(eq=False, slots=True)
class Encoding:
    """One request between its encoder and its language model.

    Attributes:
        source: where its images are encoded.
        kept: the sequence there, when they are.
        target: where its prompt will be computed, once chosen.
    """

    spec: RequestSpec
    row: int
    source: Member
    kept: EngineSequence | None = None
    target: Member | None = None
    flow: Flow | None = None

    @property
    def tokens(self) -> int:
        """Embeddings of all its images."""
        return sum(self.spec.images)


class EmbeddingStore:
    """Embeddings at an instance that computes prompts, from their transfer to the first token.

    As vLLM's encoder cache it has room for as many as a step has tokens, or for one request.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.held: dict[int, int] = {}  # embeddings by row
        self.queue: deque[Encoding] = deque()

    def take(self, one: Encoding) -> bool:
        """Hold the embeddings of ``one``, if there is room."""
        if self.held and sum(self.held.values()) + one.tokens > self.capacity:
            return False
        self.held[one.row] = one.tokens
        return True


class Encodings:
    """All requests whose images are being encoded, or wait to be sent, by row of the records."""

    def __init__(
        self,
        members: Sequence[Member],
        transfers: Transfers,
        requests: RequestRecords,
        choose: Callable[[RequestSpec], Member | None],
        submit: Callable[[int, Member, float], None],
        wake: Callable[[Member, float], None],
    ) -> None:
        """Args:
        choose: the instance that will compute a request's prompt; None if none serves now.
        submit: sends it a request, its images encoded.
        """
        self._encoders = [one for one in members if one.instance.role is Role.ENCODE]
        self._transfers = transfers
        self._requests = requests
        self._choose, self._submit, self._wake = choose, submit, wake
        self._router = LeastLoaded()
        self._open: dict[int, Encoding] = {}
        self._stores: dict[int, EmbeddingStore] = {}
        for one in members if self._encoders else ():
            if one.instance.role in (Role.BOTH, Role.PREFILL):
                one.engine.tells_prefills = True  # to learn of first tokens
                capacity = one.engine.config.limits.max_num_batched_tokens
                self._stores[one.number] = EmbeddingStore(capacity)

    def needed(self, spec: RequestSpec) -> bool:
        """Whether ``spec`` has images, and there are instances that encode such."""
        return bool(spec.images) and any(one.encodes(spec) for one in self._encoders)

    def possible(self, spec: RequestSpec) -> str | None:
        """Why no encode instance could ever take ``spec``; None if one can."""
        able = [one for one in self._encoders if one.encodes(spec)]
        reasons = [one.refusal(spec) for one in able]
        return None if None in reasons else reasons[0]

    def begin(self, spec: RequestSpec, row: int, now: float) -> bool:
        """Send a request to an encode instance; whether one is up."""
        able = [one for one in self._encoders if one.encodes(spec) and one.refusal(spec) is None]
        up = [one for one in able if one.state is State.UP]
        if not up:
            return False
        source = chosen(self._router, spec, up)
        self._open[row] = Encoding(spec, row, source)
        source.engine.submit(encode_part(spec), row, hands_over=True)
        self._wake(source, now)
        return True

    def encoded(self, seq: EngineSequence, now: float) -> None:
        """The images of a request are encoded."""
        one = self._open[seq.index]
        self._requests.first_token_s[one.row] = math.nan  # that was no token
        if seq.ticket is None:  # preempted while its last step was under way
            one.source.engine.submit(seq.spec, one.row, hands_over=True)
            return
        one.kept = seq
        self._place(one, now)

    def settle(self, member: Member, now: float) -> None:
        """A step of ``member`` ended: embeddings of requests with a first token make room."""
        store = self._stores.get(member.number)
        if store is None or not store.held:
            return
        first = self._requests.first_token_s
        done = [row for row in store.held if row not in self._open and first[row] <= now]
        for row in done:
            del store.held[row]
        if done:
            self._grant(store, now)

    def place_all(self, now: float) -> None:
        """An instance came up: requests without one may go there."""
        for one in list(self._open.values()):
            if one.kept is not None:
                self._place(one, now)

    def lost(self, failed: Member, now: float) -> list[int]:
        """``failed`` lost all it had: rows of the requests whose images it had or was to encode.

        Requests whose prompts were to be computed there go elsewhere.
        """
        ours = [one for one in self._open.values() if one.source is failed]
        for one in ours:
            self._withdraw(one, now)
            del self._open[one.row]
        if (store := self._stores.get(failed.number)) is not None:
            store.held.clear()
        for one in list(self._open.values()):
            if one.target is failed:
                self._withdraw(one, now)
                self._place(one, now)
        return [one.row for one in ours]

    def abandon(self, now: float) -> list[int]:
        """Free what is kept for requests whose prompts nobody will compute; returns their rows."""
        left = [one for one in self._open.values() if one.kept and one.target is None]
        for one in left:
            self._end(one, now)
        return [one.row for one in left]

    def _place(self, one: Encoding, now: float) -> None:
        """Choose who computes the prompt, if anybody serves, and queue for room there."""
        if one.target is not None:
            return
        one.target = self._choose(one.spec)
        if one.target is not None:
            one.target.coming += 1
            store = self._stores[one.target.number]
            store.queue.append(one)
            self._grant(store, now)

    def _grant(self, store: EmbeddingStore, now: float) -> None:
        """Send what there is room for."""
        while store.queue and store.take(store.queue[0]):
            one = store.queue.popleft()
            assert one.target is not None
            size = one.tokens * one.source.instance.embedding_bytes_per_token
            ends = one.source.name, one.target.name
            one.flow = self._transfers.send(now, ends, size, partial(self._arrived, one))

    def _arrived(self, one: Encoding, now: float) -> None:
        target = one.target
        assert target is not None
        one.flow = None
        target.coming -= 1
        self._end(one, now)
        self._submit(one.row, target, now)

    def _end(self, one: Encoding, now: float) -> None:
        """The encode instance is done with a request."""
        assert one.kept is not None
        del self._open[one.row]
        one.source.engine.reservations.release(one.kept)
        self._wake(one.source, now)

    def _withdraw(self, one: Encoding, now: float) -> None:
        """Give up the transfer and the room at the target."""
        if one.target is None:
            return
        store = self._stores[one.target.number]
        if one.flow is not None:
            self._transfers.cancel(now, one.flow)
        if one in store.queue:
            store.queue.remove(one)
        store.held.pop(one.row, None)
        one.target.coming -= 1
        one.target = one.flow = None
        self._grant(store, now)
