"""Streams from a running server: `client.py grpc|http PORT REQUESTS TOKENS PROMPT` prints the seconds they took.

Plain sockets for HTTP and bare gRPC calls: the measured cost shall be the server's, not a client library's.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time

import grpc

from serving.proto import orchestrator_pb2 as pb
from serving.proto import orchestrator_pb2_grpc as pb_grpc


async def over_grpc(port: int, requests: int, tokens: int, prompt: list[int]) -> None:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        stub = pb_grpc.OrchestratorStub(channel)

        async def one() -> None:
            request = pb.DecodeRequest(max_tokens=tokens, token_content={"token_ids": prompt})
            request.sampling.temperature = 0
            count = [len(r.stream_content.samples[0].token_ids) async for r in stub.Decode(request)]
            assert sum(count) == tokens, f"the answer ended after {sum(count)} tokens"

        await asyncio.gather(*(one() for _ in range(requests)))


async def over_http(port: int, requests: int, tokens: int, prompt: list[int]) -> None:
    fields = {"prompt": prompt, "max_tokens": tokens, "temperature": 0, "ignore_eos": True, "stream": True}
    body = json.dumps(fields)
    head = "POST /v1/completions HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: application/json\r\n"

    async def one() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(f"{head}content-length: {len(body)}\r\n\r\n{body}".encode())
        answer = await reader.read()
        assert b'"finish_reason":"length"' in answer and b"[DONE]" in answer
        writer.close()

    await asyncio.gather(*(one() for _ in range(requests)))


def main() -> None:
    protocol, *numbers, prompt = sys.argv[1:]
    port, requests, tokens = map(int, numbers)
    work = {"grpc": over_grpc, "http": over_http}[protocol]

    async def measure() -> float:
        await work(port, 1, 4, json.loads(prompt))
        started = time.perf_counter()
        await work(port, requests, tokens, json.loads(prompt))
        return time.perf_counter() - started

    print(asyncio.run(measure()))


if __name__ == "__main__":
    main()
