"""The embedded default: generated benchmarks, a tiny backbone and its checkpoints."""
