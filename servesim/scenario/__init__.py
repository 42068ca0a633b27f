"""Scenarios: what is simulated, built from its parts and run."""
