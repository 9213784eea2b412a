"""Benchmarks of a configuration."""
