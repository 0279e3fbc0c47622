"""Encoders: the built-in one, a user's function, an HTTP server, and what a wrong setting says."""

import json
import random
import sys
import threading
import types
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import apache_beam as beam
import numpy as np
import pytest
import xxhash
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.testing.util import assert_that, equal_to

from data_beam.dedup.semantic import REASON, SemanticDuplicates
from data_beam.document import Document, Drop
from data_beam.embed import encoder, hashing
from data_beam.embed.fixed import fixed, pack
from data_beam.embed.http import CHARACTERS, HttpEncoder
from maxllm.config.dedup_text import SemanticDedupConfig
from maxllm.config.errors import UserError


def cosine(left: str, right: str) -> float:
    a, b = hashing.encode([left, right])
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


def text(words: int, seed: int) -> str:
    rng = random.Random(seed)
    return " ".join(rng.choices([f"word{i}" for i in range(5000)], k=words))


def test_hashing_sees_shared_words_whatever_their_case_and_the_signs_between_them():
    assert cosine("The cat, it sat.", "the CAT it sat") == pytest.approx(1)
    assert cosine("日本語の文章です", "日本語の文章だ") > 0.7 > 0.3 > cosine("日本語の文章です", "全然違う内容")


def test_hashing_puts_unrelated_texts_near_a_right_angle_and_edits_near_their_original():
    original = text(400, 1)
    words = original.split()
    for place in range(0, 400, 20):  # 5 % of words, 10 % of pairs
        words[place] = "edited"
    assert cosine(original, " ".join(words)) > 0.88
    assert cosine(original, " ".join(reversed(original.split()))) == pytest.approx(0.5, abs=0.1)  # words, not pairs
    others = [cosine(text(400, 2 * i), text(400, 2 * i + 1)) for i in range(1, 40)]
    assert abs(np.mean(others) - 0.04) < 0.02 and np.std(others) < 0.045


def test_hashing_is_the_same_alone_and_in_a_batch_and_zero_without_words():
    texts = [text(50, seed) for seed in range(5)] + ["", "?!"]
    together = hashing.encode(texts)
    assert np.array_equal(together, np.concatenate([hashing.encode([each]) for each in texts]))
    assert together.shape == (7, hashing.DIMENSION) and together.dtype == np.float32
    assert not together[5:].any() and together[:5].any(axis=1).all()


def test_a_vector_of_hashing_does_not_change_between_versions():
    """As it is compared, by hash: a change here changes which documents every user of the encoder keeps."""
    vector = fixed(hashing.encode(["The quick brown fox jumps over the lazy dog. 狐 the fox"]))[0]
    assert xxhash.xxh3_64_hexdigest(pack(vector)) == "236b8f0b8e5c4565"


def lengths(texts):
    """A user's own encoder."""
    return np.array([[1.0, len(each)] for each in texts])


def test_a_users_function_is_an_encoder():
    name = "tests_encoder_of_a_user"
    module = types.ModuleType(name)
    module.lengths, module.nothing = lengths, 3
    sys.modules[name] = module
    encoder.check(f"{name}:lengths", "")
    assert encoder.load(f"{name}:lengths", "")(["ab", ""]).tolist() == [[1, 2], [1, 0]]
    with pytest.raises(UserError, match="not a function"):
        encoder.check(f"{name}:nothing", "")


@pytest.mark.parametrize(
    ("reference", "model", "said"),
    [
        ("no_such_module:encode", "", "cannot load no_such_module:encode"),
        ("json:no_such_name", "", "cannot load json:no_such_name"),
        ("nowhere/at/all", "", "neither hashing, a model's folder"),
        ("hashin", "", "neither hashing, a model's folder"),
        ("nosuchscheme://bucket/model", "", "neither hashing, a model's folder"),
        ("http://localhost:1/v1", "", "semantic_dedup.model"),
    ],
)
def test_a_wrong_encoder_is_refused_before_any_worker_starts(reference, model, said):
    with pytest.raises(UserError, match=said):
        encoder.check(reference, model)


def test_a_models_folder_needs_its_library(tmp_path, monkeypatch):
    (tmp_path / "modules.json").write_text("[]")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install 'maxllm"):
        encoder.check(str(tmp_path), "")


@pytest.mark.parametrize(
    ("answer", "said"),
    [(np.zeros((2, 3)), "gave an array"), (np.zeros(3), "gave an array"), (np.full((1, 3), np.nan), "not finite")],
)
def test_an_answer_that_is_not_vectors_is_refused(answer, said):
    with pytest.raises(RuntimeError, match=said):
        encoder.checked(answer, 1, "mine:encode")


class Server(BaseHTTPRequestHandler):
    """Answers as OpenAI's embeddings do, out of order; what `plan` says first."""

    plan: list[tuple[int, dict, bytes]] = []
    seen: list[tuple[str, str | None, dict]] = []

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.seen.append((self.path, self.headers["Authorization"], body))
        status, headers, answer = self.plan.pop(0) if self.plan else (200, {}, b"")
        if status == 200 and not answer:
            rows = [{"index": i, "embedding": [1.0, len(each)]} for i, each in enumerate(body["input"])]
            answer = json.dumps({"data": rows[::-1], "model": body["model"]}).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(answer)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *args):
        pass


@pytest.fixture
def server():
    Server.plan, Server.seen = [], []
    running = ThreadingHTTPServer(("127.0.0.1", 0), Server)
    thread = threading.Thread(target=running.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{running.server_port}/v1"
    running.shutdown()
    thread.join()
    running.server_close()


def test_a_server_is_asked_for_what_is_not_empty_and_its_rows_come_back_in_order(server, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    encoder.check(server, "small")
    encode = encoder.load(server, "small")
    long = "x" * (CHARACTERS + 5)
    assert encode(["abc", " ", long, "\ud800"]).tolist() == [[1, 3], [0, 0], [1, CHARACTERS], [1, 1]]
    assert encode(["", " "]).tolist() == [[0], [0]]
    ((path, key, body),) = Server.seen
    assert (path, key, body["model"], len(body["input"])) == ("/v1/embeddings", "Bearer secret", "small", 3)


def test_a_server_is_an_encoder_on_beam(server):
    config = SemanticDedupConfig(encoder=server, model="m", iterations=1)
    documents = [Document(str(i), text, "", str(2000 + i)) for i, text in enumerate(["abc", "xyz", "", "a" * 500])]
    with beam.Pipeline(runner=FnApiRunner()) as pipeline:
        drops = pipeline | beam.Create(documents, reshuffle=False) | SemanticDuplicates(config)
        assert_that(
            drops, equal_to([("1", Drop(REASON, "0 1.000")), ("3", Drop(REASON, "0 0.949"))])
        )  # [1, 3], [1, 500]
    assert Server.seen[0][2] == {"model": "m", "input": ["abc", "xyz", "a" * 500]}


def test_a_busy_server_is_asked_again_and_a_refusal_is_told(server, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    Server.plan = [(429, {"Retry-After": "0"}, b"{}"), (503, {"Retry-After": "0"}, b"")]
    assert HttpEncoder(server, "m")(["ab"]).tolist() == [[1, 2]]
    assert len(Server.seen) == 3 and Server.seen[0][1] is None
    Server.plan = [(401, {}, b"no such key")]
    with pytest.raises(RuntimeError, match="401 no such key"):
        HttpEncoder(server, "m")(["ab"])
    Server.plan = [(200, {}, b'{"error": "odd"}')]
    with pytest.raises(RuntimeError, match="something other than embeddings"):
        HttpEncoder(server, "m")(["ab"])


def test_a_server_that_is_not_there_is_told(monkeypatch):
    waits = []
    monkeypatch.setattr("time.sleep", waits.append)
    with pytest.raises(RuntimeError, match="http://127.0.0.1:1/embeddings"):
        HttpEncoder("http://127.0.0.1:1", "m")(["ab"])
    assert waits == [1, 2, 4, 8, 16, 32]
