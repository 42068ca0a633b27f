"""Works as text and back: what a kernel is called where its times are kept."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable

from servesim.graph.work import (
    AttentionWork,
    CollectiveWork,
    GemmWork,
    MemoryWork,
    MoeWork,
    RecurrentWork,
    Work,
)

_WORKS: dict[str, type] = {
    cls.family: cls
    for cls in (AttentionWork, CollectiveWork, GemmWork, MemoryWork, MoeWork, RecurrentWork)
}
#: Left out where nothing is shared.
_SHARED = ("shared_keys", "repeated_keys")


def name_of(work: Work) -> str:
    """``work`` as one line of JSON, without its label: equal work has one name."""
    values = dataclasses.asdict(work)  # type: ignore[call-overload]
    values.pop("label")
    named = {k: v for k, v in values.items() if v or k not in _SHARED}
    return json.dumps({"family": work.family, **named})


def work_of(name: str) -> Work:
    """The work that `name_of` named."""
    values = json.loads(name)
    cls = _WORKS[values.pop("family")]
    if "prefills" in values and isinstance(values["prefills"], list):
        values["prefills"] = tuple(tuple(pair) for pair in values["prefills"])
    made: Work = cls(**values, label="")
    return made


def kernels_in(names: Iterable[str]) -> dict[str, Work]:
    """The works among ``names``, which may be those of probes, too."""
    return {name: work_of(name) for name in names if name.startswith("{")}
