"""Learning rate over steps."""

from __future__ import annotations

import optax

from maxllm.config.train import ScheduleConfig


def make_schedule(config: ScheduleConfig, peak: float, steps: int) -> optax.Schedule:
    """Linear from 0 to `peak` over `warmup_steps`, then half a cosine down to `final_ratio · peak` at step `steps`.

    Step k (from 0) uses the value at k + 1 while warming up, so that no step is spent at a learning rate of 0.
    """
    warmup = optax.linear_schedule(peak / max(config.warmup_steps, 1), peak, max(config.warmup_steps - 1, 1))
    cosine = optax.cosine_decay_schedule(peak, max(steps - config.warmup_steps, 1), alpha=config.final_ratio)
    return optax.join_schedules([warmup, cosine], [config.warmup_steps]) if config.warmup_steps else cosine
