"""Recording a model's forward pass on meta tensors; the only part of the graph that needs torch."""
