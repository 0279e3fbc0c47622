"""Generating text from a decoder: an engine on explicit state, and a scheduler that batches requests over it.

Knows no port and no trainer: serving, evaluation and the command line all generate through this one place.
"""
