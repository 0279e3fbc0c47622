"""Folders of HTML pages, one document a file; `.gz` and `.zst` too."""

from __future__ import annotations

import html
import os
import re
from collections.abc import Iterator

from data_beam.document import DeadLetter, Document, document_id
from data_beam.io import clean
from data_beam.io.encoding import NoEncoding, decode
from data_beam.io.files import BrokenFile, File, chunks, matching, site
from data_beam.io.sample import by_hash
from data_beam.io.source import Read, Work, source_name, too_large
from maxllm.config.curate import InputConfig

ADDRESS = re.compile(
    r"""<link[^>]{0,200}?rel=["']?canonical["']?[^>]{0,200}?href=["']?([^"'\s>]+)"""
    r"""|<meta[^>]{0,200}?property=["']og:url["'][^>]{0,200}?content=["']([^"']+)""",
    re.I,
)
NAMES = (".html", ".htm", ".xhtml", ".html.gz", ".htm.gz", ".html.zst", ".htm.zst")


def list_work(config: InputConfig) -> Iterator[Work]:
    """Of a folder, the files named like pages; of a glob, what it names."""
    files = [file for file in matching(config.paths) if _named(config, file)]
    for file in by_hash(files, config.limit, key=lambda file: file.path):
        yield Work((file.path,), stop=file.size, added=file.written)


def _named(config: InputConfig, file: File) -> bool:
    return file.path.lower().endswith(NAMES) or file.path in config.paths or any("*" in path for path in config.paths)


def read(config: InputConfig, work: Work) -> Iterator[Read]:
    (path,) = work.names
    data = bytearray()
    try:
        if work.stop <= config.max_bytes:
            for chunk in chunks(path):
                data += chunk
                if len(data) > config.max_bytes:
                    break
        if (size := max(len(data), work.stop)) > config.max_bytes:
            yield too_large(config, path, size, work.added)
            return
        text = decode(bytes(data))
    except (BrokenFile, NoEncoding, OSError) as error:
        yield DeadLetter(path, "read", str(error))
        return
    url = _address(text)
    group = site(url) or os.path.basename(os.path.dirname(path))
    metadata = {"path": clean.text(path), "content_type": "html", "group": group, **({"url": url} if url else {})}
    source = source_name(config)
    yield Document(document_id(source, path), text, source, work.added, metadata=metadata)


def _address(text: str) -> str | None:
    """The page's own word for where it lives."""
    found = ADDRESS.search(text, 0, 1 << 16)
    url = html.unescape(found[1] or found[2]) if found else None
    return url if url and url.startswith(("http://", "https://")) else None
