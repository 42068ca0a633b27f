"""Engines on more devices than a tensor-parallel group: pipelines, waves in lock step."""
