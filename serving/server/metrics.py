"""The scheduler's numbers as Prometheus metrics, under vLLM's names: its dashboards and autoscalers can read them."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from maxllm.generate.stats import Stats

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

# vLLM's name -> (the field of Stats, help).
GAUGES = {
    "vllm:num_requests_running": ("running", "Requests in a slot."),
    "vllm:num_requests_waiting": ("waiting", "Requests in the queue."),
    "vllm:kv_cache_usage_perc": ("kv_usage", "Cached tokens over the cache's room; 1 is full."),
    "maxllm:slots": ("slots", "Requests decoded at once, at most."),
}
COUNTERS = {
    "vllm:prompt_tokens": ("prompt_tokens", "Prompt tokens processed."),
    "vllm:generation_tokens": ("generation_tokens", "Tokens generated."),
    "maxllm:requests_refused": ("refused", "Requests refused because the queue was full."),
    "maxllm:requests_invalid": ("invalid", "Requests refused because they were wrong."),
    "maxllm:decode_steps": ("steps", "Steps of the whole batch."),
    "maxllm:step_seconds": ("step_seconds", "Seconds the engine's thread had work."),
    "maxllm:host_seconds": ("host_seconds", "Of those, seconds not spent waiting for the device."),
}
HISTOGRAMS = {
    "vllm:time_to_first_token_seconds": ("time_to_first_token", "From submission to the first token."),
    "vllm:inter_token_latency_seconds": ("inter_token_latency", "Between two tokens of one request."),
    "vllm:e2e_request_latency_seconds": ("end_to_end", "From submission to the end."),
    "vllm:request_queue_time_seconds": ("queue_time", "From submission to a slot."),
    "vllm:request_prefill_time_seconds": ("prefill_time", "From a slot to the first token."),
    "vllm:request_decode_time_seconds": ("decode_time", "From the first token to the end."),
    "vllm:request_prompt_tokens": ("request_prompt_tokens", "Prompt tokens per request."),
    "vllm:request_generation_tokens": ("request_generation_tokens", "Generated tokens per request."),
}
# vLLM's words for how a request ended; "deadline" is ours alone.
FINISHED = {"stop": "stop", "length": "length", "cancelled": "abort", "deadline": "deadline", "error": "error"}


class Collector:
    """Reads `stats` when it is scraped; nothing is counted twice."""

    def __init__(self, model_name: str, stats: Callable[[], Stats]) -> None:
        self._labels = {"model_name": model_name}
        self._stats = stats

    def collect(self) -> Iterator[Metric]:
        stats, keys, values = self._stats(), list(self._labels), list(self._labels.values())
        for name, (field, text) in GAUGES.items():
            gauge = GaugeMetricFamily(name, text, labels=keys)
            gauge.add_metric(values, getattr(stats, field))
            yield gauge
        for name, (field, text) in COUNTERS.items():
            counter = CounterMetricFamily(name, text, labels=keys)
            counter.add_metric(values, getattr(stats, field))
            yield counter
        finished = CounterMetricFamily(
            "vllm:request_success", "Requests over, by how.", labels=[*keys, "finished_reason"]
        )
        for reason, count in stats.finished.items():
            finished.add_metric([*values, FINISHED[reason]], count)
        yield finished
        for name, (field, text) in HISTOGRAMS.items():
            observed = getattr(stats, field)
            histogram = HistogramMetricFamily(name, text, labels=keys)
            histogram.add_metric(values, observed.cumulative(), observed.sum)
            yield histogram


class Metrics:
    """`/metrics` of one model."""

    def __init__(self, model_name: str, stats: Callable[[], Stats]) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(Collector(model_name, stats))

    def text(self) -> bytes:
        """Prometheus' text format."""
        return generate_latest(self._registry)
