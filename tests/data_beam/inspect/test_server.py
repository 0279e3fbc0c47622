"""The page and its answers over real HTTP; the command that serves and exports."""

from __future__ import annotations

import http.client
import json
import re
import threading
from collections.abc import Iterator

import pytest

from data_beam.inspect.server import Server
from data_beam.inspect.store import Store
from maxllm.cli.main import main
from maxllm.config.errors import UserError
from tests.data_beam.inspect.conftest import WORD


@pytest.fixture(scope="module")
def port(run_folder) -> Iterator[int]:
    store = Store(":memory:")
    store.fill(str(run_folder), 1000)
    with Server(0, store) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_address[1]
        server.shutdown()


def get(port: int, path: str, host: str | None = None) -> tuple[http.client.HTTPResponse, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    connection.request("GET", path, headers={"Host": host} if host else {})
    response = connection.getresponse()
    body = response.read()
    connection.close()
    return response, body


def answer(port: int, path: str) -> dict:
    response, body = get(port, path)
    assert (response.status, response.headers["Content-Type"]) == (200, "application/json; charset=utf-8")
    return json.loads(body)


def test_lists_documents_choices_and_the_report_are_answered(port):
    assert answer(port, "/api/report")["report"]["kept"] == 13
    assert "config" not in answer(port, "/api/report")["report"]
    assert answer(port, "/api/choices?folder=rejected")["folder"][0] == ["documents", 13]
    found = answer(port, f"/api/documents?query={WORD}")
    assert (found["total"], found["rows"][0]["name"]) == (1, "sea/0.txt")
    assert WORD in answer(port, f"/api/document?number={found['rows'][0]['number']}")["text"]
    assert answer(port, "/api/documents?offset=10")["total"] == 18
    assert len(answer(port, "/api/documents?offset=10")["rows"]) == 8


@pytest.mark.parametrize(
    ("path", "status"),
    [("/etc/passwd", 404), ("/../server.py", 404), ("/api/document?number=999", 404), ("/api/document?number=x", 400)]
    + [
        ("/api/documents?offset=-1", 200),
        ("/api/documents?offset=" + "9" * 30, 200),
        ("/api/documents?query=%00%22", 200),
    ]
    + [("/api/documents?query=%ed%a0%80", 200), ("/api/document?number=" + "9" * 5000, 400)],
)
def test_a_strange_question_gets_an_answer(port, path, status):
    assert get(port, path)[0].status == status


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:80", "127.0.0.1.evil.example", "localhost@evil.example", "[::1]"]
)
def test_another_name_for_this_machine_is_refused(port, host):
    """A page elsewhere can have its own name resolve to 127.0.0.1, and would then read what is served here."""
    response, body = get(port, "/api/report", host)
    assert response.status == 403 and b"kept" not in body


def test_the_page_runs_only_its_own_script(port):
    response, body = get(port, "/")
    policy = re.search(r'Policy" content="([^"]*)"', body.decode())[1]
    assert "default-src 'none'" in policy and "unsafe" not in policy and "connect-src 'self'" in policy
    assert not re.search(r"https?://", body.decode())
    assert response.headers["X-Content-Type-Options"] == "nosniff"
    assert get(port, "/", "localhost:9999")[0].status == 200  # through a tunnel


def test_a_port_that_is_taken_is_said_to_be(port):
    with pytest.raises(UserError, match="give another, or 0"):
        Server(port, Store(":memory:"))


def test_export_writes_one_file_that_asks_nobody(run_folder, tmp_path, capsys):
    target = tmp_path / "page.html"
    assert main(["inspect", str(run_folder), "--export", str(target), "--per-reason", "3"]) == 0
    assert "page.html" in capsys.readouterr().out
    page = target.read_text(encoding="utf-8")
    embedded = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.S)[1]
    assert "<" not in embedded
    documents = json.loads(embedded)["documents"]
    kinds = [each["folder"] for each in documents]
    # 3 of the kept ones, perhaps others, and those that stayed for the duplicates.
    assert 3 <= kinds.count("documents") <= 5 and kinds.count("rejected") == 4 and kinds.count("dead") == 1
    assert "connect-src 'none'" in page
    assert main(["inspect", str(run_folder), "--export", str(target)]) == 0  # again: it is replaced


def test_a_wrong_folder_is_the_users_to_mend(tmp_path, capsys):
    assert main(["inspect", str(tmp_path)]) == 2
    assert "give the output folder" in capsys.readouterr().err
