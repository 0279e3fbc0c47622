"""Objectives: pure functions (model, batch) -> {term: Weighted(sum, weight)}."""

from __future__ import annotations

from maxllm.objectives.causal_lm import causal_lm
from maxllm.objectives.weighted import Weighted

__all__ = ["Weighted", "causal_lm"]
