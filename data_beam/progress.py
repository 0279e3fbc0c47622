"""A line now and then from whatever process is at work; Beam carries workers' log lines to the one that started them."""

from __future__ import annotations

import logging
import threading
import time

logger = logging.getLogger("maxllm.progress")
SECONDS = 5.0

_counts: dict[str, int] = {}
_last = time.monotonic()
_lock = threading.Lock()


class Progress:
    """Counts something of this process by name. For eyes only: retried work counts again."""

    def __init__(self, name: str) -> None:
        self.name = name

    def add(self, count: int) -> None:
        global _last
        with _lock:
            _counts[self.name] = _counts.get(self.name, 0) + count
            now = time.monotonic()
            if now - _last < SECONDS:
                return
            _last = now
            line = ", ".join(f"{name} {value:,}" for name, value in _counts.items())
        logger.info(line)


def reset() -> None:
    with _lock:
        _counts.clear()
