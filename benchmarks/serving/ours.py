"""The same questions for our engine and scheduler, and what the compiled functions alone would have taken."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import jax

from maxllm.config.serve import EngineConfig, SchedulerConfig
from maxllm.generate.engine import Engine
from maxllm.generate.request import Request, SamplingParams
from maxllm.generate.scheduler import Scheduler

CALLS = ("prefill", "insert", "generate", "free_resource")


class Ours:
    """One server for every concurrency, as in life: its slots are the largest one."""

    def __init__(self, model: Any, tokenizer: Any, *, slots: int, max_length: int) -> None:
        self.engine = Engine(model, EngineConfig(slots=slots, max_length=max_length))
        started = time.perf_counter()
        self.engine.warm_up()
        self.warm_up_seconds = time.perf_counter() - started
        self.scheduler = Scheduler(self.engine, tokenizer, SchedulerConfig(queue=4 * slots)).start()

    def ask(self, prompts: Sequence[Sequence[int]], lengths: Sequence[int]) -> dict[str, Any]:
        """All prompts at once, greedy; the i-th answer has `lengths[i]` tokens."""
        stats = self.scheduler.stats
        before = stats.steps, stats.step_seconds, stats.host_seconds
        started = time.perf_counter()
        handles = [
            self.scheduler.submit(Request(tuple(prompt), length, SamplingParams(temperature=0), ignore_eos=True))
            for prompt, length in zip(prompts, lengths, strict=True)
        ]
        tokens = [list(handle.result().token_ids) for handle in handles]
        seconds = time.perf_counter() - started
        steps, busy, host = (now - then for now, then in zip(_totals(stats), before, strict=True))
        return {"seconds": seconds, "tokens": tokens, "steps": steps, "busy": busy, "host": host}

    def record(self, prompts: Sequence[Sequence[int]], lengths: Sequence[int]) -> list[tuple[str, tuple, dict]]:
        """What the scheduler asks of the engine to answer: names and arguments, states and prefixes left out."""
        calls: list[tuple[str, tuple, dict]] = []
        originals = {name: getattr(self.engine, name) for name in CALLS}

        def recorder(name: str) -> Callable[..., Any]:
            def call(*args: Any, **kwargs: Any) -> Any:
                calls.append((name, args[2:] if name == "insert" else args[:1], dict(kwargs)))
                return originals[name](*args, **kwargs)

            return call

        for name in CALLS:
            setattr(self.engine, name, recorder(name))
        try:
            self.ask(prompts, lengths)
        finally:
            for name in CALLS:
                delattr(self.engine, name)
        return calls

    def replay(self, calls: list[tuple[str, tuple, dict]]) -> float:
        """Seconds of the same compiled functions one after the other, with nobody looking at the tokens."""
        state, prefix = self.engine.init_decode_state(), None
        jax.block_until_ready(state)
        started = time.perf_counter()
        for name, args, kwargs in calls:
            if name == "prefill":
                prefix, _ = self.engine.prefill(**kwargs)
            elif name == "insert":
                state = self.engine.insert(prefix, state, *args)
            elif name == "generate":
                state, result = self.engine.generate(*args, state, **kwargs)
                # One step at a time: the queue of a device is not endless.
                jax.block_until_ready(result)
            else:
                state = self.engine.free_resource(*args, state)
        jax.block_until_ready(state)
        return time.perf_counter() - started


def _totals(stats: Any) -> tuple[int, float, float]:
    return stats.steps, stats.step_seconds, stats.host_seconds
