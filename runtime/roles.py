"""What an instance does of a request's life: all of it, its images, its prefill, or its decode."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from enum import Enum

from servesim.errors import InputError
from servesim.runtime.request import RequestSpec


class Role(Enum):
    """The part of a request that an instance takes."""

    BOTH = "both"
    PREFILL = "prefill"
    DECODE = "decode"
    ENCODE = "encode"


def check_roles(roles: Sequence[Role]) -> None:
    """Refuse a deployment in which a request could not come to its end.

    Raises:
        InputError: instances for prefill without any for decode, or the other way round; none but
            for images.
    """
    if all(role is Role.ENCODE for role in roles):
        raise InputError("encode instances need others that compute prompts")
    if (Role.PREFILL in roles) != (Role.DECODE in roles):
        missing = Role.DECODE if Role.PREFILL in roles else Role.PREFILL
        raise InputError(f"prefill and decode instances need each other: no {missing.value} one")


def prefill_part(spec: RequestSpec) -> RequestSpec:
    """The request as a prefill instance sees it: over with the first token."""
    most = (spec.prompt_tokens + 1) // spec.prefix_block_size
    return replace(
        spec, output_tokens=1, max_tokens=None, prefix_block_ids=spec.prefix_block_ids[:most]
    )


def encode_part(spec: RequestSpec) -> RequestSpec:
    """The request as an encode instance sees it: its images are the prompt."""
    return replace(
        spec,
        prompt_tokens=sum(spec.images),
        output_tokens=1,
        max_tokens=None,
        prefix_block_ids=(),
        adapter=None,
    )


def encoded(spec: RequestSpec) -> RequestSpec:
    """The request when its images are encoded."""
    return replace(spec, images=()) if spec.images else spec
