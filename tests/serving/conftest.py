"""A real server on free ports: a tiny decoder with random weights as a Hugging Face folder, and its tokenizer."""

from __future__ import annotations

import asyncio
import io
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from maxllm.config.serve import EngineConfig, PortsConfig, SamplingConfig, SchedulerConfig, ServeConfig

ENGINE = EngineConfig(slots=4, max_length=1024, prefill_buckets=[64, 256])
# A few lines in several scripts: characters of one to four bytes, most of which the tokenizer spells in bytes.
TEXT = [
    "def add(left, right):\n    return left + right\n",
    "for index, value in enumerate(values):\n    print(index, value)\n",
    "The quick brown fox jumps over the lazy dog, and the dog does not mind.",
    "La première année, où l'été fut long; Größe, Straße, Übermut.",
    "日本語の文章と、もう一つの文章。",
    "😀 🎉 and plain words again, 0123456789.",
] * 20


def train_tokenizer(control_symbols: tuple[str, ...] = ()):
    """SentencePiece with byte fallback; nearly every character outside ASCII is spelled in bytes."""
    import sentencepiece

    from maxllm.tokenizer import Tokenizer

    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXT),
        model_writer=model,
        model_type="bpe",
        vocab_size=400 + len(control_symbols),
        character_coverage=0.98,
        byte_fallback=True,
        normalization_rule_name="identity",
        add_dummy_prefix=False,
        remove_extra_whitespaces=False,
        control_symbols=list(control_symbols),
        user_defined_symbols=["\n"],
        hard_vocab_limit=False,
        minloglevel=2,
    )
    return Tokenizer({"tokenizer.model": model.getvalue()})


@pytest.fixture(scope="session")
def plain_tokenizer():
    """Without a chat template."""
    return train_tokenizer()


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Hugging Face folder with a ChatML tokenizer.

    The initialisation is wide, so that greedy text does not fall into a loop at once. The last token is poison: its
    embedding is NaN, and the head never prefers it.
    """
    import jax.numpy as jnp

    from maxllm.config.compute import ComputeConfig
    from maxllm.config.model import ModelConfig
    from maxllm.convert import hf
    from maxllm.models import create
    from maxllm.parallel.mesh import single_device_mesh

    tokenizer = train_tokenizer(("<|im_start|>", "<|im_end|>"))
    config = ModelConfig(
        vocab_size=tokenizer.vocab_size,
        hidden_size=32,
        intermediate_size=64,
        num_layers=2,
        num_heads=4,
        num_kv_heads=2,
        max_positions=1024,
        init_std=0.4,
    )
    model = create(config, ComputeConfig(dtype="float32"), single_device_mesh(), seed=0)
    embedding, head = model.embed.embedding, model.head.kernel
    embedding.set_value(embedding[...].at[-1].set(jnp.nan))
    head.set_value(head[...].at[:, -1].set(0))
    folder = tmp_path_factory.mktemp("models") / "tiny"
    hf.save(model, tokenizer, folder)
    return folder


@pytest.fixture(scope="session")
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    """An event loop in a thread of its own, so that tests may block."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    yield loop
    loop.call_soon_threadsafe(loop.stop)
    thread.join()


def start(loop: asyncio.AbstractEventLoop, gateway):
    """Both ports of `gateway`, running in `loop`."""
    from serving.server.main import Server

    async def started():
        server = Server(gateway, PortsConfig(grpc=0, http=0))
        await server.start()
        return server

    return asyncio.run_coroutine_threadsafe(started(), loop).result(60)


@pytest.fixture(scope="session")
def server(model_folder: Path, loop: asyncio.AbstractEventLoop):
    """The server most tests share: four slots, a queue of four, chat by ChatML."""
    from serving.server import main

    gateway = main.load(
        ServeConfig(
            model=str(model_folder),
            engine=ENGINE,
            sampling=SamplingConfig(temperature=0, max_tokens=24),
            scheduler=SchedulerConfig(queue=4),
        )
    )
    server = start(loop, gateway)
    yield server
    asyncio.run_coroutine_threadsafe(server.stop(drain_seconds=5), loop).result(30)


@pytest.fixture(scope="session")
def variant(server, loop: asyncio.AbstractEventLoop) -> Iterator[Callable[..., object]]:
    """`variant(scheduler=..., tokenizer=...)`: another server on the same compiled engine."""
    from maxllm.generate.scheduler import Scheduler
    from serving.gateway import Gateway

    started = []

    def make(scheduler: SchedulerConfig | None = None, tokenizer=None) -> object:
        scheduler = scheduler or SchedulerConfig(queue=4)
        tokenizer = tokenizer or server.gateway.tokenizer
        gateway = Gateway(
            Scheduler(server.gateway.scheduler.engine, tokenizer, scheduler).start(),
            tokenizer,
            name="variant",
            sampling=SamplingConfig(temperature=0, max_tokens=24),
            queue=scheduler.queue,
        )
        started.append(start(loop, gateway))
        return started[-1]

    yield make
    for running in started:
        asyncio.run_coroutine_threadsafe(running.stop(drain_seconds=0), loop).result(30)


@pytest.fixture(scope="session")
def jetstream() -> Iterator[Callable[..., dict]]:
    """`jetstream(port, *requests)`: a foreign client in a process of its own makes the calls at once."""
    client = Path(__file__).with_name("jetstream_client.py")
    process = subprocess.Popen(
        [sys.executable, "-I", str(client)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )

    def run(port: int, *calls: dict) -> dict:
        work = {"port": port, "calls": [call if "request" in call else {"request": call} for call in calls]}
        process.stdin.write(json.dumps(work) + "\n")
        process.stdin.flush()
        return json.loads(process.stdout.readline())

    run(0)  # it has started
    yield run
    process.stdin.close()
    assert process.wait(30) == 0


@pytest.fixture(scope="session")
def openai_client(server):
    """The `openai` package's own client, told where we are and nothing else."""
    return connect(server)


def connect(server):
    import openai

    return openai.OpenAI(base_url=f"http://127.0.0.1:{server.http_port}/v1", api_key="none", max_retries=0, timeout=60)


@pytest.fixture(scope="session")
def connect_openai():
    return connect


@pytest.fixture
def wait_for() -> Callable[[Callable[[], bool]], None]:
    """Polls until the condition holds; fails after half a minute."""

    def wait(condition: Callable[[], bool]) -> None:
        end = time.monotonic() + 30
        while not condition():
            assert time.monotonic() < end, "it did not happen in half a minute"
            time.sleep(0.005)

    return wait


@pytest.fixture
def occupy(wait_for):
    """`occupy(server)`: every slot and every place in the queue taken by long requests; returns their handles."""
    from maxllm.generate.request import Request, SamplingParams

    handles = []

    def fill(server) -> list:
        scheduler = server.gateway.scheduler
        request = Request((5, 6, 7), max_tokens=1000, ignore_eos=True, sampling=SamplingParams(temperature=0))
        handles.extend(scheduler.submit(request) for _ in range(scheduler.stats.slots))
        wait_for(lambda: scheduler.stats.running == scheduler.stats.slots)
        handles.extend(scheduler.submit(request) for _ in range(scheduler.config.queue))
        return handles

    yield fill
    for handle in handles:
        handle.cancel()
