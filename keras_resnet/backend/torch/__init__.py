"""Replay of a model's graph on PyTorch: `graph` traces, `program` runs."""
