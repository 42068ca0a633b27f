"""Importers: what others measured, as cost models."""
