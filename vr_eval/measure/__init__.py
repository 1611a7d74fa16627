"""What a model costs: operations, time and memory of a prefill and of a decode step."""
