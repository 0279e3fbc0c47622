"""maxllm: documents in, a served language model out. Importing this package imports neither JAX nor Beam."""

__version__ = "0.1.0"
