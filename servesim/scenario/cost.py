"""What a run costs: rent, electricity, carbon; by token."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from servesim.hardware.prices import price_of
from servesim.runtime.energy.report import EnergyReport
from servesim.runtime.metrics import finished, makespan
from servesim.runtime.records import Records, State

if TYPE_CHECKING:
    from servesim.scenario.build import Deployment, Served

_SECONDS_PER_HOUR = 3600.0
_JOULES_PER_KWH = 3.6e6


@dataclass(frozen=True, slots=True)
class CostReport:
    """Dollars and grams of a run.

    Attributes:
        usd: rent and electricity from the first arrival to the last token; None when a rent is
            unknown.
        usd_per_hour: rent of all devices in the mean over that time; instances that are stopped
            cost nothing.
        usd_per_million_input, usd_per_million_output: the run's cost split by the time that
            prefills and decodes take, over the finished requests' tokens.
        usd_per_million: over all their tokens.
        carbon_g: of the electricity; None when the power is not known.
        basis: where rents come from.
    """

    usd: float | None
    usd_per_hour: float | None
    usd_per_million_input: float | None
    usd_per_million_output: float | None
    usd_per_million: float | None
    carbon_g: float | None
    basis: str


def cost_of(deployment: Deployment, records: Records, energy: EnergyReport | None) -> CostReport:
    """The cost of a run of ``deployment`` that took ``energy``."""
    section = deployment.scenario.cost
    kwh = energy.total / _JOULES_PER_KWH if energy else 0.0
    carbon = kwh * section.carbon_g_per_kwh if energy else None
    rents = [_rent(one, section.usd_per_device_hour) for one in deployment.served]
    basis = "; ".join(dict.fromkeys(source for _, source in rents))
    known = [rent for rent, _ in rents if rent is not None]
    if len(known) < len(rents):
        return CostReport(None, None, None, None, None, carbon, basis)
    each = zip(known, deployment.served, strict=True)
    engines = [rent / len(one.engines) for rent, one in each for _ in one.engines]
    span = makespan(records.requests)
    spent = zip(engines, stopped_s(records), strict=True)
    rent = sum(hourly * (span - stopped) for hourly, stopped in spent) / _SECONDS_PER_HOUR
    usd = rent + kwh * section.usd_per_kwh
    done = finished(records.requests)
    prompt = float(records.requests.column("prompt_tokens")[done].sum())
    output = float(records.requests.column("output_tokens")[done].sum())
    share = energy.prefill_share if energy else None
    return CostReport(
        usd=usd,
        usd_per_hour=rent / span * _SECONDS_PER_HOUR if span else sum(engines),
        usd_per_million_input=None if share is None else _per_million(usd * share, prompt),
        usd_per_million_output=None if share is None else _per_million(usd * (1 - share), output),
        usd_per_million=_per_million(usd, prompt + output),
        carbon_g=carbon,
        basis=basis,
    )


def stopped_s(records: Records) -> list[float]:
    """Seconds of the makespan during which each instance was stopped."""
    start = float(records.requests.column("arrival_s").min()) if len(records.requests) else 0.0
    end = start + makespan(records.requests)
    total, since = [0.0] * len(records.instances), [end] * len(records.instances)
    for change in records.changes:
        number, now = change.instance, min(max(change.time_s, start), end)
        total[number] += max(now - since[number], 0.0)
        since[number] = now if change.state is State.STOPPED else end
    return [done + end - last for done, last in zip(total, since, strict=True)]


def _rent(served: Served, given: float | None) -> tuple[float | None, str]:
    """Dollars an hour of all devices of an instance and its copies, and where that is from."""
    if given is not None:
        return given * served.devices, "given"
    kinds = [(served.device.name, served.own_devices)]
    kinds += [(device.name, served.instance.count * count) for device, count in served.beside]
    rent, basis = 0.0, dict[str, None]()
    for name, devices in kinds:
        price = price_of(name)
        if price is None:
            return None, f"no rent of {name} is known: give [cost] usd_per_device_hour"
        rent += price.usd_per_hour * devices
        basis[f"{name}: {price.source}, {price.date}"] = None
    return rent, "; ".join(basis)


def _per_million(usd: float, tokens: float) -> float | None:
    return usd / tokens * 1e6 if tokens else None
