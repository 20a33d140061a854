"""What is served, and on what: variants, instance types, the Ray Serve data plane."""
