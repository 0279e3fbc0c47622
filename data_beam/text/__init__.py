"""Statistics of a text, each computed once. No Beam, no thresholds."""
