"""Errors that are the user's to mend."""

from __future__ import annotations


class UserError(Exception):
    """One sentence: what was wrong, where, what to do. The command line prints it and exits with 2, no traceback."""
