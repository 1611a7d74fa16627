"""Checkpoints on the hub, each with a model card that is made from its run."""
