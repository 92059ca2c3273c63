"""Benchmarks: every figure beside its peer in the same run. `python -m tests.bench`, see docs/performance.md."""
