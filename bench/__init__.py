"""Benchmarks: tinyrnn beside what a user would pick instead, interleaved in one process. `python -m bench --help`."""
