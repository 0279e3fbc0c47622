"""The page over HTTP, on this machine only, and the same page as one file."""

from __future__ import annotations

import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from threading import Lock
from typing import Any
from urllib.parse import parse_qs, urlsplit

from apache_beam.io.filesystems import FileSystems

from data_beam.inspect.store import FILTERS, Store
from data_beam.output import read_json

PAGE_ROWS = 50
EXPORTED_TEXT = 20_000  # characters of a document in an exported file
# Nothing is loaded from anywhere, whatever a document's text says.
POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; base-uri 'none'"
)


def page(data: Any = None) -> str:
    """The page; with `data` it carries all it shows and asks nobody."""
    text = files("data_beam.inspect").joinpath("page.html").read_text(encoding="utf-8")
    # A closing tag inside a string would end the script.
    embedded = json.dumps(data, ensure_ascii=False).replace("</", "<\\/").replace("<!--", "<\\!--")
    return text.replace("/*POLICY*/", POLICY, 1).replace("/*DATA*/null", embedded, 1)


def exported(run: str, store: Store, count: int) -> str:
    """The whole page with at most `count` outcomes of each reason."""
    rows: list[Any] = []
    for folder, _ in store.choices({})["folder"]:
        for reason, _ in store.choices({"folder": folder})["reason"]:
            found = store.page({"folder": folder, "reason": reason}, 0, count) if reason else None
            found = found or store.page({"folder": folder}, 0, count)
            rows += [row["number"] for row in found["rows"]]
    whole = {}
    for number in dict.fromkeys(rows):
        document = store.document(number)
        assert document is not None
        for each in (document, document.get("kept") or {}):
            each["text"] = each.get("text", "")[:EXPORTED_TEXT]
        whole[number] = document
    return page({"run": run, "report": report_of(run), "documents": whole})


def report_of(run: str) -> dict[str, Any]:
    return read_json(FileSystems.join(run, "report.json")) or {}


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, port: int, run: str, store: Store) -> None:
        self.run, self.store, self.lock = run, store, Lock()
        super().__init__(("127.0.0.1", port), _Handler)


class _Handler(BaseHTTPRequestHandler):
    server: _Server

    def do_GET(self) -> None:
        # A page elsewhere that resolves its own name to this machine must not read what is here.
        host = (self.headers.get("Host") or "").rpartition(":")[0]
        if host not in ("127.0.0.1", "localhost"):
            self._send(403, "text/plain", b"only as 127.0.0.1 or localhost")
            return
        address = urlsplit(self.path)
        query = {key: values[0] for key, values in parse_qs(address.query).items()}
        if address.path == "/":
            self._send(200, "text/html", page().encode("utf-8", "replace"))
            return
        try:
            with self.server.lock:
                answer = self._answer(address.path, query)
        except ValueError as error:
            self._send(400, "text/plain", str(error).encode())
            return
        if answer is None:
            self._send(404, "text/plain", b"there is no such page")
            return
        self._send(200, "application/json", json.dumps(answer, ensure_ascii=False).encode("utf-8", "replace"))

    def _answer(self, path: str, query: dict[str, str]) -> Any:
        store = self.server.store
        filters = {name: value for name, value in query.items() if name in (*FILTERS, "query")}
        if path == "/api/report":
            return {"run": self.server.run, "report": report_of(self.server.run)}
        if path == "/api/choices":
            return store.choices(filters)
        if path == "/api/documents":
            return store.page(filters, max(0, int(query.get("offset", 0))), PAGE_ROWS)
        if path == "/api/document":
            return store.document(int(query.get("number", 0)))
        return None

    def _send(self, code: int, kind: str, body: bytes) -> None:
        self.send_response(code)
        self.send_header("Content-Type", f"{kind}; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        pass  # searches are nobody's business


def serve(run: str, store: Store, port: int) -> _Server:
    """Listening on 127.0.0.1; `serve_forever()` answers. Port 0 takes a free one: `server_address[1]`."""
    return _Server(port, run, store)
