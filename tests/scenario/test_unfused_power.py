"""What models that are not fused draw is not known: they run without a limit, and refuse one."""

from typing import Any

import pytest

from servesim import simulate
from servesim.errors import UnsupportedError

SECTIONS: dict[str, Any] = {
    "model": {"id": "meta-llama/Llama-3.1-8B", "fused": False},
    "engine": {"enable_prefix_caching": False},
    "workload": {
        "kind": "poisson",
        "rate": 4,
        "num_requests": 5,
        "prompt_tokens": 50,
        "output_tokens": 5,
    },
}


def test_they_run_without_energy_and_refuse_a_cap() -> None:
    result = simulate(**SECTIONS, hardware={"device": "h100_sxm"})
    assert result.metrics.ttft.mean > 0
    with pytest.raises(UnsupportedError, match="fused = false"):
        simulate(**SECTIONS, hardware={"device": "h100_sxm", "power_limit_watts": 400})
