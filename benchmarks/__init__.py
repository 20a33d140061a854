"""Benchmarks behind the figures that the README quotes; not part of the product."""
