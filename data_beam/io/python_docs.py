"""The default corpus, prose: the standard library's documentation as HTML pages, made on the spot by pydoc.

Each page is rendered in a process of its own with a time limit, since documenting a module imports it.
"""

from __future__ import annotations

import importlib.util
import itertools
import os
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

from data_beam.child import Child, ChildError
from data_beam.document import DeadLetter, Document, document_id
from data_beam.io.files import iso
from data_beam.io.sample import by_hash
from data_beam.io.source import Read, Work, source_name, too_large
from maxllm.config.curate import InputConfig

# Open a browser or a window, run for long, or are tests and data rather than documentation.
SKIPPED = frozenset(
    "antigravity this test tests idlelib turtledemo lib2to3 ensurepip distutils __main__ __phello__".split()
) | {"site-packages"}
PAGE_SECONDS = 20.0
MODULES_PER_WORK = 16


def list_work(config: InputConfig) -> Iterator[Work]:
    names = by_hash(module_names(), config.limit, key=str)
    for start in range(0, len(names), MODULES_PER_WORK):
        yield Work(tuple(names[start : start + MODULES_PER_WORK]))


def module_names() -> list[str]:
    """Modules of the standard library that this Python has, submodules included, found without importing any."""
    names: list[str] = []
    for top in sorted(sys.stdlib_module_names - SKIPPED):
        try:
            spec = importlib.util.find_spec(top)
        except (ImportError, ValueError):
            continue
        if spec is None:
            continue
        names.append(top)
        for folder in spec.submodule_search_locations or ():
            for path in sorted(Path(folder).rglob("*.py")):
                parts = path.relative_to(folder).with_suffix("").parts
                parts = parts[:-1] if parts[-1] == "__init__" else parts
                if parts and not SKIPPED.intersection(parts):
                    names.append(".".join((top, *parts)))
    return names


def read(config: InputConfig, work: Work) -> Iterator[Read]:
    # A fixed hash seed: pages print sets.
    child = Child("data_beam.io.pydoc_page:render", PAGE_SECONDS, {"PYTHONHASHSEED": "0"})
    added = iso(Path(os.__file__).stat().st_mtime)
    try:
        child.submit(work.names[0])
        for name, following in itertools.zip_longest(work.names, work.names[1:]):
            try:
                page = child.result()
            except ChildError as error:
                page = error
            if following:
                child.submit(following)  # rendered while this page is worked on
            yield _document(config, name, page, added)
    finally:
        child.close()


def _document(config: InputConfig, name: str, page: str | ChildError, added: str) -> Read:
    if isinstance(page, ChildError):
        return DeadLetter(f"pydoc:{name}", "read", str(page))
    if len(page) > config.max_bytes:
        return too_large(config, f"pydoc:{name}", len(page), added)
    page = page.replace(sysconfig.get_paths()["stdlib"] + "/", "")  # the same page on every machine
    source = source_name(config)
    metadata = {"module": name, "group": name.partition(".")[0], "content_type": "html"}
    return Document(document_id(source, name), page, source, added, metadata=metadata)
