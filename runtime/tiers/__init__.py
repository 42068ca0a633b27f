"""Memories below the accelerator's that keep KV: host DRAM, CXL, NVMe, a remote pool."""
