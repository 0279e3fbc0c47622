"""The page, as the server gives it and as one file that holds all it shows."""

from __future__ import annotations

import base64
import hashlib
import json
from importlib.resources import files
from typing import Any

from data_beam.inspect.read import rank_of
from data_beam.inspect.store import Store

EXPORTED_TEXT = 20_000  # characters of a document in an exported file
SHOWN_TEXT = 500_000  # and on a served page: a browser lays out no more in reasonable time
SHOWN_REPORT = ("read", "kept", "dropped", "dead", "kept_bytes", "funnel", "reasons", "dead_stages")


def page(data: Any = None) -> str:
    """With `data` it asks nobody. Only the scripts and styles that we wrote run, whatever a document's text says."""
    script = "\n".join(_file(name) for name in ("compare.js", "page.js"))
    style = _file("page.css")
    asked = "'self'" if data is None else "'none'"
    policy = (
        f"default-src 'none'; script-src {_hash(script)}; style-src {_hash(style)}; connect-src {asked}; "
        "img-src data:; base-uri 'none'; form-action 'none'"
    )
    # Without "<" nothing in it can end the script element or begin a comment.
    embedded = json.dumps(data, ensure_ascii=False).replace("<", "\\u003c")
    page = _file("page.html")
    for name, content in (("POLICY", policy), ("STYLE", style), ("SCRIPT", script), ("DATA", embedded)):
        page = page.replace(f"@{name}@", content, 1)  # the documents last: they may name the others
    return page


def exported(store: Store, count: int) -> str:
    """The page with at most `count` outcomes of each reason, and the documents that stayed for their duplicates."""
    documents: dict[int, dict[str, Any]] = {}
    wanted = store.few_of_each(count)
    for number in wanted:  # grows by those that stayed
        document = None if number in documents else store.document(number)
        if document is None:
            continue
        if kept := document.pop("kept", None):
            document["kept"] = kept["number"]
            wanted.append(kept["number"])
        document["text"] = document["text"][:EXPORTED_TEXT]
        documents[number] = document
    return page({**about(store), "documents": sorted(documents.values(), key=lambda document: rank_of(document["id"]))})


def about(store: Store) -> dict[str, Any]:
    """What the start page shows: the report's numbers, nothing of its settings."""
    report = {key: store.report[key] for key in SHOWN_REPORT if key in store.report}
    return {"run": store.run, "seen": store.seen, "held": store.held, "report": report}


def _file(name: str) -> str:
    return files("data_beam.inspect").joinpath(name).read_text(encoding="utf-8")


def _hash(content: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"
