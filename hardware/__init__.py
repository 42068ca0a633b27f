"""What computes it and how long that takes: devices, memories, links, cost models."""
