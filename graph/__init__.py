"""What a model computes: operators, their work, and the passes that make them serving kernels."""
