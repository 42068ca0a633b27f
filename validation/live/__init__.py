"""Real vLLM runs: driven, recorded, and held against their simulation."""
