"""One physical form per family of work: seconds from sizes and a few named coefficients."""
