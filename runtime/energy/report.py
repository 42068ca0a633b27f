"""Energy of a whole run: every accelerator, the servers around them, and the building."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from servesim.errors import InputError
from servesim.hardware.power.server import ServerPower
from servesim.runtime.energy.account import STATES, EngineEnergy, Powered, engine_energy
from servesim.runtime.energy.columns import Values
from servesim.runtime.metrics import finished
from servesim.runtime.records import Records

#: The host's traffic for a token: its id in and out. Host memory sees little else but experts that
#: are kept there.
TOKEN_BYTES = 8.0


@dataclass(frozen=True)
class EnergyReport:
    """Joules of a run, from time 0 to ``seconds``.

    Attributes:
        components: by part of the system; ``cooling`` is what the PUE adds.
        states: the accelerators' part by what they were doing.
        families: the accelerators' active part by operator family.
        prefill_joules, decode_joules: the accelerators' active part by phase.
        prefill_share: share of the steps' time that prefills account for.
        output_tokens, tokens: generated, and processed in all, by finished requests.
        request_joules: of each finished request: its tokens' share of the active energy of its
            phase, and an equal share of everything else.
        engines: one by one.
        constant_watts: of everything else, at rest, with its traffic spread over the run.
        serving_watts: added by the hosts while steps run.
    """

    seconds: float
    components: Mapping[str, float]
    states: Mapping[str, float]
    families: Mapping[str, float]
    prefill_joules: float
    decode_joules: float
    prefill_share: float
    output_tokens: int
    tokens: int
    request_joules: Values
    engines: tuple[EngineEnergy, ...]
    constant_watts: float
    serving_watts: float
    pue: float

    @property
    def total(self) -> float:
        """Joules in all."""
        return sum(self.components.values())

    @property
    def mean_watts(self) -> float:
        """Mean power over the run."""
        return self.total / self.seconds if self.seconds else 0.0

    @property
    def joules_per_output_token(self) -> float:
        """All energy over the tokens generated; nan without any."""
        return self.total / self.output_tokens if self.output_tokens else float("nan")

    @property
    def joules_per_request(self) -> float:
        """All energy over the finished requests; nan without any."""
        count = len(self.request_joules)
        return self.total / count if count else float("nan")

    def watts(self, edges: Values) -> Values:
        """Mean power between every two neighbouring ``edges`` (seconds).

        Raises:
            InputError: the edges do not increase.
        """
        widths = np.diff(edges)
        if not (widths > 0).all():
            raise InputError("power over time needs increasing times")
        drawn = np.zeros(len(widths))
        for one in self.engines:
            drawn += np.diff(np.interp(edges, one.times, one.joules))
            busy = np.diff(np.interp(edges, one.times, one.busy))
            drawn += busy * self.serving_watts / len(self.engines)
        return np.asarray((drawn / widths + self.constant_watts) * self.pue)


def energy_report(
    records: Records,
    powered: Sequence[Powered],
    server: ServerPower | None = None,
    until_s: float | None = None,
) -> EnergyReport:
    """The energy of a run.

    Args:
        powered: the accelerators of each instance, in the records' order.
        server: what is around them; nothing by default.
        until_s: end of the time that counts, if it is after the last step.
    """
    server = server or ServerPower()
    ends = [one.steps.end_s[-1] for one in records.instances if len(one.steps)]
    until = max(*ends, until_s or 0.0, 0.0)
    engines = tuple(
        engine_energy(one.steps, power, until)
        for one, power in zip(records.instances, powered, strict=True)
    )
    components = _components(records, engines, server, until)
    serving = server.count * (server.cpu.watts(1.0) - server.cpu.watts(0.0))
    busy = sum(one.busy_s for one in engines)
    done = finished(records.requests)
    output = int(records.requests.column("output_tokens")[done].sum())
    prompt = int(records.requests.column("prompt_tokens")[done].sum())
    return EnergyReport(
        seconds=until,
        components=components,
        states={state: sum(one.states[state] for one in engines) for state in STATES},
        families=_summed([one.families for one in engines]),
        prefill_joules=sum(one.prefill_joules for one in engines),
        decode_joules=sum(one.decode_joules for one in engines),
        prefill_share=sum(one.prefill_share * one.busy_s for one in engines) / (busy or 1.0),
        output_tokens=output,
        tokens=output + prompt,
        request_joules=_request_joules(records, engines, sum(components.values())),
        engines=engines,
        constant_watts=_constant(components, serving * busy / len(engines), until),
        serving_watts=serving,
        pue=server.pue,
    )


def _components(
    records: Records, engines: Sequence[EngineEnergy], server: ServerPower, until: float
) -> dict[str, float]:
    """Joules by component."""
    tokens = sum(
        float(one.steps.column("prefill_tokens").sum() + one.steps.column("decodes").sum())
        for one in records.instances
    )
    serving = sum(one.busy_s for one in engines) / (len(engines) * until) if until else 0.0
    parts = {
        "cpu": server.count * server.cpu.watts(serving) * until,
        "dram": server.count * server.dram.watts * until
        + server.dram.joules(2 * TOKEN_BYTES * tokens + sum(one.host_bytes for one in engines)),
        "links": server.count * server.link.watts * until
        + server.link.joules(sum(one.link_bytes for one in engines)),
        "nic": server.count * server.nic.watts * until + server.nic.joules(TOKEN_BYTES * tokens),
        "storage": server.count * server.storage.watts * until,
        "base": server.count * server.base_watts * until,
    }
    parts = {"accelerators": sum(one.total for one in engines), **parts}
    parts["cooling"] = (server.pue - 1.0) * sum(parts.values())
    return parts


def _constant(components: Mapping[str, float], serving_joules: float, until: float) -> float:
    """Watts of all that neither follows the accelerators nor the steps."""
    varying = components["accelerators"] + components["cooling"] + serving_joules
    return (sum(components.values()) - varying) / until if until else 0.0


def _request_joules(records: Records, engines: Sequence[EngineEnergy], total: float) -> Values:
    """Joules of each finished request, in the order of the records."""
    requests = records.requests
    done = finished(requests)
    computed = (requests.column("prompt_tokens") - requests.column("cached_tokens"))[done]
    output = requests.column("output_tokens")[done]
    prefilled, decoded = (requests.column(c)[done] for c in ("prefill_instance", "instance"))
    joules = np.zeros(len(computed))
    for number, one in enumerate(engines):
        for where, tokens, active in (
            (prefilled, computed, one.prefill_joules),
            (decoded, output, one.decode_joules),
        ):
            own = where == number
            joules[own] += active * tokens[own] / max(float(tokens[own].sum()), 1.0)
    rest = (total - float(joules.sum())) / max(len(joules), 1)
    return np.asarray(joules + rest)


def _summed(tables: Sequence[Mapping[str, float]]) -> dict[str, float]:
    names = sorted({name for table in tables for name in table})
    return {name: sum(table.get(name, 0.0) for table in tables) for name in names}
