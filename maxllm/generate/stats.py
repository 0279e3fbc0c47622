"""What the scheduler counts: plain numbers and histograms that a port can show as Prometheus metrics."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, field

from maxllm.generate.handle import Times

# Seconds. vLLM's bounds, so that its dashboards read ours.
LATENCY_BOUNDS = (0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0, 240.0)
FIRST_TOKEN_BOUNDS = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0)
TOKEN_BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5)
COUNT_BOUNDS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000)


class Histogram:
    """Counts per upper bound, as Prometheus wants them. Written by one thread."""

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)  # the last one: above every bound
        self.sum = 0.0

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value

    @property
    def count(self) -> int:
        return sum(self.counts)

    def cumulative(self) -> list[tuple[str, int]]:
        """`[("0.001", observations <= 0.001), ..., ("+Inf", all)]`."""
        total, rows = 0, []
        for bound, count in zip((*map(str, self.bounds), "+Inf"), self.counts, strict=True):
            total += count
            rows.append((bound, total))
        return rows


def _latency() -> Histogram:
    return Histogram(LATENCY_BOUNDS)


@dataclass
class Stats:
    """Totals since the start, written by the engine's thread; read them at any time."""

    running: int = 0
    waiting: int = 0
    slots: int = 0
    kv_usage: float = 0.0  # cached tokens / (slots x max_length)
    prompt_tokens: int = 0
    generation_tokens: int = 0
    refused: int = 0  # queue full
    invalid: int = 0
    finished: dict[str, int] = field(
        default_factory=lambda: dict.fromkeys(("stop", "length", "cancelled", "deadline", "error"), 0)
    )
    steps: int = 0  # decode steps
    step_seconds: float = 0.0  # wall time of the engine's thread while it had work
    host_seconds: float = 0.0  # of that, not waiting for the device
    time_to_first_token: Histogram = field(default_factory=lambda: Histogram(FIRST_TOKEN_BOUNDS))
    inter_token_latency: Histogram = field(default_factory=lambda: Histogram(TOKEN_BOUNDS))
    queue_time: Histogram = field(default_factory=_latency)
    prefill_time: Histogram = field(default_factory=_latency)
    decode_time: Histogram = field(default_factory=_latency)
    end_to_end: Histogram = field(default_factory=_latency)
    request_prompt_tokens: Histogram = field(default_factory=lambda: Histogram(COUNT_BOUNDS))
    request_generation_tokens: Histogram = field(default_factory=lambda: Histogram(COUNT_BOUNDS))

    def record_end(self, times: Times, reason: str, prompt_tokens: int, completion_tokens: int) -> None:
        """One request is over. Its latencies count only as far as it came."""
        self.finished[reason] += 1
        self.end_to_end.observe(times.finished - times.submitted)
        if times.scheduled:
            self.queue_time.observe(times.scheduled - times.submitted)
            self.request_prompt_tokens.observe(prompt_tokens)
            self.request_generation_tokens.observe(completion_tokens)
        if times.first_token:
            self.prefill_time.observe(times.first_token - times.scheduled)
            self.decode_time.observe(times.finished - times.first_token)
