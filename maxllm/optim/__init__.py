"""Optimizers and schedules, by name."""

from __future__ import annotations

from maxllm.optim.optimizers import make_optimizer
from maxllm.optim.schedules import make_schedule

__all__ = ["make_optimizer", "make_schedule"]
