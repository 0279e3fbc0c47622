"""Attention and cross-entropy: each an obvious reference and its fast twins."""
