"""Methods: one file each, found by name through ``registry``. The registry and the options do not import torch."""
