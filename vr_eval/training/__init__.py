"""Training of a cell through the Hugging Face Trainer: stage 1 the method's new parameters, stage 2 the decoder too."""
