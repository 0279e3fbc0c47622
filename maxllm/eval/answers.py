"""Greedy answers to prompts, through the same engine and scheduler that serve."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import TracebackType

from maxllm.config.serve import EngineConfig
from maxllm.generate.offline import GREEDY, local_scheduler
from maxllm.generate.request import Request
from maxllm.generate.scheduler import Scheduler
from maxllm.models.decoder import Decoder
from maxllm.tokenizer import Tokenizer


class Answers:
    """`answers(prompts, stops, new_tokens, progress) -> texts`, within `with Answers(...) as answers`.

    The engine is made at the first call: most tasks only score.
    """

    def __init__(self, model: Decoder, tokenizer: Tokenizer, *, context: int, batch_tokens: int):
        self.model = model
        self.tokenizer = tokenizer
        slots = max(1, min(64, batch_tokens // context))
        self.config = EngineConfig(slots=slots, max_length=context, dtype=str(model.dtype))
        self.scheduler: Scheduler | None = None

    def __call__(
        self, prompts: Sequence[list[int]], stops: Sequence[str], new_tokens: int, progress: Callable[[int], None]
    ) -> list[str]:
        if self.scheduler is None:
            self.scheduler = local_scheduler(self.model, self.tokenizer, self.config).start()
        stops = tuple(stop for stop in stops if stop)
        handles = [self.scheduler.submit(Request(tuple(ids), new_tokens, GREEDY, stops)) for ids in prompts]
        texts = []
        for handle in handles:
            completion = handle.result()
            if completion.error:
                raise RuntimeError(f"the engine could not answer a prompt: {completion.error}")
            texts.append(completion.text)
            progress(len(texts))
        return texts

    def __enter__(self) -> Answers:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.scheduler is not None:
            self.scheduler.close()
