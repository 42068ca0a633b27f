"""Is it true? Measured runs, vLLM's own scheduler, analytic truths."""
