"""A scenario: which models on which hardware, under which traffic and engine options."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from servesim.runtime.metrics import Slo
from servesim.runtime.routers import ROUTERS
from servesim.runtime.workloads import WORKLOADS
from servesim.scenario.load import Layer, instances_of, name_of, plugin, read_layer, section
from servesim.scenario.sections import CostSection, Instance, OutputSection, Plugin, PowerSection
from servesim.scenario.system import Around


@dataclass(frozen=True, slots=True)
class Scenario:
    """Everything a simulation depends on.

    Make one with ``Scenario.load`` (a TOML file) or ``Scenario.of`` (sections as keyword
    arguments); vary it with ``changed``.

    Attributes:
        name: of the results, and of their folder.
        instances: the engines; ``Instance.count`` equal ones each.
        workload: the requests.
        router: which instance a request goes to.
        around: the network, who hands over to whom, failures, scaling.
        power: the servers around the accelerators.
        cost: prices.
        slo: what a request may take to count as served well.
        output: files to write.
        layers: what the scenario was made from, so that ``changed`` can add to it.
    """

    name: str
    instances: tuple[Instance, ...]
    workload: Plugin
    router: Plugin
    around: Around
    power: PowerSection
    cost: CostSection
    slo: Slo
    output: OutputSection
    layers: tuple[Layer, ...] = field(repr=False, compare=False)

    @classmethod
    def load(cls, path: str | Path, flags: Mapping[str, Any] | None = None) -> Scenario:
        """The scenario of a TOML file, with ``flags`` (section to table) in place of its values.

        Raises:
            InputError: the file cannot be read, or a section, key or value is refused.
        """
        return cls.from_layers(read_layer(Path(path)), Layer(flags or {}))

    @classmethod
    def of(cls, **sections: Any) -> Scenario:
        """A scenario from its sections: ``model={"id": ...}, hardware={"device": ...}, ...``.

        ``model`` and ``hardware`` may be the id and the device's name alone.

        Raises:
            InputError: a section, key or value is refused.
        """
        return cls.from_layers(Layer(_expanded(sections)))

    def changed(self, **sections: Any) -> Scenario:
        """This scenario with other values, given as to ``of``; all else stays.

        Raises:
            InputError: a section, key or value is refused.
        """
        return self.from_layers(*self.layers, Layer(_expanded(sections)))

    @classmethod
    def from_layers(cls, *layers: Layer) -> Scenario:
        """A scenario from several sources of settings, the later ones stronger.

        Raises:
            InputError: a section, key or value is refused.
        """
        instances = instances_of(layers)
        return cls(
            name=name_of(layers, default=_model_name(instances[0].model.id)),
            instances=instances,
            workload=plugin("workload", WORKLOADS, "poisson", layers),
            router=plugin("router", ROUTERS, "round_robin", layers),
            around=Around.of(layers),
            power=section(PowerSection(), "power", layers),
            cost=section(CostSection(), "cost", layers),
            slo=section(Slo(), "slo", layers),
            output=section(OutputSection(), "output", layers),
            layers=layers,
        )


def _model_name(model: str) -> str:
    """The name of a model without its organisation or folders, for want of another."""
    path = Path(model)
    return (path.parent if path.name == "config.json" else path).resolve().name.lower() or "model"


def _expanded(sections: Mapping[str, Any]) -> dict[str, Any]:
    """Sections with the short forms of ``model`` and ``hardware`` written out."""
    keys = {"model": "id", "hardware": "device"}
    return {k: {keys[k]: v} if k in keys and isinstance(v, str) else v for k, v in sections.items()}
