"""Texts as vectors of length one, by whichever encoder the config names. No JAX, no PyTorch until one asks for it."""
