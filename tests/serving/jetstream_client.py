"""A JetStream client: the published google-jetstream stubs, in a process that has nothing of ours.

Per line of standard input, `{"port", "calls": [{"request", "timeout", "cancel_after"}]}`, it makes the calls at once
and prints `{"live", "answers": [{"code", "details", "pieces", "token_ids"}]}`. `request` has DecodeRequest's fields.
"""

from __future__ import annotations

import json
import sys
from concurrent.futures import ThreadPoolExecutor

import grpc
from google.protobuf import json_format
from jetstream.core.proto import jetstream_pb2, jetstream_pb2_grpc


def answer(stub: jetstream_pb2_grpc.OrchestratorStub, call: dict) -> dict:
    request = json_format.ParseDict(call["request"], jetstream_pb2.DecodeRequest())
    stream = stub.Decode(request, timeout=call.get("timeout"))
    pieces, token_ids = [], []
    try:
        for response in stream:
            sample = response.stream_content.samples[0]
            pieces.append(sample.text)
            token_ids.append(list(sample.token_ids))
            if len(pieces) == call.get("cancel_after"):
                stream.cancel()
    except grpc.RpcError:
        pass
    return {"code": stream.code().name, "details": stream.details(), "pieces": pieces, "token_ids": token_ids}


def work(port: int, calls: list[dict]) -> dict:
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        stub = jetstream_pb2_grpc.OrchestratorStub(channel)
        try:
            live = stub.HealthCheck(jetstream_pb2.HealthCheckRequest(), timeout=10).is_live
        except grpc.RpcError as error:
            live = error.code().name
        with ThreadPoolExecutor(max(len(calls), 1)) as pool:
            return {"live": live, "answers": list(pool.map(lambda call: answer(stub, call), calls))}


def main() -> None:
    assert "serving" not in sys.modules and "maxllm" not in sys.modules
    for line in sys.stdin:
        print(json.dumps(work(**json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
