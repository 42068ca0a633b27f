"""Which model: Hugging Face id, folder or config.json, dtype and quantisation."""
