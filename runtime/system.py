"""What there is around the engines of a run."""

from __future__ import annotations

from dataclasses import dataclass, field

from servesim.hardware.topology import Topology
from servesim.runtime.autoscaling import Autoscaling
from servesim.runtime.failures import Failures
from servesim.runtime.frontend import FrontEnd
from servesim.runtime.handover import HandoverOptions


@dataclass(frozen=True)
class System:
    """What there is around the engines, and what happens to them.

    Attributes:
        topology: joins the instances by their names; needed where KV is handed over.
        handover: how it is.
        failures: of instances.
        autoscaling: how many instances of a group serve; all of them when None.
        cancel_after_s: after which requests are cancelled that do not say otherwise.
        frontend: the server that clients talk to; they talk to the engines themselves when None.
    """

    topology: Topology | None = None
    handover: HandoverOptions = field(default_factory=HandoverOptions)
    failures: Failures = field(default_factory=Failures)
    autoscaling: Autoscaling | None = None
    frontend: FrontEnd | None = None
    cancel_after_s: float | None = None
