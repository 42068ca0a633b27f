"""Which scheduler an engine's options ask for."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from servesim.errors import UnsupportedError
from servesim.runtime.config import EngineConfig
from servesim.runtime.drafts import Drafts
from servesim.runtime.kv.cache import KVCache
from servesim.runtime.modes import DEFAULT_MODES, SchedulerModes
from servesim.runtime.roles import Role
from servesim.runtime.scheduler import Scheduler
from servesim.runtime.schedulers import SCHEDULERS


@runtime_checkable
class OwnRules(Protocol):
    """A scheduling policy whose engine does not decide as vLLM does."""

    def scheduler(self, config: EngineConfig, cache: KVCache, modes: SchedulerModes) -> Scheduler:
        """What decides by its rules."""


def build_scheduler(
    config: EngineConfig,
    cache: KVCache,
    modes: SchedulerModes = DEFAULT_MODES,
    role: Role = Role.BOTH,
    drafts: Drafts | None = None,
) -> Scheduler:
    """The scheduler of ``config``: vLLM's, unless its policy has rules of its own.

    Args:
        drafts: of an engine that speculates; drawn if they are not given.

    Raises:
        UnsupportedError: an option, or a role, that those rules do not know.
    """
    policy = SCHEDULERS.build(config.scheduling_policy)
    if isinstance(policy, OwnRules):
        if role is not Role.BOTH:
            raise UnsupportedError(
                f"role {role.value}: not modelled with scheduling_policy {config.scheduling_policy}"
            )
        return policy.scheduler(config, cache, modes)
    return Scheduler(config, policy, cache, modes, drafts)
