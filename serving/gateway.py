"""What both ports share: from a prompt to running requests, their events merged, their end logged.

A port translates its protocol to `Ask` and `Event`s back; everything a port must not decide for itself is here.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from enum import Enum

from maxllm.config.errors import UserError
from maxllm.config.serve import SamplingConfig
from maxllm.generate.handle import Handle
from maxllm.generate.request import Event, InvalidRequest, QueueFull, Request, SamplingParams, Unavailable
from maxllm.generate.scheduler import Scheduler
from maxllm.tokenizer import Tokenizer

log = logging.getLogger("maxllm.requests")


class Reason(Enum):
    """Why a call failed; each port has its own code for it."""

    INVALID = "invalid"
    NO_SUCH_MODEL = "no such model"
    BUSY = "busy"
    UNAVAILABLE = "unavailable"
    DEADLINE = "deadline"
    INTERNAL = "internal"


class Failure(Exception):
    """A call's failure, as a sentence for the client. Never part of a generated text."""

    def __init__(self, reason: Reason, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.param = param


@dataclass(frozen=True, slots=True)
class Ask:
    """One call of either protocol: prompts, and how many answers to each. None = the server's default."""

    prompts: Sequence[str | Sequence[int]]  # token ids are used as they are; text gets the model's bos
    copies: int = 1
    max_tokens: int | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    seed: int | None = None  # the i-th answer to a prompt draws with seed + i
    stop: Sequence[str] = ()
    stop_token_ids: Sequence[int] = ()
    ignore_eos: bool = False
    logprobs: int | None = None
    echo: bool = False
    bos: bool = True  # before text prompts, where the tokenizer has one
    deadline_seconds: float | None = None


class Call:
    """The running answers to one `Ask`. Whoever opened it closes it: that cancels what still runs."""

    def __init__(self, gateway: Gateway, call_id: str, port: str, handles: list[Handle], prompt_tokens: int) -> None:
        self.id = call_id
        self.prompt_tokens = prompt_tokens  # of all prompts, each counted once however many answers it gets
        self._gateway = gateway
        self._port = port
        self._handles = handles
        self._last = [Event() for _ in handles]

    @property
    def completion_tokens(self) -> int:
        return sum(event.usage.completion_tokens for event in self._last)

    async def events(self) -> AsyncIterator[tuple[int, Event]]:
        """`(the answer's index, event)`. Raises Failure as soon as one answer fails."""
        async for index, event in self._merged():
            self._last[index] = event
            if event.finish_reason is not None:
                self._raise_failure(event)
            yield index, event

    def close(self) -> None:
        """Cancels what still runs, frees its slots and writes the log; harmless when done already."""
        if not self._gateway.forget(self):
            return
        for handle, event in zip(self._handles, self._last, strict=True):
            handle.cancel()
            self._log(handle, event)

    async def _merged(self) -> AsyncIterator[tuple[int, Event]]:
        if len(self._handles) == 1:
            async for event in self._handles[0]:
                yield 0, event
            return
        queue: asyncio.Queue[tuple[int, Event]] = asyncio.Queue()

        async def pump(index: int, handle: Handle) -> None:
            async for event in handle:
                queue.put_nowait((index, event))

        pumps = [asyncio.create_task(pump(index, handle)) for index, handle in enumerate(self._handles)]
        try:
            running = len(pumps)
            while running:
                index, event = await queue.get()
                running -= event.finish_reason is not None
                yield index, event
        finally:
            for task in pumps:
                task.cancel()

    def _raise_failure(self, event: Event) -> None:
        if event.finish_reason == "deadline":
            raise Failure(Reason.DEADLINE, "the deadline passed before the answer was complete")
        if event.finish_reason == "error":
            raise Failure(Reason.INTERNAL, event.error or "the request failed inside the server")
        if event.finish_reason == "cancelled":
            raise Failure(Reason.UNAVAILABLE, "the server stopped before the answer was complete; try again")

    def _log(self, handle: Handle, last: Event) -> None:
        times, tokens = handle.times, last.usage.completion_tokens
        spans = {"queue": times.scheduled, "first": times.first_token, "total": times.finished}
        seconds = " ".join(f"{k}={max(at - times.submitted, 0):.3f}s" for k, at in spans.items() if at)
        finish = last.finish_reason or "cancelled"
        log.info(
            "id=%s port=%s prompt_tokens=%d tokens=%d %s finish=%s%s",
            *(handle.id, self._port, len(handle.request.prompt), tokens, seconds, finish),
            f" error={last.error!r}" if last.error else "",
        )


class Gateway:
    """One model behind every port."""

    def __init__(
        self,
        scheduler: Scheduler,
        tokenizer: Tokenizer,
        *,
        name: str,
        sampling: SamplingConfig,
        queue: int,
    ) -> None:
        self.scheduler = scheduler
        self.tokenizer = tokenizer
        self.name = name
        self.sampling = sampling
        self.queue = queue
        self.chat_stop_ids = _end_of_turn(tokenizer)
        # Characters; what is longer need not be tokenized to know that it does not fit.
        longest_token = max(len(tokenizer.token_bytes(i)) for i in range(tokenizer.vocab_size))
        self._longest_prompt = longest_token * scheduler.engine.max_prefill_length
        self._calls: set[Call] = set()

    @property
    def ready(self) -> bool:
        """Takes requests: not while starting, draining or broken."""
        return self.scheduler.accepting and self.scheduler.healthy

    def chat_prompt(self, messages: list[dict[str, str]]) -> list[int]:
        """Token ids of a conversation, up to where the answer begins. Raises Failure."""
        if self.tokenizer.chat_template is None:
            sentence = (
                f"the model {self.name} has no chat template; use /v1/completions, or serve it with chat_template=FILE"
            )
            raise Failure(Reason.INVALID, sentence, "messages")
        try:
            return self.tokenizer.encode_chat(messages)
        except UserError as error:
            raise Failure(Reason.INVALID, str(error), "messages") from None

    async def open(self, ask: Ask, port: str, call_id: str | None = None) -> Call:
        """Submit every answer of `ask`, or none. Raises Failure."""
        call_id = call_id or secrets.token_hex(12)
        answers = len(ask.prompts) * ask.copies
        if not ask.prompts:
            raise Failure(Reason.INVALID, "prompt is empty; send at least one", "prompt")
        if ask.copies < 1:
            raise Failure(Reason.INVALID, f"{ask.copies} answers to each prompt were asked for; ask for 1 or more", "n")
        if answers > self.queue:
            sentence = f"{answers} answers in one call are more than the server queues ({self.queue}); send fewer"
            raise Failure(Reason.INVALID, sentence, "prompt")
        prompts = await asyncio.to_thread(lambda: [self._encode(prompt, ask) for prompt in ask.prompts])
        handles: list[Handle] = []
        try:
            for prompt in prompts:
                for copy in range(ask.copies):
                    request_id = call_id if answers == 1 else f"{call_id}-{len(handles)}"
                    handles.append(self.scheduler.submit(self._request(ask, prompt, copy, request_id)))
        except (InvalidRequest, QueueFull, Unavailable) as error:
            for handle in handles:
                handle.cancel()
            log.info("id=%s port=%s refused=%s", call_id, port, type(error).__name__)
            reasons = {InvalidRequest: Reason.INVALID, QueueFull: Reason.BUSY, Unavailable: Reason.UNAVAILABLE}
            raise Failure(reasons[type(error)], str(error)) from None
        call = Call(self, call_id, port, handles, sum(map(len, prompts)))
        self._calls.add(call)
        return call

    def _encode(self, prompt: str | Sequence[int], ask: Ask) -> tuple[int, ...]:
        if not isinstance(prompt, str):
            return tuple(prompt)
        if len(prompt) > self._longest_prompt:
            sentence = f"the prompt has {len(prompt)} characters, more than the tokens that are accepted can hold"
            raise Failure(Reason.INVALID, sentence, "prompt")
        # An encoder's text is ended, as in training.
        eos = self.scheduler.engine.model_config.architecture == "encoder_decoder"
        return tuple(self.tokenizer.encode(prompt, bos=ask.bos, eos=eos))

    def _request(self, ask: Ask, prompt: tuple[int, ...], copy: int, request_id: str) -> Request:
        defaults = self.sampling
        sampling = SamplingParams(
            temperature=defaults.temperature if ask.temperature is None else ask.temperature,
            top_k=defaults.top_k if ask.top_k is None else ask.top_k,
            top_p=defaults.top_p if ask.top_p is None else ask.top_p,
            seed=None if ask.seed is None else ask.seed + copy,
        )
        return Request(
            prompt=prompt,
            max_tokens=defaults.max_tokens if ask.max_tokens is None else ask.max_tokens,
            sampling=sampling,
            stop=tuple(ask.stop),
            stop_token_ids=tuple(ask.stop_token_ids),
            ignore_eos=ask.ignore_eos,
            logprobs=ask.logprobs,
            echo=ask.echo,
            deadline_seconds=ask.deadline_seconds,
            request_id=request_id,
        )

    def forget(self, call: Call) -> bool:
        """False when it was forgotten before."""
        known = call in self._calls
        self._calls.discard(call)
        return known

    async def drain(self, seconds: float) -> bool:
        """Refuse new calls, finish the running ones; cancel what is left after `seconds`. True when all finished."""
        finished = await asyncio.to_thread(self.scheduler.drain, seconds)
        for _ in range(100):  # the last events are on their way to the clients
            if not self._calls:
                break
            await asyncio.sleep(0.05)
        return finished


def _end_of_turn(tokenizer: Tokenizer) -> tuple[int, ...]:
    """The special tokens with which the chat template ends an answer: what a chat model says when it is done."""
    if tokenizer.chat_template is None:
        return ()
    question, answer = {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}
    try:
        begun = tokenizer.encode_chat([question])
        whole = tokenizer.encode_chat([question, answer], add_generation_prompt=False)
    except UserError:  # a template that wants other messages
        return ()
    return tuple(sorted(set(whole[len(begun) :]) & tokenizer.special_ids))
