"""Evaluation harnesses: what brings a model's answers to questions that others ask."""
