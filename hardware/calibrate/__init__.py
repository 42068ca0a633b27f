"""Fitting the forms to measured kernels: tables in, a device's ``[calibration]`` out."""
