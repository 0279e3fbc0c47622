"""`maxllm serve` as a user starts it: a process, two ports, a signal."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections import deque

import openai
import pytest

from maxllm.cli.main import main

# The shared server's engine: what is compiled for one is compiled for both.
SMALL = ["engine.slots=4", "engine.max_length=1024", "engine.prefill_buckets=[64,256]", "sampling.temperature=0"]
SECRET = "a passphrase nobody may log"


@pytest.fixture
def process(model_folder, tmp_path):
    """A served model with a chat template of the user's own, ready; its log goes to a file."""
    template = tmp_path / "plain.jinja"
    template.write_text("{% for message in messages %}{{ message['content'] }}\n{% endfor %}")
    with open(tmp_path / "log", "w") as log:
        settings = [*SMALL, "ports.grpc=0", "ports.http=0", f"chat_template={template}"]
        process = subprocess.Popen(
            [sys.executable, "-m", "maxllm.cli.main", "serve", str(model_folder), *settings],
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
        try:
            process.ready = json.loads(process.stdout.readline())
            process.log = lambda: (tmp_path / "log").read_text()
            yield process
        finally:
            process.kill()
            process.wait()


def test_sigterm_lets_running_requests_finish(process, jetstream):
    ready = process.ready
    assert ready["event"] == "ready" and ready["host"] == "127.0.0.1" and ready["model"] == "tiny"
    assert str(ready["http"]) in process.stdout.readline()
    client = openai.OpenAI(base_url=f"http://127.0.0.1:{ready['http']}/v1", api_key=SECRET, max_retries=0, timeout=60)

    # A template given on the command line: two lines and nothing else.
    messages = [{"role": "system", "content": "def"}, {"role": "user", "content": SECRET}]
    chat = client.chat.completions.create(model="tiny", messages=messages, max_tokens=4)
    plain = client.completions.create(model="tiny", prompt=f"def\n{SECRET}\n", max_tokens=4)
    assert plain.usage.prompt_tokens - chat.usage.prompt_tokens in (0, 1)  # the template adds no bos

    request = {"model": "tiny", "prompt": "a", "max_tokens": 1000, "extra_body": {"ignore_eos": True}}
    texts: deque[str] = deque()
    finished = []

    def read() -> None:
        stream = client.completions.create(**request, stream=True, stream_options={"include_usage": True})
        for chunk in stream:
            texts.extend(choice.text for choice in chunk.choices)
        finished.append(chunk.usage.completion_tokens)

    readers = [threading.Thread(target=read) for _ in range(12)]
    for reader in readers:
        reader.start()
    while not texts:
        time.sleep(0.002)
    metrics = f"http://127.0.0.1:{ready['http']}/metrics"
    while 'vllm:num_requests_waiting{model_name="tiny"} 8.0' not in urllib.request.urlopen(metrics).read().decode():
        time.sleep(0.002)
    process.send_signal(signal.SIGTERM)
    while _status(ready["http"]) == 200:
        time.sleep(0.002)
    assert _status(ready["http"]) == 503 and process.poll() is None
    with pytest.raises(openai.InternalServerError, match="draining"):
        client.completions.create(model="tiny", prompt="a")
    refused = jetstream(ready["grpc"], {"textContent": {"text": "a"}})
    assert refused["live"] is False and refused["answers"][0]["code"] == "UNAVAILABLE"
    for reader in readers:
        reader.join(60)
    assert finished == [1000] * 12
    assert process.wait(30) == 0

    lines = [line for line in process.log().splitlines() if " id=cmpl-" in line]
    assert sum("tokens=1000" in line and "finish=length" in line for line in lines) == 12
    assert all("port=http" in line and "prompt_tokens=" in line for line in lines if "refused" not in line)
    assert SECRET not in process.log() and "Traceback" not in process.log()


def _status(port: int) -> int:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=10) as response:
            return response.status
    except urllib.error.HTTPError as error:
        return error.code


def test_check_asks_both_ports_once(model_folder, capsys):
    assert main(["serve", str(model_folder), *SMALL, "--check", "def add("]) == 0
    ready, *_, last = capsys.readouterr().out.splitlines()
    assert json.loads(ready)["event"] == "ready" and "the same text" in last


def test_mistakes_are_sentences(model_folder, tmp_path, capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["serve", str(model_folder), f"ports.http={port}"]) == 2
    assert f"ports.http: cannot listen on 127.0.0.1:{port}" in capsys.readouterr().err
    ports = ["ports.grpc=0", "ports.http=0"]
    assert main(["serve", str(tmp_path), *ports]) == 2
    assert "neither a run directory" in capsys.readouterr().err
    assert main(["serve", str(model_folder), "engine.max_length=2048", *ports]) == 2
    assert "longer than the model's 1024 positions" in capsys.readouterr().err
    assert main(["serve", str(model_folder), "engine.tensor=16", *ports]) == 2
    assert "JAX sees 8 devices" in capsys.readouterr().err
    template = tmp_path / "broken.jinja"
    template.write_text("{% for %}")
    assert main(["serve", str(model_folder), f"chat_template={template}", *ports]) == 2
    assert "broken.jinja" in capsys.readouterr().err
