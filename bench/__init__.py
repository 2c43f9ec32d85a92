"""Benchmarks: figures, never assertions."""
