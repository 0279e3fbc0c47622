"""When there is too much, too late, or too little left: queue, cancellation, deadlines, failures, draining."""

from __future__ import annotations

import asyncio
import json
import socket
import urllib.error
import urllib.request

import grpc
import openai
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from maxllm.config.serve import SchedulerConfig
from serving.proto import orchestrator_pb2 as pb
from serving.proto import orchestrator_pb2_grpc as pb_grpc

LONG = {"textContent": {"text": "def add("}, "maxTokens": 1000}
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


def http_status(server, path: str) -> int:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{server.http_port}{path}", timeout=10) as response:
            return response.status
    except urllib.error.HTTPError as error:
        return error.code


def test_a_full_queue_refuses_and_keeps_its_word_to_the_rest(server, jetstream, openai_client, occupy):
    handles = occupy(server)
    refused = server.gateway.scheduler.stats.refused
    (answer,) = jetstream(server.grpc_port, {"textContent": {"text": "a"}})["answers"]
    assert answer["code"] == "RESOURCE_EXHAUSTED" and "waiting" in answer["details"] and answer["pieces"] == []
    with pytest.raises(openai.RateLimitError) as raised:
        openai_client.completions.create(model="tiny", prompt="a")
    assert raised.value.response.headers["retry-after"] == "1"
    assert server.gateway.scheduler.stats.refused == refused + 2
    assert [len(handle.result().token_ids) for handle in handles] == [1000] * 8
    assert openai_client.completions.create(model="tiny", prompt="a", max_tokens=2).choices


def test_a_call_with_several_answers_is_taken_whole_or_not_at_all(variant, connect_openai, occupy, wait_for):
    server = variant(SchedulerConfig(queue=6))
    stats = server.gateway.scheduler.stats
    for handle in occupy(server)[-2:]:
        handle.cancel()
    wait_for(lambda: stats.waiting == 4)
    with pytest.raises(openai.RateLimitError):
        connect_openai(server).completions.create(model="variant", prompt=["a"] * 3)
    wait_for(lambda: stats.finished["cancelled"] == 4)  # the two above, and the two that came first
    assert stats.finished["length"] == 0, "the machine was too fast for this test"


def test_a_cancelled_stream_frees_its_slot(server, jetstream, wait_for):
    stats = server.gateway.scheduler.stats
    cancelled, drawn = stats.finished["cancelled"], stats.generation_tokens
    (answer,) = jetstream(server.grpc_port, {"request": LONG, "cancel_after": 2})["answers"]
    assert answer["code"] == "CANCELLED" and len(answer["pieces"]) >= 2
    wait_for(lambda: stats.finished["cancelled"] == cancelled + 1 and stats.running == 0)
    assert stats.generation_tokens - drawn < 1000


def test_a_reader_who_leaves_frees_the_slot(server, openai_client, wait_for):
    stats = server.gateway.scheduler.stats
    cancelled, drawn = stats.finished["cancelled"], stats.generation_tokens
    request = {"model": "tiny", "prompt": "a", "max_tokens": 1000, "extra_body": {"ignore_eos": True}}
    stream = openai_client.completions.create(**request, stream=True)
    next(iter(stream))
    stream.close()
    wait_for(lambda: stats.finished["cancelled"] == cancelled + 1 and stats.running == 0)
    # Without streaming nothing has been sent yet: the connection's end alone must do.
    body = json.dumps({"prompt": "a", "max_tokens": 1000, "ignore_eos": True})
    with socket.create_connection(("127.0.0.1", server.http_port)) as connection:
        head = (
            f"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {len(body)}"
        )
        connection.sendall(f"{head}\r\n\r\n{body}".encode())
        wait_for(lambda: stats.running == 1)
    wait_for(lambda: stats.finished["cancelled"] == cancelled + 2 and stats.running == 0)
    assert stats.generation_tokens - drawn < 2000


def test_a_clients_deadline_ends_the_request_in_the_queue(server, jetstream, occupy, wait_for):
    stats = server.gateway.scheduler.stats
    over = stats.finished["deadline"] + stats.finished["cancelled"]
    *others, last = occupy(server)
    last.cancel()
    wait_for(lambda: stats.finished["cancelled"] > 0 and stats.waiting < 4)
    (answer,) = jetstream(server.grpc_port, {"request": LONG, "timeout": 0.05})["answers"]
    assert answer["code"] == "DEADLINE_EXCEEDED" and answer["pieces"] == []
    wait_for(lambda: stats.finished["deadline"] + stats.finished["cancelled"] == over + 2)
    assert [len(handle.result().token_ids) for handle in others] == [1000] * 7


def test_the_servers_deadline_is_an_error_not_a_text(variant, jetstream, connect_openai):
    server = variant(SchedulerConfig(queue=4, deadline_seconds=0.05))
    (answer,) = jetstream(server.grpc_port, LONG)["answers"]
    assert answer["code"] == "DEADLINE_EXCEEDED" and "deadline passed" in answer["details"]
    client = connect_openai(server)
    request = {"model": "variant", "prompt": "a", "max_tokens": 1000, "extra_body": {"ignore_eos": True}}
    with pytest.raises(openai.APIStatusError) as raised:
        client.completions.create(**request)
    assert raised.value.status_code == 504 and raised.value.body["type"] == "timeout_error"
    # In the middle of a stream the status is gone already: an event says it.
    with pytest.raises(openai.APIError, match="deadline passed"):
        list(client.completions.create(**request, stream=True))


def test_one_requests_failure_is_that_requests_failure(server, jetstream, openai_client):
    poison = server.gateway.tokenizer.vocab_size - 1
    good = {"tokenContent": {"tokenIds": [5, 6, 7]}, "maxTokens": 200}
    bad = {"tokenContent": {"tokenIds": [5, poison, 7]}, "maxTokens": 200}
    (alone,) = jetstream(server.grpc_port, good)["answers"]
    first, failed, second = jetstream(server.grpc_port, good, bad, good)["answers"]
    assert failed["code"] == "INTERNAL" and "not finite" in failed["details"] and failed["pieces"] == []
    for answer in (first, second):
        assert answer["code"] == "OK" and sum(answer["token_ids"], []) == sum(alone["token_ids"], [])
    for stream in (False, True):
        with pytest.raises(openai.InternalServerError, match="not finite"):
            openai_client.completions.create(model="tiny", prompt=[5, poison, 7], stream=stream)


def test_draining_finishes_what_runs_and_refuses_what_comes(variant, jetstream, connect_openai, loop, wait_for):
    server = variant(SchedulerConfig(queue=8))
    scheduler = server.gateway.scheduler
    with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
        stub = pb_grpc.OrchestratorStub(channel)
        request = pb.DecodeRequest(token_content={"token_ids": [5, 6, 7]}, max_tokens=1000)
        running = [stub.Decode(request, timeout=60) for _ in range(8)]
        wait_for(lambda: scheduler.stats.running == 4 and scheduler.stats.waiting == 4)
        stopping = asyncio.run_coroutine_threadsafe(server.stop(drain_seconds=60), loop)
        wait_for(lambda: not scheduler.accepting)
        assert http_status(server, "/health") == 503 and http_status(server, "/health/live") == 200
        refused = jetstream(server.grpc_port, {"textContent": {"text": "a"}})
        assert refused["live"] is False
        assert refused["answers"][0]["code"] == "UNAVAILABLE" and "draining" in refused["answers"][0]["details"]
        health = health_pb2_grpc.HealthStub(channel)
        wait_for(lambda: health.Check(health_pb2.HealthCheckRequest(), timeout=10).status == NOT_SERVING)
        with pytest.raises(openai.InternalServerError, match="draining") as raised:
            connect_openai(server).completions.create(model="variant", prompt="a")
        assert raised.value.status_code == 503
        assert not stopping.done(), "the machine was too fast for this test"
        for stream in running:
            responses = list(stream)
            assert responses[-1].usage.completion_tokens == 1000
        assert stopping.result(60) is True
    with pytest.raises(OSError):
        socket.create_connection(("127.0.0.1", server.http_port), timeout=5)


def test_what_draining_cuts_off_is_told_so(variant, connect_openai, jetstream, loop, wait_for):
    server = variant()
    stats = server.gateway.scheduler.stats
    request = {"model": "variant", "prompt": "a", "max_tokens": 1000, "extra_body": {"ignore_eos": True}}
    stream = iter(connect_openai(server).completions.create(**request, stream=True))
    next(stream)
    stopping = asyncio.run_coroutine_threadsafe(server.stop(drain_seconds=0.02), loop)
    with pytest.raises(openai.APIError, match="server stopped"):
        list(stream)
    assert stopping.result(60) is False
    assert stats.finished["cancelled"] == 1


def test_a_server_whose_engine_is_gone_says_so(variant, jetstream, wait_for):
    server = variant()
    server.gateway.scheduler.close()
    assert http_status(server, "/health") == 503 and http_status(server, "/health/live") == 503
    gone = jetstream(server.grpc_port, {"textContent": {"text": "a"}})
    assert gone["live"] is False and gone["answers"][0]["code"] == "UNAVAILABLE"
    with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
        health = health_pb2_grpc.HealthStub(channel)
        wait_for(lambda: health.Check(health_pb2.HealthCheckRequest(), timeout=10).status == NOT_SERVING)
