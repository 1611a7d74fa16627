"""Methods: a folder each, found by name through ``registry``. The registry and the specs do not import torch."""
