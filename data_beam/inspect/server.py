"""The page over HTTP, on this machine only."""

from __future__ import annotations

import contextlib
import json
import re
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock
from typing import Any
from urllib.parse import parse_qs, urlsplit

from data_beam.inspect.page import SHOWN_TEXT, about, page
from data_beam.inspect.store import FILTERS, Store
from maxllm.config.errors import UserError

PAGE_ROWS = 50
LARGEST = 1 << 53  # of a number in JSON


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, port: int, store: Store) -> None:
        """Listens on 127.0.0.1; `serve_forever()` answers. Port 0 takes a free one: `server_address[1]`."""
        self.store, self.lock = store, Lock()
        try:
            super().__init__(("127.0.0.1", port), _Handler)
        except (OSError, OverflowError) as error:
            raise UserError(
                f"--port: {port} cannot be listened on ({error}); give another, or 0 for a free one"
            ) from None


class _Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        # A page elsewhere whose name resolves to this machine must not read what is here.
        if not re.fullmatch(r"(127\.0\.0\.1|localhost)(:\d+)?", self.headers.get("Host") or ""):
            self._send(403, "text/plain", "only as 127.0.0.1 or localhost")
            return
        address = urlsplit(self.path)
        query = {key: values[0] for key, values in parse_qs(address.query).items()}
        if address.path == "/":
            self._send(200, "text/html", page())
            return
        try:
            with self.server.lock:
                answer = self._answer(address.path, query)
        except ValueError:
            self._send(400, "text/plain", "number and offset are whole numbers")
            return
        if answer is None:
            self._send(404, "text/plain", "there is no such page")
            return
        self._send(200, "application/json", json.dumps(answer, ensure_ascii=False))

    def _answer(self, path: str, query: dict[str, str]) -> Any:
        store = self.server.store
        filters = {name: value for name, value in query.items() if name in (*FILTERS, "query")}
        if path == "/api/report":
            return about(store)
        if path == "/api/choices":
            return store.choices(filters)
        if path == "/api/documents":
            return store.page(filters, _number(query, "offset"), PAGE_ROWS)
        if path == "/api/document":
            document = store.document(_number(query, "number"))
            for each in (document, document and document.get("kept")):
                if each:
                    each["text"] = each["text"][:SHOWN_TEXT]
            return document
        return None

    def _send(self, code: int, kind: str, content: str) -> None:
        body = content.encode("utf-8", "replace")
        headers = {
            "Content-Type": f"{kind}; charset=utf-8",
            "Content-Length": str(len(body)),
            "Content-Security-Policy": "frame-ancestors 'none'",  # the rest of the policy is in the page
            "Cross-Origin-Resource-Policy": "same-origin",
            "X-Content-Type-Options": "nosniff",
            "Referrer-Policy": "no-referrer",
            "Cache-Control": "no-store",
        }
        with contextlib.suppress(ConnectionError):  # whoever asked may have gone on
            self.send_response(code)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        pass  # searches are nobody's business


def _number(query: dict[str, str], name: str) -> int:
    return min(LARGEST, max(0, int(query.get(name, 0))))
