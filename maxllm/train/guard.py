"""What ends a run early, and how it is left: a signal (after a save), or numbers that are no longer numbers."""

from __future__ import annotations

import math
import os
import signal
import threading
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Any

import jax
from jax.experimental import multihost_utils

from maxllm.config.errors import UserError


class Interrupted(SystemExit):
    """The run was asked to stop and did, with its state saved.

    The exit code is the shell's for the signal, 143 for SIGTERM and 130 for Ctrl-C: a scheduler that restarts what
    did not finish must not take it for finished.
    """

    def __init__(self, number: int):
        super().__init__(128 + number)


class Signals:
    """Catches SIGTERM and Ctrl-C while open; the loop asks `stop(step)` after each step and saves when told.

    A second Ctrl-C does not wait for the save. In a job of many processes they all stop after the same step, however
    few of them got the signal.
    """

    CAUGHT = (signal.SIGTERM, signal.SIGINT)

    def __init__(self, say: Callable[[str], None] = print):
        self._say = say
        self._got: int | None = None
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> Signals:
        if threading.current_thread() is threading.main_thread():  # Python allows it nowhere else
            for number in self.CAUGHT:
                # With many processes JAX's own listener must keep SIGTERM: it is what tells the others.
                if number != signal.SIGTERM or jax.process_count() == 1:
                    self._previous[number] = signal.signal(number, self._catch)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _catch(self, number: int, _: FrameType | None) -> None:
        if self._got is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self._got = number
        self._say(f"{signal.Signals(number).name}: stopping after this step, once it is saved")
        if jax.process_count() > 1 and number == signal.SIGINT:
            os.kill(os.getpid(), signal.SIGTERM)

    def stop(self, step: int) -> int | None:
        """The signal to stop for after `step`, the same on every process; None to go on."""
        if jax.process_count() == 1:
            return self._got
        if not multihost_utils.reached_preemption_sync_point(step):
            return None
        if self._got is None:
            self._say("SIGTERM somewhere in this job: stopping after this step, once it is saved")
        return self._got or signal.SIGTERM


class Diverged(UserError):
    """The loss or its gradient is not a finite number. No checkpoint of that state exists."""


def check_finite(
    step: int, metrics: dict[str, float], document_ids: Callable[[int], Sequence[str]], newest_checkpoint: int | None
) -> None:
    """Raises Diverged if a value of `step` (counted from 1) is NaN or infinite.

    Args:
      document_ids: the ids of the documents in batch k (counted from 0), k = step - 1.
      newest_checkpoint: a step to go back to, if there is one.
    """
    bad = [name for name, value in metrics.items() if not math.isfinite(value)]
    if not bad:
        return
    try:
        ids = list(document_ids(step - 1))
        shown = ", ".join(ids[:8]) + (f" and {len(ids) - 8} more" if len(ids) > 8 else "")
    except Exception as error:  # the report must not be lost to a second failure
        shown = f"unknown: {error}"
    back = (
        f"the checkpoint of step {newest_checkpoint} is from before; the same command goes on from it"
        if newest_checkpoint is not None
        else "there is no checkpoint yet; the same command starts again"
    )
    values = ", ".join(f"{name} = {metrics[name]}" for name in bad)
    raise Diverged(
        f"step {step}: {values}; batch {step - 1} held the documents {shown}; {back}. Look at those documents; try "
        "a lower optimizer.learning_rate, a longer schedule.warmup_steps, optimizer.clip_norm=1.0 or "
        "compute.dtype=float32"
    )
