"""Members that save gradients, or do without."""
