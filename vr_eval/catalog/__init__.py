"""Torch-free descriptions: fields, recipes, backbones, chat templates, tasks. What plans, lists and errors need."""
