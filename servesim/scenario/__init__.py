"""Scenarios: what is simulated, built from its parts and run."""

from servesim.scenario.build import Deployment, build
from servesim.scenario.run import Result, run, simulate
from servesim.scenario.spec import Scenario

__all__ = ["Deployment", "Result", "Scenario", "build", "run", "simulate"]
