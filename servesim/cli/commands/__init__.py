"""The commands; adding one means adding a file."""
