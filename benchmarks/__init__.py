"""Benchmarks: run from the checkout, each as `python -m benchmarks.<name>`; each writes a JSON file and a picture."""
