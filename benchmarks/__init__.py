"""What the documentation quotes, measured: `python -m benchmarks [NAME ...]`."""
