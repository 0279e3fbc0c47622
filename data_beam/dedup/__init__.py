"""Exact and fuzzy duplicates. Only keys are shuffled; the oldest document of a group stays."""
