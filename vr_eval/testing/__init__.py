"""What the author of a method calls in a test of his own, without pytest: `check_method("my_method")`."""

from vr_eval.testing.check import check_method

__all__ = ["check_method"]
