"""Which instances of a cluster could run a request, or why none could."""

from __future__ import annotations

from collections.abc import Sequence

from servesim.runtime.handover import Handovers
from servesim.runtime.member import Member, chosen
from servesim.runtime.records import State
from servesim.runtime.request import RequestSpec
from servesim.runtime.roles import Role, encoded
from servesim.runtime.routers import Router


class Dispatch:
    """The members of a cluster as places for requests."""

    def __init__(self, members: Sequence[Member], router: Router, handovers: Handovers) -> None:
        self._members = members
        self._router = router
        self._handovers = handovers

    def able(self, spec: RequestSpec) -> list[Member]:
        """Members that could run ``spec``, whether they serve now or not."""
        return [member for member in self._members if self._refusal(member, spec) is None]

    def reason(self, spec: RequestSpec) -> str:
        """Why none could run ``spec``: the word of the first that serves its model."""
        members = sorted(self._members, key=lambda member: not member.serves(spec))
        reasons = (self._refusal(member, spec) for member in members)
        return next((reason for reason in reasons if reason is not None), "nobody takes it")

    def encoded_to(self, spec: RequestSpec) -> Member | None:
        """Who computes the prompt of a request whose images were encoded; None if nobody serves."""
        spec = encoded(spec)
        up = [member for member in self.able(spec) if member.state is State.UP]
        return chosen(self._router, spec, up) if up else None

    def _refusal(self, member: Member, spec: RequestSpec) -> str | None:
        if not member.serves(spec):
            return f"no instance serves {spec.model}" if spec.model else "it only decodes"
        reason = member.refusal(spec)
        if reason is None and member.instance.role is Role.PREFILL:
            return self._handovers.possible(spec)
        return reason
