"""From the recorded forward pass to serving operators: one rewrite a file, by dataflow alone."""
