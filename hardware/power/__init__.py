"""What machines draw: accelerators by what runs on them, and the server around them."""
