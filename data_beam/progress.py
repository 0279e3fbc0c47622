"""A line now and then from whatever process is at work; Beam carries workers' log lines to whoever started them."""

from __future__ import annotations

import logging
import threading
import time

logger = logging.getLogger("maxllm.progress")
SECONDS = 5.0

_counts: dict[str, int] = {}
_last = time.monotonic()
_lock = threading.Lock()


def count(name: str, many: int = 1) -> None:
    """So many more of something in this process, for eyes only: retried work counts again."""
    global _last
    with _lock:
        _counts[name] = _counts.get(name, 0) + many
        now = time.monotonic()
        if now - _last < SECONDS:
            return
        _last = now
        line = ", ".join(f"{name} {value:,}" for name, value in _counts.items())
    logger.info("  %s so far", line)


def reset() -> None:
    with _lock:
        _counts.clear()
