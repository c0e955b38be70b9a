"""Replay of a model's graph: `graph` traces it, `program` optimizes it."""
