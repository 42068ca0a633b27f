"""What an engine is made of, and how a run of it is carried out."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import count

from servesim.errors import InputError
from servesim.graph.kv_layout import KvGroup
from servesim.runtime.config import EngineConfig
from servesim.runtime.drafts import DRAWS, Drafts, DrawnDrafts
from servesim.runtime.encoder import Encoder
from servesim.runtime.roles import Role
from servesim.runtime.step import StepModel
from servesim.runtime.steps import DEFAULT_LIMIT
from servesim.runtime.tiers.options import Offload


@dataclass(frozen=True, slots=True)
class Instance:
    """What an engine is made of.

    Attributes:
        step_model: how long its steps take.
        num_gpu_blocks: KV blocks that the memory holds, one of which is never used;
            ``config.num_gpu_blocks_override`` wins over it.
        name: how results call it; instances that exchange KV need different names.
        wave: engines of one such name take their steps in lock step.
        kv_groups: layers by what they keep; not needed where all keep every token.
        offload: memories below, that keep KV.
        role: what it does of a request's life.
        model: what it serves; requests that name a model go where it is served.
        group: instances of one group are scaled together.
        kv_bytes_per_token, state_bytes: what is sent of a sequence that is handed over to this
            instance: for each token, and however long it is; all devices together.
        num_layers: parts in which KV is computed and can be sent.
        adapter_load_s: seconds to bring a LoRA adapter to the device before a step that needs it.
        encoder: of images; requests with some are refused where there is none.
        embedding_bytes_per_token: what is sent of an image that was encoded here.
        host_s, host_per_sequence_s, host_share: of the host a step, more for each sequence in it,
            and for each second of its operators; asynchronous scheduling hides it all.
        draws: name of the stream of random numbers that says which of its drafts are right.

    Raises:
        InputError: too few blocks.
    """

    config: EngineConfig
    step_model: StepModel
    num_gpu_blocks: int
    name: str = "engine"
    wave: str = ""
    kv_groups: tuple[KvGroup, ...] = ()
    offload: Offload | None = None
    role: Role = Role.BOTH
    model: str | None = None
    group: str = ""
    kv_bytes_per_token: float = 0.0
    state_bytes: float = 0.0
    num_layers: int = 1
    adapter_load_s: float = 0.0
    host_s: float = 0.0
    host_per_sequence_s: float = 0.0
    host_share: float = 0.0
    encoder: Encoder | None = None
    embedding_bytes_per_token: float = 0.0
    draws: str = DRAWS

    def __post_init__(self) -> None:
        if self.blocks < 2:
            raise InputError(f"num_gpu_blocks must be at least 2, not {self.blocks}")

    def host_seconds(self, sequences: int, operators_s: float) -> float:
        """What a step takes beside the ``operators_s`` of its operators."""
        if self.config.async_scheduling:
            return 0.0
        return self.host_s + self.host_per_sequence_s * sequences + self.host_share * operators_s

    @property
    def blocks(self) -> int:
        """KV blocks, the one never used included."""
        return self.config.num_gpu_blocks_override or self.num_gpu_blocks


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """How a run is carried out, without effect on what happens in it.

    Attributes:
        visit_all: use the plain reference scheduler.
        step_rows: rows of step records kept before neighbours are joined.
    """

    visit_all: bool = False
    step_rows: int = DEFAULT_LIMIT


DEFAULT_OPTIONS = EngineOptions()


def with_drafts_in_time(instance: Instance) -> Instance:
    """``instance`` without scheduling ahead where the host makes the drafts, as in vLLM."""
    config = instance.config
    if config.speculation is None or config.speculation.ahead or not config.async_scheduling:
        return instance
    return replace(instance, config=replace(config, async_scheduling=False))


def with_own_draws(instances: Iterable[Instance]) -> list[Instance]:
    """``instances``, each of which that speculates draws from a stream of its own, by its place."""
    drawn = []
    speculating = count()
    for one in instances:
        place = next(speculating) if one.config.speculation is not None else 0
        drawn.append(replace(one, draws=f"{one.draws} {place}") if place else one)
    return drawn


def drawn_drafts(instance: Instance) -> Drafts | None:
    """Drafts as the instance's rates have them; None if it does not speculate."""
    config = instance.config
    if config.speculation is None:
        return None
    return DrawnDrafts(config.speculation, ahead=config.async_scheduling, draws=instance.draws)
