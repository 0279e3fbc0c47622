"""JetStream's wire format, spoken by JetStream's own stubs; our extensions, spoken by ours."""

from __future__ import annotations

import subprocess
import sys

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from serving.proto import orchestrator_pb2 as pb
from serving.proto import orchestrator_pb2_grpc as pb_grpc


@pytest.fixture(scope="module")
def channel(server):
    with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
        yield channel


@pytest.fixture(scope="module")
def stub(channel):
    return pb_grpc.OrchestratorStub(channel)


def decode(stub, **request) -> list[pb.DecodeResponse]:
    return list(stub.Decode(pb.DecodeRequest(**request), timeout=60))


def text_of(responses, sample: int = 0) -> str:
    return "".join(response.stream_content.samples[sample].text for response in responses)


def ids_of(responses, sample: int = 0) -> list[int]:
    return [i for response in responses for i in response.stream_content.samples[sample].token_ids]


def test_a_jetstream_client_works_unchanged(server, jetstream):
    done = jetstream(server.grpc_port, {"textContent": {"text": "def add("}, "maxTokens": 7, "priority": 3})
    (answer,) = done["answers"]
    ids = sum(answer["token_ids"], [])
    assert done["live"] is True and answer["code"] == "OK"
    assert 1 <= len(ids) <= 7 and len(answer["pieces"]) > 1
    assert "".join(answer["pieces"]) == server.gateway.tokenizer.decode(ids)


def test_a_client_that_sends_token_ids_gets_token_ids(server, jetstream):
    (answer,) = jetstream(server.grpc_port, {"tokenContent": {"tokenIds": [5, 6, 7]}, "maxTokens": 4})["answers"]
    assert answer["code"] == "OK" and sum(answer["token_ids"], [])
    assert not any(answer["pieces"])


@pytest.mark.parametrize(
    "request_, sentence",
    [
        ({"maxTokens": 4}, "neither text_content nor token_content"),
        ({"tokenContent": {"tokenIds": [10**6]}}, "not in the vocabulary"),
        ({"tokenContent": {}}, "prompt is empty"),
        ({"textContent": {"text": "a"}, "maxTokens": -1}, "max_tokens is -1"),
        ({"textContent": {"text": "x" * 1000}}, "at most 256 are accepted"),
    ],
)
def test_a_bad_request_is_a_sentence_and_no_text(server, jetstream, request_, sentence):
    (answer,) = jetstream(server.grpc_port, request_)["answers"]
    assert answer["code"] == "INVALID_ARGUMENT" and sentence in answer["details"]
    assert answer["pieces"] == []


def test_bytes_that_are_no_request_are_the_clients_error(channel):
    with pytest.raises(grpc.RpcError) as raised:
        list(channel.unary_stream("/jetstream_proto.Orchestrator/Decode")(b"\xff\xff\xff"))
    assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_an_adapter_we_do_not_have_is_refused(stub):
    with pytest.raises(grpc.RpcError) as raised:
        decode(stub, text_content={"text": "a"}, lora_adapter_id="mine")
    assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT and "adapter" in raised.value.details()


def test_fields_of_jetstreams_last_source_are_accepted(stub, server):
    tokenizer = server.gateway.tokenizer
    plain = decode(stub, text_content={"text": "def"}, max_tokens=4, sampling={"temperature": 0})
    ids = tokenizer.encode("def", bos=True)
    given = decode(stub, token_content={"token_ids": ids}, max_tokens=4, sampling={"temperature": 0})
    unlike = decode(stub, text_content={"text": "def"}, max_tokens=4, has_bos=True, sampling={"temperature": 0})
    bare = tokenizer.encode("def")
    assert ids_of(plain) == ids_of(given)
    assert ids_of(unlike) == ids_of(
        decode(stub, token_content={"token_ids": bare}, max_tokens=4, sampling={"temperature": 0})
    )
    assert decode(stub, text_content={"text": "a"}, max_tokens=2, metadata={"start_time": 1.0})


def test_samples_are_known_by_their_place(stub):
    request = {"text_content": {"text": "a"}, "max_tokens": 9, "sampling": {"temperature": 1, "seed": 3}}
    both = decode(stub, **request, num_samples=2)
    second = decode(stub, **{**request, "sampling": {"temperature": 1, "seed": 4}})
    assert text_of(both, 0) == text_of(decode(stub, **request))
    assert text_of(both, 1) == text_of(second)
    assert both[-1].usage.completion_tokens == sum(
        responses[-1].usage.completion_tokens for responses in (decode(stub, **request), second)
    )


def test_finish_reason_usage_and_logprobs_come_with_our_fields(stub, server):
    responses = decode(stub, text_content={"text": "def add("}, max_tokens=6, sampling={"temperature": 0}, logprobs=2)
    last = responses[-1]
    assert last.stream_content.samples[0].finish_reason == pb.FINISH_REASON_LENGTH
    assert last.usage.completion_tokens == 6
    assert last.usage.prompt_tokens == len(server.gateway.tokenizer.encode("def add(", bos=True))
    assert not any(response.HasField("usage") for response in responses[:-1])
    logprobs = [p for response in responses for p in response.stream_content.samples[0].logprobs]
    assert [p.token_id for p in logprobs] == ids_of(responses)
    for token in logprobs:
        assert token.alternatives[0].token_id == token.token_id  # greedy: the likeliest
        assert token.alternatives[0].logprob == token.logprob > token.alternatives[1].logprob


def test_a_stop_string_ends_the_text_before_it(stub):
    request = {"text_content": {"text": "def add("}, "max_tokens": 24, "sampling": {"temperature": 0}}
    whole = text_of(decode(stub, **request))
    stop = next(whole[i : i + 2] for i in range(4, len(whole)) if "\ufffd" not in whole[i : i + 2])
    cut = decode(stub, **request, stop=[stop])
    assert text_of(cut) == whole[: whole.index(stop)]
    assert cut[-1].stream_content.samples[0].finish_reason == pb.FINISH_REASON_STOP


def test_streams_never_cut_a_character(stub, server):
    """Tokens of single bytes: the text that streams is the text of all ids, and no piece holds half a character."""
    tokenizer, split = server.gateway.tokenizer, 0
    for seed in range(12):
        sampling = {"temperature": 1, "top_k": 100, "seed": seed}
        responses = decode(stub, text_content={"text": "é 日本"}, max_tokens=200, sampling=sampling)
        ids = ids_of(responses)
        assert text_of(responses) == tokenizer.decode(ids)
        parts = [tokenizer.token_bytes(i) for i in ids]
        whole = b"".join(parts).decode(errors="replace").replace("\ufffd", "")
        split += len(whole) > sum(len(part.decode(errors="ignore")) for part in parts)
    assert split, "no seed made a character out of two tokens: the test has nothing to show"


def test_our_service_has_two_names(channel):
    request = pb.DecodeRequest(text_content={"text": "a"}, max_tokens=2, sampling={"temperature": 0})
    answers = [
        list(
            channel.unary_stream(
                f"/{service}/Decode",
                request_serializer=pb.DecodeRequest.SerializeToString,
                response_deserializer=pb.DecodeResponse.FromString,
            )(request)
        )
        for service in ("jetstream_proto.Orchestrator", "maxllm.v1.Orchestrator")
    ]
    assert ids_of(answers[0]) == ids_of(answers[1])


def test_standard_health_and_reflection(channel):
    health = health_pb2_grpc.HealthStub(channel)
    for service in ("", "jetstream_proto.Orchestrator"):
        status = health.Check(health_pb2.HealthCheckRequest(service=service), timeout=10).status
        assert status == health_pb2.HealthCheckResponse.SERVING
    database = ProtoReflectionDescriptorDatabase(channel)
    services = set(database.get_services())
    assert {"jetstream_proto.Orchestrator", "maxllm.v1.Orchestrator", "grpc.health.v1.Health"} <= services
    file = database.FindFileContainingSymbol("jetstream_proto.Orchestrator")
    request = next(message for message in file.message_type if message.name == "DecodeRequest")
    numbers = {field.name: field.number for field in request.field}
    assert numbers["max_tokens"] == 4 and numbers["text_content"] == 5 and numbers["sampling"] >= 100
    assert {f.type_name for f in request.field if f.name == "sampling"} == {".jetstream_proto.Sampling"}


def test_our_numbers_are_jetstreams_and_both_load_in_one_process():
    """Whatever JetStream's file defines, ours defines with the same number and type."""
    program = """
from jetstream.core.proto import jetstream_pb2 as theirs
from serving.proto import orchestrator_pb2 as ours

def compare(a, b):
    for field in a.fields:
        same = b.fields_by_name[field.name]
        assert (same.number, same.type, same.is_repeated) == (field.number, field.type, field.is_repeated), field.name
        assert (field.containing_oneof is None) == (same.containing_oneof is None), field.name
        if field.message_type:
            compare(field.message_type, same.message_type)

for name, message in theirs.DESCRIPTOR.message_types_by_name.items():
    compare(message, ours.DESCRIPTOR.message_types_by_name[name])
print("same")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout == "same\n", done.stderr
