"""Benchmarks: scripts that measure, and their results in `benchmarks/results`, with machine and versions."""
