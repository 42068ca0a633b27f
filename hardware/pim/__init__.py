"""Processing in memory: what units inside DRAM banks reach, from DRAM timing."""
