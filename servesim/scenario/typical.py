"""Where the time goes: the operators of an average decode step of a run."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np

from servesim.graph.batch import BatchShape
from servesim.runtime.records import InstanceRecords
from servesim.runtime.step_model import OpCost
from servesim.scenario.build import Served
from servesim.scenario.run import Result


@dataclass(frozen=True, slots=True)
class TypicalStep:
    """A step of decodes only, as many and with as much context as the run had on average.

    Attributes:
        sequences: decoding.
        context: of each, in tokens.
        costs: of its operators, the longest first.
    """

    served: Served
    sequences: int
    context: int
    costs: tuple[OpCost, ...]

    @property
    def seconds(self) -> float:
        """Of the whole step."""
        return sum(cost.seconds for cost in self.costs)


def typical_steps(result: Result) -> list[TypicalStep]:
    """One for each ``[[instance]]`` that decoded anything."""
    found, instances = [], list(result.records.instances)
    for served in result.deployment.served:
        own, instances = instances[: len(served.engines)], instances[len(served.engines) :]
        if (step := _typical(served, own)) is not None:
            found.append(step)
    return found


def _typical(served: Served, records: list[InstanceRecords]) -> TypicalStep | None:
    decodes = sum(one.steps.column("decodes").sum() for one in records)
    if not decodes:
        return None
    context = sum(one.steps.column("decode_context").sum() for one in records)
    steps = sum(one.steps.column("steps")[one.steps.column("decodes") > 0].sum() for one in records)
    sequences, each = round(decodes / steps), round(context / decodes)
    contexts = np.full(sequences, each, dtype=np.int64)
    speculation = served.config.speculation
    drafts = speculation.num_speculative_tokens if speculation else 0
    batch = BatchShape((), sequences, sequences * each, each, contexts, drafts=drafts)
    costs = _joined(served.step_model.cost_breakdown(batch))
    ordered = sorted(costs, key=lambda cost: -cost.seconds)
    return TypicalStep(served, sequences, each, tuple(ordered))


def _joined(costs: Iterable[OpCost]) -> Iterable[OpCost]:
    """Operators of one name, device and source as one."""
    found: dict[tuple[str, str, str], OpCost] = {}
    for cost in costs:
        key = (cost.label, cost.device, cost.source.value)
        before = found.get(key, replace(cost, count=0, seconds=0.0))
        seconds = before.seconds + cost.seconds
        found[key] = replace(cost, count=before.count + cost.count, seconds=seconds)
    return found.values()
