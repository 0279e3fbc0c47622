"""OpenAI's HTTP interface on the gateway: completions, chat, models, health, metrics."""

from __future__ import annotations

import asyncio
import json
import secrets
import socket
import time
from collections.abc import AsyncIterator, Coroutine
from contextlib import contextmanager
from typing import Any, TypeVar

import uvicorn
from fastapi import FastAPI, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException as AnyHTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from maxllm.config.errors import UserError
from serving.gateway import Ask, Failure, Gateway, Reason
from serving.server.answers import Answer, Chat, Completions, TokenNames
from serving.server.metrics import CONTENT_TYPE, Metrics
from serving.server.openai import Body, ChatBody, CompletionBody

Result = TypeVar("Result")

# The status, and the word OpenAI uses for the kind of error.
STATUS = {
    Reason.INVALID: (400, "invalid_request_error"),
    Reason.NO_SUCH_MODEL: (404, "invalid_request_error"),
    Reason.BUSY: (429, "rate_limit_error"),
    Reason.UNAVAILABLE: (503, "service_unavailable_error"),
    Reason.DEADLINE: (504, "timeout_error"),
    Reason.INTERNAL: (500, "server_error"),
}
MAX_BODY_BYTES = 16 * 2**20
CLIENT_LEFT = 499  # nginx's; nobody is there to read it


def error_body(message: str, kind: str, param: str | None = None, code: str | None = None) -> dict[str, Any]:
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def failure_body(failure: Failure) -> dict[str, Any]:
    code = "model_not_found" if failure.reason is Reason.NO_SUCH_MODEL else None
    return error_body(failure.message, STATUS[failure.reason][1], failure.param, code)


def failure_response(failure: Failure) -> JSONResponse:
    status = STATUS[failure.reason][0]
    headers = {"retry-after": "1"} if failure.reason in (Reason.BUSY, Reason.UNAVAILABLE) else None
    return JSONResponse(failure_body(failure), status, headers)


async def unless_gone(receive: Receive, work: Coroutine[Any, Any, Result]) -> Result | None:
    """The result of `work`; None when the client left first: then `work` has been cancelled."""

    async def gone() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    tasks = asyncio.ensure_future(work), asyncio.ensure_future(gone())
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        return tasks[0].result() if tasks[0].done() else None
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class LimitedBody:
    """ASGI middleware: a body longer than `limit` bytes is not read to its end, so that it cannot fill the memory."""

    def __init__(self, app: ASGIApp, limit: int) -> None:
        self._app = app
        self._limit = limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        read = 0

        async def counted() -> Message:
            nonlocal read
            message = await receive()
            read += len(message.get("body", b""))
            if read > self._limit:
                raise HTTPException(413, f"the body is longer than {self._limit} bytes; send less")
            return message

        await self._app(scope, counted, send)


class EventStream(Response):
    """Server-sent events. What fails before the first one has a status of its own; later, an event says so."""

    def __init__(self, chunks: AsyncIterator[dict[str, Any]]) -> None:
        super().__init__(
            media_type="text/event-stream", headers={"cache-control": "no-cache", "x-accel-buffering": "no"}
        )
        del self.headers["content-length"]
        self._chunks = chunks

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        failure = await unless_gone(receive, self._send_all(send))
        if failure is not None:
            await failure_response(failure)(scope, receive, send)

    async def _send_all(self, send: Send) -> Failure | None:
        """The failure, if it came before anything was sent."""
        started = False

        async def write(data: str) -> None:
            nonlocal started
            if not started:
                started = True
                await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            await send({"type": "http.response.body", "body": f"data: {data}\n\n".encode(), "more_body": True})

        try:
            async for chunk in self._chunks:
                await write(json.dumps(chunk, separators=(",", ":")))
            await write("[DONE]")
        except Failure as failure:
            if not started:
                return failure
            await write(json.dumps(failure_body(failure)))
        finally:
            await self._chunks.aclose()
        await send({"type": "http.response.body", "body": b"", "more_body": False})
        return None


class Endpoints:
    """Completions and chat: the same road with different shapes."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._names = TokenNames(gateway.tokenizer)

    async def completions(self, body: CompletionBody, request: Request) -> Response:
        self._check_model(body.model)
        return await self._answer(body, body.ask(), Completions(self._names), request)

    async def chat(self, body: ChatBody, request: Request) -> Response:
        self._check_model(body.model)
        prompt = await asyncio.to_thread(self._gateway.chat_prompt, body.conversation())
        return await self._answer(body, body.ask(prompt, self._gateway.chat_stop_ids), Chat(self._names), request)

    def _check_model(self, name: str | None) -> None:
        if name not in (None, self._gateway.name):
            sentence = f"the model {name!r} is not served here; ask for {self._gateway.name!r}"
            raise Failure(Reason.NO_SUCH_MODEL, sentence, "model")

    async def _answer(self, body: Body, ask: Ask, shape: Completions | Chat, request: Request) -> Response:
        call_id = shape.id_prefix + secrets.token_hex(12)
        head = {"id": call_id, "created": int(time.time()), "model": self._gateway.name}
        if body.stream:
            return EventStream(self._chunks(ask, shape, {**head, "object": shape.chunk_object}, body.include_usage))
        whole = self._whole(ask, shape, {**head, "object": shape.object})
        answer = await unless_gone(request.receive, whole)
        return Response(status_code=CLIENT_LEFT) if answer is None else JSONResponse(answer)

    async def _whole(self, ask: Ask, shape: Completions | Chat, head: dict[str, Any]) -> dict[str, Any]:
        call = await self._gateway.open(ask, "http", head["id"])
        answers = [Answer() for _ in range(len(ask.prompts) * ask.copies)]
        try:
            async for index, event in call.events():
                answers[index].add(event)
        finally:
            call.close()
        choices = [shape.whole(index, answer) for index, answer in enumerate(answers)]
        return {**head, "choices": choices, "usage": _usage(call)}

    async def _chunks(
        self, ask: Ask, shape: Completions | Chat, head: dict[str, Any], include_usage: bool
    ) -> AsyncIterator[dict[str, Any]]:
        call = await self._gateway.open(ask, "http", head["id"])
        usage = {"usage": None} if include_usage else {}
        try:
            async for index, event in call.events():
                if event.text or event.logprobs or event.finish_reason:  # not half a character alone
                    yield {**head, "choices": [shape.piece(index, Answer().add(event))], **usage}
            if include_usage:
                yield {**head, "choices": [], "usage": _usage(call)}
        finally:
            call.close()


def _usage(call: Any) -> dict[str, int]:
    prompt, completion = call.prompt_tokens, call.completion_tokens
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


def create_app(gateway: Gateway) -> FastAPI:
    """The ASGI application."""
    app = FastAPI(title="maxllm", docs_url=None, redoc_url=None)
    endpoints, metrics, started = (
        Endpoints(gateway),
        Metrics(gateway.name, lambda: gateway.scheduler.stats),
        time.time(),
    )
    model = {"id": gateway.name, "object": "model", "created": int(started), "owned_by": "maxllm"}

    app.add_middleware(LimitedBody, limit=MAX_BODY_BYTES)
    app.post("/v1/completions")(endpoints.completions)
    app.post("/v1/chat/completions")(endpoints.chat)

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [model]}

    @app.get("/v1/models/{name:path}")
    async def one_model(name: str) -> dict[str, Any]:
        endpoints._check_model(name)
        return model

    @app.get("/health")
    async def health() -> Response:
        """Readiness: 503 while draining, so that a load balancer looks elsewhere."""
        if gateway.ready:
            return JSONResponse({"status": "ready"})
        return JSONResponse({"status": "draining" if gateway.scheduler.healthy else "broken"}, 503)

    @app.get("/health/live")
    async def live() -> Response:
        """Liveness: 503 when only a restart helps."""
        healthy = gateway.scheduler.healthy
        return JSONResponse({"status": "live" if healthy else "broken"}, 200 if healthy else 503)

    @app.get("/metrics")
    async def show_metrics() -> Response:
        return Response(metrics.text(), media_type=CONTENT_TYPE)

    @app.exception_handler(Failure)
    async def failed(request: Request, failure: Failure) -> Response:
        return failure_response(failure)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        param = ".".join(str(part) for part in first["loc"] if part != "body")
        message = first["msg"].removeprefix("Value error, ")
        if first["type"] == "extra_forbidden":
            message = "is not a field this server knows; leave it out or correct its name"
        status, kind = STATUS[Reason.INVALID]
        return JSONResponse(error_body(f"{param}: {message}" if param else message, kind, param or None), status)

    @app.exception_handler(AnyHTTPException)
    async def no_such_page(request: Request, error: AnyHTTPException) -> Response:
        return JSONResponse(error_body(str(error.detail), "invalid_request_error"), error.status_code, error.headers)

    @app.exception_handler(Exception)
    async def broken(request: Request, error: Exception) -> Response:
        return JSONResponse(error_body("the server failed; its log says why", "server_error"), 500)

    return app


class _Uvicorn(uvicorn.Server):
    """Signals belong to the process, which drains first."""

    @contextmanager
    def capture_signals(self):
        yield


class HttpPort:
    """The HTTP server: `await start()`, then `port` is the port it got."""

    def __init__(self, gateway: Gateway, host: str, port: int) -> None:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            self._socket = socket.create_server((host, port), family=family, backlog=2048)
        except OSError as error:
            raise UserError(
                f"ports.http: cannot listen on {host}:{port} ({error.strerror}); 0 takes a free port"
            ) from None
        self.port = self._socket.getsockname()[1]
        config = uvicorn.Config(
            create_app(gateway), log_config=None, access_log=False, lifespan="off", timeout_graceful_shutdown=1
        )
        self._server = _Uvicorn(config)
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self._task = asyncio.create_task(self._server.serve(sockets=[self._socket]))
        while not self._server.started and not self._task.done():
            await asyncio.sleep(0.01)

    async def stop(self) -> None:
        self._server.should_exit = True
        if self._task is not None:
            await self._task
