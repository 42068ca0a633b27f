"""How many requests a second an engine takes before its tail latency grows: a sweep in a script.

python examples/sweep.py
"""

from pathlib import Path

from servesim import Scenario, simulate

RATES = (2, 4, 6, 8, 10, 12)


def main() -> None:
    """Print throughput and latency by request rate."""
    scenario = Scenario.load(Path(__file__).parent / "llama-3.1-8b.toml")
    print("  rate  output tok/s  TTFT p99 ms  TPOT p99 ms  KV peak")
    for rate in RATES:
        got = simulate(scenario, workload={"rate": rate}).metrics
        print(
            f"{rate:6.1f}  {got.output_throughput:12,.0f}  {1e3 * got.ttft.p99:11.1f}  "
            f"{1e3 * got.tpot.p99:11.1f}  {got.kv_use_peak:7.1%}"
        )


if __name__ == "__main__":
    main()
