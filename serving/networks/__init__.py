"""Network architectures in PyTorch, written here so that no model library has to be installed."""
