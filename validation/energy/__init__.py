"""Measured energy of vLLM against what the step and power models predict."""
