"""Generating without a server: the same engine and scheduler, for evaluation and scripts."""

from __future__ import annotations

from collections.abc import Sequence

from maxllm.config.serve import EngineConfig, SchedulerConfig
from maxllm.generate.engine import Engine
from maxllm.generate.prompt import Generator, prompt_ids
from maxllm.generate.request import Completion, Request, SamplingParams
from maxllm.generate.scheduler import Scheduler
from maxllm.tokenizer import Tokenizer

GREEDY = SamplingParams(temperature=0)


def local_scheduler(
    model: Generator, tokenizer: Tokenizer, config: EngineConfig | None = None, *, queue: int = 2**20
) -> Scheduler:
    """A scheduler on this model, not started: use it in a `with`. Programs are compiled when first needed."""
    config = config or EngineConfig(dtype=str(model.dtype))
    return Scheduler(Engine(model, config), tokenizer, SchedulerConfig(queue=queue))


def complete_texts(
    scheduler: Scheduler,
    tokenizer: Tokenizer,
    prompts: Sequence[str],
    *,
    max_tokens: int = 128,
    sampling: SamplingParams = GREEDY,
    stop: Sequence[str] = (),
) -> list[Completion]:
    """One completion per prompt, in order, all batched together. A prompt too long loses its beginning.

    Raises RuntimeError when one of them fails inside the engine.
    """
    engine = scheduler.engine
    room = engine.max_prefill_length
    if engine.model_config.architecture == "decoder":
        room = min(room, max(1, engine.max_length - max_tokens))
    handles = []
    for prompt in prompts:
        ids = prompt_ids(tokenizer, prompt, engine.model_config)
        ids = ids if len(ids) <= room else _cut(ids, room, tokenizer.bos_id)
        handles.append(scheduler.submit(Request(tuple(ids), max_tokens, sampling, tuple(stop))))
    completions = [handle.result() for handle in handles]
    for completion in completions:
        if completion.error:
            raise RuntimeError(completion.error)
    return completions


def generate_texts(
    model: Generator,
    tokenizer: Tokenizer,
    prompts: Sequence[str],
    *,
    max_tokens: int = 128,
    sampling: SamplingParams = GREEDY,
    stop: Sequence[str] = (),
    config: EngineConfig | None = None,
) -> list[str]:
    """What the model says after each prompt. For several calls on one model keep a `local_scheduler`."""
    with local_scheduler(model, tokenizer, config) as scheduler:
        completions = complete_texts(scheduler, tokenizer, prompts, max_tokens=max_tokens, sampling=sampling, stop=stop)
    return [completion.text for completion in completions]


def _cut(ids: list[int], room: int, bos_id: int | None) -> list[int]:
    """The last `room` ids, a leading bos kept."""
    return [bos_id, *ids[len(ids) - room + 1 :]] if bos_id is not None and ids[0] == bos_id else ids[-room:]
