"""The age of documents: left out by date, weighed by year, counted by year.

Dodge et al. and Longpre et al. 2023 (arXiv 2305.13169) measure what a year between pretraining data and evaluation
costs; whoever trains a model should know which years it read.
"""

from __future__ import annotations

import datetime
import re

from data_beam.document import Document, Drop
from maxllm.config.select import AgeConfig

_YEAR = re.compile(r"\d{4}(?=-|$)")


def date_of(document: Document) -> str | None:
    """Its `created`, else `added`, when that is a date."""
    for value in (document.created, document.added):
        if value and _YEAR.match(value):
            return value
    return None


def year_of(document: Document) -> str:
    """Four digits, or `undated`."""
    date = date_of(document)
    return date[:4] if date else "undated"


def check_age(document: Document, config: AgeConfig) -> Drop | None:
    date = date_of(document)
    if date is None:
        return Drop("age.undated", None) if config.undated == "drop" else None
    if config.since is not None and date < config.since:
        return Drop("age.older", date)
    if config.before is not None and date >= config.before:
        return Drop("age.newer", date)
    return None


def age_weight(document: Document, config: AgeConfig) -> float:
    """Expected copies. Documents without a date, and years without a weight, have 1."""
    date = date_of(document)
    if date is None:
        return 1.0
    weight = config.weights.get(int(date[:4]), 1.0)
    if config.half_life_years and config.reference:
        age = max(0.0, (_day(config.reference) - _day(date)).days / 365.25)
        weight *= 0.5 ** (age / config.half_life_years)
    return weight


def _day(date: str) -> datetime.date:
    """The first day that a prefix of a date can mean; the year's first when the rest is no date."""
    parts = date[:10].split("-")
    try:
        return datetime.date(*(int(part) for part in (*parts, "01", "01")[:3]))  # type: ignore[arg-type]
    except ValueError:
        return datetime.date(int(parts[0]), 1, 1)
