"""A router for each model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from servesim.runtime.request import RequestSpec
from servesim.runtime.routers import ROUTERS, Router, Snapshot


@ROUTERS.register("per_model")
@dataclass(frozen=True)
class PerModel:
    """Every model's requests are dealt out on their own, by one policy or by one each.

    Requests that name a model reach only its instances whatever the router; here each model has a
    turn, a memory and random numbers of its own.

    Attributes:
        default: kind of router for models that ``models`` does not name.
        models: kind of router by model.

    Raises:
        UnknownNameError: no such router.
    """

    default: str = "least_loaded"
    models: Mapping[str, str] = field(default_factory=dict)
    _routers: dict[str | None, Router] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def __post_init__(self) -> None:
        for kind in (self.default, *self.models.values()):
            ROUTERS.get(kind)

    @property
    def needs(self) -> tuple[str, ...]:
        """What any of its routers looks at."""
        kinds = dict.fromkeys((self.default, *self.models.values()))
        return tuple(need for kind in kinds for need in getattr(ROUTERS.get(kind), "needs", ()))

    def choose(self, spec: RequestSpec, instances: Sequence[Snapshot]) -> int:
        """What the router of the request's model says."""
        if spec.model not in self._routers:
            kind = self.models.get(spec.model or "", self.default)
            self._routers[spec.model] = ROUTERS.build(kind)
        return self._routers[spec.model].choose(spec, instances)
