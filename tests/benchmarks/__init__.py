"""Benchmarks: they measure and print, and never fail because of a time. `python -m tests.benchmarks.run --help`."""
