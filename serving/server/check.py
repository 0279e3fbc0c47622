"""Asks a running server for one completion over each port, as a client would: `maxllm serve RUN --check PROMPT`."""

from __future__ import annotations

import asyncio
import json
import time
import urllib.error
import urllib.request

import grpc

from maxllm.config.errors import UserError
from maxllm.summary import say
from serving.proto import orchestrator_pb2 as pb
from serving.proto import orchestrator_pb2_grpc as pb_grpc
from serving.server.main import Server

TOKENS = 32


async def check(server: Server, prompt: str) -> dict[str, str]:
    """Greedy text after `prompt`, by port; both must agree. Raises UserError when a port fails."""
    began = time.monotonic()
    try:
        texts = {"gRPC": await _over_grpc(server, prompt), "HTTP": await asyncio.to_thread(_over_http, server, prompt)}
    except (grpc.aio.AioRpcError, urllib.error.URLError) as error:
        raise UserError(f"the server answered its own check with an error: {error}") from None
    if texts["gRPC"] != texts["HTTP"]:
        raise UserError(f"the two ports gave different greedy texts: {texts}; please report it")
    for port, text in texts.items():
        print(f"{port}: {prompt!r} -> {text!r}", flush=True)
    say(f"gRPC and HTTP answered {prompt!r} with the same text in {time.monotonic() - began:.1f} s")
    return texts


async def _over_grpc(server: Server, prompt: str) -> str:
    async with grpc.aio.insecure_channel(f"{_address(server)}:{server.grpc_port}") as channel:
        request = pb.DecodeRequest(max_tokens=TOKENS, text_content={"text": prompt}, sampling={"temperature": 0})
        stream = pb_grpc.OrchestratorStub(channel).Decode(request)
        return "".join([response.stream_content.samples[0].text async for response in stream])


def _over_http(server: Server, prompt: str) -> str:
    body = {"prompt": prompt, "max_tokens": TOKENS, "temperature": 0}
    request = urllib.request.Request(
        f"http://{_address(server)}:{server.http_port}/v1/completions",
        json.dumps(body).encode(),
        {"content-type": "application/json"},
    )
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=60) as response:
        return json.load(response)["choices"][0]["text"]


def _address(server: Server) -> str:
    """An address one can connect to: 0.0.0.0 and :: mean all of them."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(server.host, server.host)
    return f"[{host}]" if ":" in host else host
