"""JetStream's gRPC service on the gateway, with the standard health and reflection services beside it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool
from google.protobuf.message import DecodeError, Message
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as health_aio
from grpc_reflection.v1alpha import reflection, reflection_pb2

from maxllm.config.errors import UserError
from maxllm.generate.request import Event
from serving.gateway import Ask, Failure, Gateway, Reason
from serving.proto import orchestrator_pb2 as pb

log = logging.getLogger("maxllm.serve")

# The name JetStream's clients call, and the name of our own generated stubs.
SERVICES = ("jetstream_proto.Orchestrator", "maxllm.v1.Orchestrator")

CODES = {
    Reason.INVALID: grpc.StatusCode.INVALID_ARGUMENT,
    Reason.NO_SUCH_MODEL: grpc.StatusCode.NOT_FOUND,
    Reason.BUSY: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Reason.UNAVAILABLE: grpc.StatusCode.UNAVAILABLE,
    Reason.DEADLINE: grpc.StatusCode.DEADLINE_EXCEEDED,
    Reason.INTERNAL: grpc.StatusCode.INTERNAL,
}
HEALTH_SECONDS = 0.5  # between two looks at whether the gateway is ready
FINISH = {"stop": pb.FINISH_REASON_STOP, "length": pb.FINISH_REASON_LENGTH}


class Orchestrator:
    """The service's methods. Failures are status codes with a sentence."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    async def decode(self, data: bytes, context: grpc.aio.ServicerContext) -> AsyncIterator[pb.DecodeResponse]:
        """`Decode`. `data` is the serialized request: bytes that are no request are the client's error, not ours."""
        call = None
        try:
            request = _parse(pb.DecodeRequest, data)
            call = await self._gateway.open(_ask(request, context.time_remaining()), "grpc")
            with_text = request.WhichOneof("content") == "text_content"
            samples, finished = max(request.num_samples, 1), 0
            async for index, event in call.events():
                finished += event.finish_reason is not None
                response = _response(call.id, event, index, samples, with_text)
                if finished == samples:
                    response.usage.prompt_tokens = call.prompt_tokens
                    response.usage.completion_tokens = call.completion_tokens
                yield response
        except Failure as failure:
            await context.abort(CODES[failure.reason], failure.message)
        except Exception:
            log.exception("a request failed outside the engine")
            await context.abort(grpc.StatusCode.INTERNAL, "the server failed; its log says why")
        finally:
            if call is not None:
                call.close()

    async def health_check(self, data: bytes, context: grpc.aio.ServicerContext) -> pb.HealthCheckResponse:
        return pb.HealthCheckResponse(is_live=self._gateway.ready)

    def handler(self, service: str) -> grpc.GenericRpcHandler:
        """The service under the name `service`."""
        methods = {
            "Decode": grpc.unary_stream_rpc_method_handler(
                self.decode, response_serializer=pb.DecodeResponse.SerializeToString
            ),
            "HealthCheck": grpc.unary_unary_rpc_method_handler(
                self.health_check, response_serializer=pb.HealthCheckResponse.SerializeToString
            ),
        }
        return grpc.method_handlers_generic_handler(service, methods)


def _parse(message: type[Message], data: bytes) -> Message:
    try:
        return message.FromString(data)
    except DecodeError as error:
        raise Failure(Reason.INVALID, f"the request is not a {message.DESCRIPTOR.name}: {error}") from None


def _ask(request: pb.DecodeRequest, deadline_seconds: float | None) -> Ask:
    """What a DecodeRequest asks for. Raises Failure for what this server would have to ignore."""
    content = request.WhichOneof("content")
    if content is None:
        raise Failure(Reason.INVALID, "the request has neither text_content nor token_content; set one of them")
    if request.lora_adapter_id:
        sentence = f"lora_adapter_id is {request.lora_adapter_id!r}, but this server has no adapters; leave it empty"
        raise Failure(Reason.INVALID, sentence)
    for field in ("max_tokens", "num_samples"):
        if getattr(request, field) < 0:
            raise Failure(
                Reason.INVALID, f"{field} is {getattr(request, field)}; it must be positive, or 0 for the default"
            )
    sampling = request.sampling
    given = {f: getattr(sampling, f) for f in ("temperature", "top_k", "top_p", "seed") if sampling.HasField(f)}
    return Ask(
        prompts=[request.text_content.text if content == "text_content" else list(request.token_content.token_ids)],
        copies=request.num_samples or 1,
        max_tokens=request.max_tokens or None,
        stop=list(request.stop),
        logprobs=request.logprobs if request.HasField("logprobs") else None,
        bos=not request.has_bos,
        deadline_seconds=deadline_seconds,
        **given,
    )


def _response(call_id: str, event: Event, index: int, samples: int, with_text: bool) -> pb.DecodeResponse:
    """One event; the samples it does not belong to stay empty, since a sample is known by its place."""
    content = [pb.DecodeResponse.StreamContent.Sample() for _ in range(samples)]
    sample = content[index]
    sample.token_ids.extend(event.token_ids)
    if with_text:
        sample.text = event.text
    if event.finish_reason is not None:
        sample.finish_reason = FINISH[event.finish_reason]
    for chosen in event.logprobs or ():
        logprob = sample.logprobs.add(token_id=chosen.token_id, logprob=chosen.logprob)
        for token_id, value in chosen.top:
            logprob.alternatives.add(token_id=token_id, logprob=value)
    stream = pb.DecodeResponse.StreamContent(samples=content)
    return pb.DecodeResponse(stream_content=stream, request_id=call_id)


def _reflection_pool() -> descriptor_pool.DescriptorPool:
    """What clients see: our file under both package names, in a pool of its own.

    The process's own pool may hold JetStream's `jetstream_proto`, with which ours would clash.
    """
    pool = descriptor_pool.DescriptorPool()
    for module in (health_pb2, reflection_pb2, pb):
        pool.AddSerializedFile(module.DESCRIPTOR.serialized_pb)
    ours, theirs = pb.DESCRIPTOR.package, SERVICES[0].rpartition(".")[0]
    file = descriptor_pb2.FileDescriptorProto.FromString(pb.DESCRIPTOR.serialized_pb)
    file.name, file.package = "jetstream.proto", theirs
    _rename_types(file, f".{ours}.", f".{theirs}.")
    pool.AddSerializedFile(file.SerializeToString())
    return pool


def _rename_types(message: Message, before: str, after: str) -> None:
    """Every full type name in a descriptor that begins with `before` begins with `after`."""
    for field, value in message.ListFields():
        if field.name in ("type_name", "input_type", "output_type"):
            setattr(message, field.name, value.replace(before, after, 1))
        elif field.message_type is not None:
            for part in [value] if isinstance(value, Message) else value:
                _rename_types(part, before, after)


class GrpcPort:
    """The gRPC server: `await start()`, then `port` is the port it got."""

    def __init__(self, gateway: Gateway, host: str, port: int) -> None:
        self._gateway = gateway
        # Without so_reuseport=0 a second server would share the port in silence.
        self._server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
        orchestrator = Orchestrator(gateway)
        self._server.add_generic_rpc_handlers(tuple(orchestrator.handler(name) for name in SERVICES))
        self._health = health_aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        names = (*SERVICES, "grpc.health.v1.Health", reflection.SERVICE_NAME)
        reflection.enable_server_reflection(names, self._server, pool=_reflection_pool())
        address = f"[{host}]" if ":" in host else host
        try:
            self.port = self._server.add_insecure_port(f"{address}:{port}")
        except RuntimeError:
            self.port = 0
        if not self.port:
            raise UserError(
                f"ports.grpc: cannot listen on {address}:{port}; is another server there? 0 takes a free port"
            )

    async def start(self) -> None:
        await self.tell_health()
        await self._server.start()
        self._watch = asyncio.create_task(self._watch_health())

    async def tell_health(self) -> None:
        """Makes `grpc.health.v1` say, of every service and of the whole, what the gateway says now."""
        kinds = health_pb2.HealthCheckResponse
        for name in ("", *SERVICES):
            await self._health.set(name, kinds.SERVING if self._gateway.ready else kinds.NOT_SERVING)

    async def _watch_health(self) -> None:
        while True:
            await asyncio.sleep(HEALTH_SECONDS)
            await self.tell_health()

    async def stop(self) -> None:
        self._watch.cancel()
        await self._server.stop(grace=1)
