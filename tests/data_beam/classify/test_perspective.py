"""The Perspective client against a real server on this machine: quota, retries, cache, and a key that nobody sees."""

from __future__ import annotations

import json
import logging
import pickle
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from data_beam.classify.perspective import MAX_BYTES, Perspective, PerspectiveError
from data_beam.document import Document, Drop
from data_beam.stages.toxicity import Toxicity
from maxllm.config.errors import UserError
from maxllm.config.toxicity import PerspectiveConfig, ToxicityConfig

KEY = "sesame-3141592653"


class Service(ThreadingHTTPServer):
    """Answers with the share of `x` in the text; `plan` holds the statuses of the next answers."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.requests: list[dict] = []
        self.times: list[float] = []
        self.plan: list[tuple[int, dict[str, str], bytes]] = []
        self.url = f"http://127.0.0.1:{self.server_port}/v1alpha1/comments:analyze"


class Handler(BaseHTTPRequestHandler):
    server: Service

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.times.append(time.time())
        self.server.requests.append({"body": body, "key": self.headers.get("X-Goog-Api-Key"), "path": self.path})
        status, headers, answer = self.server.plan.pop(0) if self.server.plan else (200, {}, b"")
        if status == 200 and not answer:
            text = body["comment"]["text"]
            (attribute,) = body["requestedAttributes"]
            score = {"summaryScore": {"value": text.count("x") / len(text), "type": "PROBABILITY"}}
            answer = json.dumps({"attributeScores": {attribute: score}}).encode()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture()
def service():
    server = Service()
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture()
def configure(service, tmp_path, monkeypatch):
    monkeypatch.setenv("PERSPECTIVE_API_KEY", KEY)

    def make(**settings) -> PerspectiveConfig:
        cache = str(tmp_path / "cache" / "scores.sqlite")
        return PerspectiveConfig.model_validate(
            {"enabled": True, "url": service.url, "cache": cache, "requests_per_second": 1000} | settings
        )

    return make


def test_a_text_is_scored_and_the_key_is_in_a_header_only(service, configure):
    assert Perspective(configure()).score("xx--") == 0.5
    (request,) = service.requests
    assert request["key"] == KEY and KEY not in request["path"] and "key" not in request["path"]
    assert request["body"]["requestedAttributes"] == {"TOXICITY": {}} and request["body"]["doNotStore"] is True


def test_a_text_seen_before_is_not_asked_again_by_this_or_a_later_process(service, configure):
    client = Perspective(configure())
    assert client.score("x---") == client.score("x---") == 0.25
    client.close()
    assert Perspective(configure()).score("x---") == 0.25
    assert len(service.requests) == 1
    Perspective(configure(attribute="INSULT")).score("x---")
    assert len(service.requests) == 2


def test_the_cache_has_neither_text_nor_key(service, configure, tmp_path):
    Perspective(configure()).score("a remarkable text")
    held = b"".join(path.read_bytes() for path in (tmp_path / "cache").iterdir())
    assert b"remarkable" not in held and KEY.encode() not in held


def test_the_quota_is_honoured(service, configure):
    client = Perspective(configure(requests_per_second=20))
    for number in range(6):
        client.score(f"text {number}")
    gaps = [after - before for before, after in zip(service.times, service.times[1:], strict=False)]
    assert service.times[-1] - service.times[0] >= 5 * 0.05 - 0.02 and min(gaps) > 0.02


def test_the_quota_is_of_all_processes_together(service, configure):
    config = configure(requests_per_second=20)
    code = (
        "import sys; from data_beam.classify.perspective import Perspective; "
        "from maxllm.config.toxicity import PerspectiveConfig; "
        "client = Perspective(PerspectiveConfig.model_validate_json(sys.argv[1])); "
        "[client.score(f'{sys.argv[2]} {n}') for n in range(4)]"
    )
    command = [sys.executable, "-c", code, config.model_dump_json()]
    processes = [subprocess.Popen([*command, name], stderr=subprocess.DEVNULL) for name in ("one", "two")]
    assert [process.wait(60) for process in processes] == [0, 0]
    assert len(service.times) == 8
    times = sorted(service.times)
    # No window of a second has more than the quota and the one under way.
    assert all(sum(start <= moment < start + 0.2 for moment in times) <= 5 for start in times)


@pytest.mark.parametrize("status", [429, 500, 503])
def test_busy_or_broken_is_tried_again_after_a_growing_wait(service, configure, status):
    service.plan = [(status, {}, b"busy")] * 3
    assert Perspective(configure(), first_wait=0.05).score("xx") == 1.0
    gaps = [after - before for before, after in zip(service.times, service.times[1:], strict=False)]
    assert len(gaps) == 3 and gaps[0] >= 0.045 and gaps[1] >= 0.09 and gaps[2] >= 0.19


def test_retry_after_is_waited_for(service, configure):
    service.plan = [(429, {"Retry-After": "0.3"}, b"")]
    Perspective(configure(), first_wait=0.01).score("x")
    assert service.times[1] - service.times[0] >= 0.29


def test_it_gives_up_after_the_last_attempt_and_says_so(service, configure):
    service.plan = [(503, {}, b"")] * 9
    with pytest.raises(PerspectiveError, match="HTTP 503 after 3 attempts"):
        Perspective(configure(attempts=3), first_wait=0.01).score("x")
    assert len(service.requests) == 3


def test_nobody_answering_is_tried_again_too(configure):
    config = configure(url="http://127.0.0.1:9/none", attempts=2)
    with pytest.raises(PerspectiveError, match="no answer .* after 2 attempts"):
        Perspective(config, first_wait=0.01).score("x")


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ((403, {}, b"API key not valid: " + KEY.encode()), "HTTP 403"),
        ((200, {}, b"<html>"), "no score in it"),
        ((200, {}, b"{}"), "no score in it"),
        ((302, {"Location": "http://127.0.0.1:9/elsewhere"}, b""), "HTTP 302"),
    ],
)
def test_a_refusal_is_final_and_neither_key_nor_text_is_in_it(service, configure, answer, message, caplog):
    caplog.set_level(logging.DEBUG)
    service.plan = [answer]
    with pytest.raises(PerspectiveError, match=message) as error:
        Perspective(configure()).score("a remarkable text")
    assert len(service.requests) == 1
    for said in (str(error.value), repr(error.value), caplog.text):
        assert KEY not in said and "remarkable" not in said


def test_nothing_that_is_logged_has_the_key_or_the_text(service, configure, caplog):
    caplog.set_level(logging.DEBUG)
    service.plan = [(429, {}, KEY.encode())] * 2
    Perspective(configure(), first_wait=0.01).score("a remarkable text")
    assert "trying again" in caplog.text and "31 December 2026" in caplog.text
    assert KEY not in caplog.text and "remarkable" not in caplog.text


def test_a_language_that_is_not_supported_has_no_score_and_is_not_asked_for_again(service, configure):
    reason = {"error": {"details": [{"errorType": "LANGUAGE_NOT_SUPPORTED_BY_ATTRIBUTE"}]}}
    service.plan = [(400, {}, json.dumps(reason).encode())]
    client = Perspective(configure())
    assert client.score("teksti") is None and client.score("teksti") is None
    assert len(service.requests) == 1


def test_only_the_head_of_a_long_text_is_sent(service, configure):
    Perspective(configure()).score("ü" * MAX_BYTES)
    assert len(service.requests[0]["body"]["comment"]["text"].encode()) == MAX_BYTES


def test_the_stage_keeps_what_is_below_one_half(service, configure):
    stage = Toxicity(ToxicityConfig(enabled=True, perspective=configure()))
    assert stage(Document("1", "x---", "s", "2024")).metadata["toxicity"] == {"perspective": 0.25}
    assert stage(Document("2", "xx--", "s", "2024")) == Drop("toxicity.perspective", 0.5)
    assert stage(Document("3", " ", "s", "2024")).metadata["toxicity"] == {"perspective": 0.0}


def test_without_a_key_the_user_is_told_and_a_client_is_not_pickled(configure, monkeypatch):
    client = Perspective(configure())
    with pytest.raises(TypeError, match="not sent"):
        pickle.dumps(client)
    monkeypatch.delenv("PERSPECTIVE_API_KEY")
    with pytest.raises(UserError, match="PERSPECTIVE_API_KEY is empty.*31 December 2026"):
        Perspective(configure())
