"""Workloads, one file each: where requests come from."""
