"""Our models behind lm-eval's interface: https://github.com/EleutherAI/lm-evaluation-harness, `lm_eval.api.model`.

Prompts longer than the context lose their beginning, as in lm-eval's own models; `did_not_fit` counts them, because a
few-shot prompt without its first examples is no longer the task that others report.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

from lm_eval.api.model import TemplateLM

from maxllm.eval.bits_per_byte import prefix_token
from maxllm.eval.scorer import Scorer
from maxllm.tokenizer import Tokenizer

Progress = Callable[[str, int, int], None]  # what, done, of how many
# (prompts as token ids, stop strings, most new tokens, progress) -> texts, stopped before the stop string
Generate = Callable[[Sequence[list[int]], Sequence[str], int, Callable[[int], None]], list[str]]
DEFAULT_NEW_TOKENS = 256  # lm-eval's own default for tasks that set no max_gen_toks


class MaxllmLM(TemplateLM):
    """lm-eval's view of a model: text in, log-likelihoods and greedy text out."""

    def __init__(
        self,
        scorer: Scorer,
        tokenizer: Tokenizer,
        generate: Generate,
        progress: Progress = lambda what, done, total: None,
    ):
        super().__init__()
        self.scorer = scorer
        self.tokens = tokenizer
        self.generate = generate
        self.progress = progress
        self.did_not_fit = 0

    @property
    def max_length(self) -> int:
        return self.scorer.context

    @property
    def eot_token_id(self) -> int:
        return self.tokens.bos_id if self.tokens.eos_id is None else self.tokens.eos_id

    @property
    def prefix_token_id(self) -> int:
        return prefix_token(self.tokens)

    @property
    def tokenizer_name(self) -> str:
        return self.tokens.fingerprint

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        return self.tokens.chat_template if chat_template else None

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        return self.tokens.apply_chat_template(chat_history, add_generation_prompt=add_generation_prompt)

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> list[int]:
        """The ids of `string` alone; `_begun` puts the beginning token before them."""
        return self.tokens.encode(string)

    def _begun(self, ids: Sequence[int]) -> list[int]:
        """As in training: after the beginning token, where the tokenizer has one."""
        bos = self.tokens.bos_id
        return list(ids) if bos is None or (ids and ids[0] == bos) else [bos, *ids]

    def loglikelihood(self, requests: Sequence[Any], disable_tqdm: bool = True) -> list[tuple[float, bool]]:
        """`(ln p of the continuation, whether greedy decoding would give it)` for each (context, continuation)."""
        return super().loglikelihood(requests, disable_tqdm=True)

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[tuple[str, str], list[int], list[int]]], **kwargs: Any
    ) -> list[tuple[float, bool]]:
        texts = []
        for _, context, continuation in requests:
            start = self._begun(context)
            texts.append(([*start, *continuation], len(start)))
            self.did_not_fit += len(start) + len(continuation) - 1 > self.max_length
        scores = self.scorer.score(texts, progress=functools.partial(self.progress, "loglikelihoods"))
        return [(-score.nats, score.greedy) for score in scores]

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
        """ln p of whole texts after the prefix token, each token with the most context its window allows."""
        texts = [([self.prefix_token_id, *self.tokens.encode(request.args[0])], 1) for request in requests]
        scores = self.scorer.score(texts, progress=functools.partial(self.progress, "rolling loglikelihoods"))
        return [-score.nats for score in scores]

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """Greedy text after each prompt, up to the first stop string, `max_gen_toks` tokens or the end token."""
        groups: dict[tuple[tuple[str, ...], int], list[int]] = {}
        for number, request in enumerate(requests):
            groups.setdefault(_generation_settings(request.args[1]), []).append(number)
        texts = [""] * len(requests)
        done = 0
        for (until, wanted), numbers in groups.items():
            new_tokens = min(wanted, self.max_length // 2)  # half of the context stays the prompt's
            prompts = [self._begun(self.tokens.encode(requests[number].args[0])) for number in numbers]
            room = self.max_length - new_tokens
            self.did_not_fit += sum(new_tokens < wanted or len(prompt) > room for prompt in prompts)
            before = done
            progress = lambda n, before=before: self.progress("answers", before + n, len(texts))  # noqa: E731
            answers = self.generate([prompt[-room:] for prompt in prompts], until, new_tokens, progress)
            done += len(numbers)
            for number, answer in zip(numbers, answers, strict=True):
                texts[number] = cut_at(answer, until)
        return texts


def cut_at(text: str, stops: Sequence[str]) -> str:
    """`text` up to the first of `stops`."""
    return text[: min([len(text), *(at for stop in stops if stop and (at := text.find(stop)) >= 0)])]


def _generation_settings(arguments: dict[str, Any]) -> tuple[tuple[str, ...], int]:
    if arguments.get("do_sample") and arguments.get("temperature", 1.0) > 0:
        raise ValueError("only greedy generation is supported; the task asks for sampling")
    until = arguments.get("until") or []
    stops = (until,) if isinstance(until, str) else tuple(until)
    return stops, int(arguments.get("max_gen_toks", DEFAULT_NEW_TOKENS))
