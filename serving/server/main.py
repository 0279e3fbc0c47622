"""`maxllm serve`: one model, loaded and compiled, behind two ports, until a signal says stop."""

from __future__ import annotations

import asyncio
import json
import logging
import signal
import socket
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

from maxllm.config.errors import UserError
from maxllm.config.parallel import MeshConfig
from maxllm.config.serve import PortsConfig, ServeConfig
from maxllm.generate.engine import Engine
from maxllm.generate.scheduler import Scheduler
from maxllm.parallel import compilation_cache
from maxllm.tokenizer import Tokenizer
from serving.gateway import Gateway
from serving.server.grpc import GrpcPort
from serving.server.http import HttpPort

log = logging.getLogger("maxllm.serve")


class Server:
    """A gateway's two ports in the running event loop. A port of 0 becomes the one the system gave."""

    def __init__(self, gateway: Gateway, ports: PortsConfig) -> None:
        self.gateway = gateway
        self.host = ports.host
        self._grpc = GrpcPort(gateway, ports.host, ports.grpc)
        self._http = HttpPort(gateway, ports.host, ports.http)
        self.grpc_port, self.http_port = self._grpc.port, self._http.port

    async def start(self) -> None:
        await self._grpc.start()
        await self._http.start()

    async def stop(self, drain_seconds: float) -> bool:
        """Refuse new requests, give the running ones `drain_seconds`, close the ports. True when all finished."""
        finished = await self.gateway.drain(drain_seconds)
        await asyncio.gather(self._grpc.stop(), self._http.stop())
        return finished


def serve(config: ServeConfig, visit: Callable[[Server], Awaitable[None]] | None = None) -> int:
    """Serve until SIGTERM or SIGINT, then drain; exit code 0.

    Once ready, the first line on standard output is JSON: `{"event": "ready", "host", "grpc", "http", "model"}`.
    `visit` is called with the running server instead of waiting for a signal. Raises UserError.
    """
    logging.basicConfig(stream=sys.stderr, format="%(asctime)s %(name)s %(message)s")
    logging.getLogger("maxllm").setLevel(logging.INFO)
    _check_free(config.ports)
    gateway = load(config)
    try:
        asyncio.run(_run(gateway, config, visit))
    finally:
        gateway.scheduler.close()
    return 0


def load(config: ServeConfig) -> Gateway:
    """The model compiled and its scheduler running. Raises UserError."""
    from maxllm.parallel.mesh import make_mesh
    from maxllm.train.checkpoint import load_any

    if not config.model:
        raise UserError("model is empty; give a run directory or a Hugging Face folder: maxllm serve RUN")
    if not Path(config.model).exists() and "://" not in config.model:
        raise UserError(f"model: there is no {config.model}; give a run directory or a Hugging Face folder")
    compilation_cache.enable()
    log.info("loading %s", config.model)
    mesh = make_mesh(MeshConfig(data=1, fsdp=1, tensor=config.engine.tensor), _devices(config.engine.tensor))
    model, tokenizer, model_config = load_any(config.model, mesh=mesh, dtype=config.engine.dtype)
    if config.chat_template:
        tokenizer = _with_template(tokenizer, Path(config.chat_template))
    engine = Engine(model, config.engine, model_config)
    engine.warm_up(lambda what, done, total: log.info("compiling %d/%d %s", done, total, what))
    return Gateway(
        Scheduler(engine, tokenizer, config.scheduler).start(),
        tokenizer,
        name=config.name or Path(config.model).resolve().name,
        sampling=config.sampling,
        queue=config.scheduler.queue,
    )


def _devices(count: int) -> list:
    import jax

    devices = jax.devices()
    if count > len(devices):
        raise UserError(f"engine.tensor is {count}, but JAX sees {len(devices)} devices here; make it smaller")
    return devices[:count]


def _with_template(tokenizer: Tokenizer, path: Path) -> Tokenizer:
    try:
        files = {**tokenizer.files, "chat_template.jinja": path.read_bytes()}
    except OSError as error:
        raise UserError(f"chat_template: cannot read {path}: {error.strerror}") from None
    tokenizer = Tokenizer(files)
    try:
        tokenizer.apply_chat_template([{"role": "user", "content": "a"}])
    except UserError as error:
        raise UserError(f"chat_template: {path}: {error}") from None
    return tokenizer


def _check_free(ports: PortsConfig) -> None:
    """A port that is taken is told before the model is loaded, which may take minutes."""
    for name, port in (("grpc", ports.grpc), ("http", ports.http)):
        try:
            socket.create_server((ports.host, port), family=_family(ports.host)).close()
        except OSError as error:
            message = f"ports.{name}: cannot listen on {ports.host}:{port} ({error.strerror}); 0 takes a free port"
            raise UserError(message) from None


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


async def _run(gateway: Gateway, config: ServeConfig, visit: Callable[[Server], Awaitable[None]] | None) -> None:
    server, loop = Server(gateway, config.ports), asyncio.get_running_loop()
    stop, hurry = asyncio.Event(), asyncio.Event()

    def on_signal() -> None:
        if stop.is_set():  # the second one: whoever sends it does not want to wait
            hurry.set()
            loop.run_in_executor(None, gateway.scheduler.close)
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal)
    await server.start()
    _announce(server)
    if visit is not None:
        await visit(server)
    else:
        await stop.wait()
    log.info("draining, at most %g seconds", config.scheduler.drain_seconds)
    finished = await server.stop(config.scheduler.drain_seconds)
    log.info("stopped, %s", "every request finished" if finished and not hurry.is_set() else "the rest was cut off")


def _announce(server: Server) -> None:
    ready = {"event": "ready", "host": server.host, "grpc": server.grpc_port, "http": server.http_port}
    print(json.dumps({**ready, "model": server.gateway.name}), flush=True)
    host = f"[{server.host}]" if ":" in server.host else server.host
    print(
        f"serving {server.gateway.name}: gRPC on {host}:{server.grpc_port}, http://{host}:{server.http_port}/v1",
        flush=True,
    )
