"""Classifiers of texts: how they are trained, calibrated, reported, stored, and applied to documents."""
