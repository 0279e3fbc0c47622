"""Look at what a run kept and dropped: a page in the browser, by stage, reason, source and language.

Search, read whole documents with what was measured on them, see duplicates side by side with the document that
stayed, follow the funnel. The page listens on 127.0.0.1 only and loads nothing from anywhere; --export writes the
same as one file.

examples:
  maxllm inspect runs/demo/documents
  maxllm inspect gs://bucket/web --limit 50000 --export web.html
"""

from __future__ import annotations

import argparse
import contextlib
import tempfile
from pathlib import Path

from maxllm.cli.common import log_progress
from maxllm.summary import say


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("path", metavar="PATH", help="the output folder of maxllm curate, select or augment")
    parser.add_argument("--port", type=int, default=8765, help="0: any free one")
    parser.add_argument(
        "--limit", type=_positive, default=100_000, help="outcomes looked at; rare reasons are all there"
    )
    parser.add_argument("--export", metavar="FILE", help="write one HTML file instead of serving")
    parser.add_argument("--per-reason", type=_positive, default=20, metavar="N", help="outcomes of each reason in it")


def run(args: argparse.Namespace) -> int:
    log_progress()
    from data_beam.inspect.page import exported
    from data_beam.inspect.server import Server
    from data_beam.inspect.store import Store
    from data_beam.output import write_bytes

    with tempfile.TemporaryDirectory(prefix="maxllm-inspect-") as folder:
        store = Store(str(Path(folder) / "outcomes.sqlite"))
        store.fill(args.path, args.limit)
        if args.export:
            page = exported(store, args.per_reason).encode("utf-8", "replace")
            write_bytes(args.export, page)
            say(f"{args.export}: {len(page) / 1e6:.1f} MB, up to {args.per_reason} outcomes of each reason")
            return 0
        with Server(args.port, store) as server, contextlib.suppress(KeyboardInterrupt):
            say(f"http://127.0.0.1:{server.server_address[1]}/ shows {args.path}; Ctrl-C ends it")
            server.serve_forever()
    return 0


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return value
