"""Servers of other frameworks, sized as black boxes through ``tonnage run --cmd``."""
