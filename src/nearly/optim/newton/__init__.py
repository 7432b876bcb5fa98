"""Members that ask for curvature of all parameters together."""
