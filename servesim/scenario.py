"""A scenario: which model on which hardware, under which traffic and engine options."""
