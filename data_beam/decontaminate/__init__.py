"""Evaluation items in training documents: found, dropped, reported; and the other way round."""
