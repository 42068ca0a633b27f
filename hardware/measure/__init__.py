"""Measuring a device: kernels run one by one, their times kept and turned into a device file."""
