"""Requests drawn by hypothesis."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import strategies as st

from servesim.runtime.request import RequestSpec


@st.composite
def requests_that_share(
    draw: st.DrawFn, most: int, gaps: Sequence[float], block_size: int
) -> list[RequestSpec]:
    """Up to ``most`` requests, ``gaps`` seconds apart, whose prompts may begin alike."""
    now, requests = 0.0, []
    for number in range(draw(st.integers(1, most))):
        now += draw(st.sampled_from(gaps))
        prompt, output = draw(st.integers(1, 60)), draw(st.integers(1, 30))
        shared = draw(st.integers(0, (prompt + output) // block_size))
        first = 1000 * draw(st.integers(0, 2))
        ids = tuple(range(first, first + shared))
        requests.append(RequestSpec(number, now, prompt, output, ids, block_size))
    return requests
