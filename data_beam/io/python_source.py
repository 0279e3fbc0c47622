"""The default corpus, code: source files of the running Python and of its installed packages. None is imported."""

from __future__ import annotations

import io
import os
import sysconfig
import tokenize
from collections.abc import Iterator

from data_beam.document import DeadLetter, Document, Drop, Rejected, document_id
from data_beam.io.files import iso
from data_beam.io.sample import by_hash
from data_beam.io.source import Read, Work, source_name, too_large
from maxllm.config.curate import InputConfig

SKIPPED = frozenset({"site-packages", "dist-packages", "__pycache__", "test", "tests", "idle_test"})
FILES_PER_WORK = 64


def list_work(config: InputConfig) -> Iterator[Work]:
    found = by_hash(source_files(), config.limit, key=lambda pair: pair[0])
    for start in range(0, len(found), FILES_PER_WORK):
        yield Work(tuple(location for location, _ in found[start : start + FILES_PER_WORK]))


def roots() -> dict[str, str]:
    paths = sysconfig.get_paths()
    return {"stdlib": paths["stdlib"], "site-packages": paths["purelib"], "platlib": paths["platlib"]}


def source_files() -> list[tuple[str, str]]:
    """(location, path) of each file. The location, `stdlib/json/decoder.py`, is the same on every machine."""
    found: list[tuple[str, str]] = []
    walked: set[str] = set()
    for name, root in roots().items():
        if (real := os.path.realpath(root)) in walked:
            continue
        walked.add(real)
        for folder, folders, files in os.walk(root):
            folders[:] = sorted(set(folders) - SKIPPED)
            inside = os.path.relpath(folder, root).replace(os.sep, "/")
            prefix = name if inside == "." else f"{name}/{inside}"
            found += [
                (f"{prefix}/{file}", os.path.join(folder, file)) for file in sorted(files) if file.endswith(".py")
            ]
    return found


def read(config: InputConfig, work: Work) -> Iterator[Read]:
    places = roots()
    for location in work.names:
        root, _, relative = location.partition("/")
        try:
            yield _document(config, location, relative, os.path.join(places[root], relative))
        except (OSError, SyntaxError, UnicodeError) as error:  # tokenize says SyntaxError of an unknown encoding
            yield DeadLetter(location, "read", f"{type(error).__name__}: {error}")


def _document(config: InputConfig, location: str, relative: str, path: str) -> Read:
    status = os.stat(path)
    added = iso(status.st_mtime)
    if status.st_size > config.max_bytes:
        return too_large(config, location, status.st_size, added)
    with open(path, "rb") as stream:
        data = stream.read()
    encoding, _ = tokenize.detect_encoding(io.BytesIO(data).readline)
    text = data.decode(encoding)
    source = source_name(config)
    group = relative.partition("/")[0].removesuffix(".py")
    metadata = {"path": location, "group": group, "content_type": "code", "programming_language": "python"}
    document = Document(document_id(source, location), text, source, added, metadata=metadata)
    return document if text.strip() else Rejected(document, Drop("read.empty", 0))
