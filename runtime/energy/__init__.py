"""Energy of a run: what its steps compute and move, and what that and the waiting draw."""
