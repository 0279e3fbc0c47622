"""The rule sets, one a file: pure functions of what was measured and of limits. A limit of null switches its rule off.

Comparisons are as published: a document exactly at a limit stays.
"""

from __future__ import annotations


def outside(low: float | None, value: float, high: float | None) -> bool:
    return (low is not None and value < low) or (high is not None and value > high)
