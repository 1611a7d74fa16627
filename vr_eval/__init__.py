"""Compress vision tokens, look again, measure: an evaluation harness."""
