"""The caller's end of a request: events from the engine's thread, for a thread or for an event loop."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass

from maxllm.generate.request import Completion, Event, Request, TokenLogprob


@dataclass(slots=True)
class Times:
    """`time.monotonic()` seconds; 0 while it has not happened."""

    submitted: float = 0.0
    scheduled: float = 0.0  # left the queue
    first_token: float = 0.0
    last_token: float = 0.0
    finished: float = 0.0


class Handle:
    """One submitted request. Use one of `events()`, `async for`, `result()`, once; `cancel()` from anywhere."""

    def __init__(self, request: Request) -> None:
        self.request = request
        self.times = Times(submitted=time.monotonic())
        self.cancelled = False
        self._events: deque[Event] = deque()
        self._ready = threading.Condition()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._wake: asyncio.Event | None = None

    @property
    def id(self) -> str:
        return self.request.request_id

    def cancel(self) -> None:
        """Frees the slot at the next step; the last event then says "cancelled". Harmless when finished."""
        self.cancelled = True

    def events(self) -> Iterator[Event]:
        """Blocks for each event, ends after the one with a finish_reason. Leaving early cancels."""
        finished = False
        try:
            while not finished:
                with self._ready:
                    while not self._events:
                        self._ready.wait()
                    event = self._events.popleft()
                finished = event.finish_reason is not None
                yield event
        finally:
            if not finished:
                self.cancel()

    async def __aiter__(self) -> AsyncIterator[Event]:
        """Like `events()`, for an event loop; a cancelled task cancels the request."""
        finished = False
        try:
            with self._ready:
                self._loop, self._wake = asyncio.get_running_loop(), asyncio.Event()
            while not finished:
                self._wake.clear()
                while self._events:
                    event = self._events.popleft()
                    finished = event.finish_reason is not None
                    yield event
                if not finished:
                    await self._wake.wait()
        finally:
            self._loop = None
            if not finished:
                self.cancel()

    def result(self) -> Completion:
        """Waits for the end and joins all events."""
        return join(self.events())

    async def aresult(self) -> Completion:
        return join([event async for event in self])

    def put(self, event: Event) -> None:
        """Called by the scheduler's thread."""
        with self._ready:
            self._events.append(event)
            self._ready.notify()
            loop = self._loop
        if loop is not None and self._wake is not None:
            try:
                loop.call_soon_threadsafe(self._wake.set)
            except RuntimeError:  # the reader's loop is closed: nobody will read, so nobody needs the rest
                self.cancel()


def join(events: Iterator[Event] | list[Event]) -> Completion:
    """One `Completion` from all events of a request."""
    token_ids: list[int] = []
    text: list[str] = []
    logprobs: list[TokenLogprob] | None = None
    prompt = Event()
    last = Event()
    for event in events:
        last = event
        if event.prompt:
            prompt = event
            continue
        token_ids.extend(event.token_ids)
        text.append(event.text)
        if event.logprobs is not None:
            logprobs = (logprobs or []) + list(event.logprobs)
    assert last.finish_reason is not None, "the events ended without a finish reason"
    return Completion(
        token_ids=tuple(token_ids),
        text="".join(text),
        logprobs=None if logprobs is None else tuple(logprobs),
        finish_reason=last.finish_reason,
        stop_reason=last.stop_reason,
        error=last.error,
        usage=last.usage,
        prompt_text=prompt.text,
        prompt_logprobs=prompt.logprobs,
    )
