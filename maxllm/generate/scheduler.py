"""Continuous batching: requests in, events out, one thread that owns the engine."""

from __future__ import annotations

from maxllm.config.serve import SchedulerConfig
from maxllm.generate.handle import Handle
from maxllm.generate.request import Request
from maxllm.generate.stats import Stats


class Scheduler:
    """Runs requests on an engine. Every method may be called from any thread.

    A request that fails takes nobody with it: its own last event has finish_reason "error".
    """

    def __init__(self, engine, tokenizer, config: SchedulerConfig) -> None:
        raise NotImplementedError

    def start(self) -> Scheduler:
        """Starts the engine's thread. Also `with Scheduler(...) as scheduler:`."""
        raise NotImplementedError

    def submit(self, request: Request) -> Handle:
        """Queues a request. Raises InvalidRequest, QueueFull or Unavailable; never blocks."""
        raise NotImplementedError

    def drain(self, seconds: float | None = None) -> bool:
        """Refuses new requests, finishes those accepted; what is left after `seconds` (config's when None) is
        cancelled. Blocks; True when all finished by themselves."""
        raise NotImplementedError

    def close(self) -> None:
        """Cancels what is left and ends the thread."""
        raise NotImplementedError

    @property
    def healthy(self) -> bool:
        """False when the engine's thread is gone or the engine could not be set up again after a failure."""
        raise NotImplementedError

    @property
    def accepting(self) -> bool:
        """False before `start`, while draining and after."""
        raise NotImplementedError

    @property
    def stats(self) -> Stats:
        raise NotImplementedError
