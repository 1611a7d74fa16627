"""How the embedded weights and checkpoints are made from nothing: the tower, the decoder, the cells."""
