"""One module's documentation page, as `pydoc -w` writes it. Runs inside a `data_beam.child`; imports nothing else."""

from __future__ import annotations

import os
import pydoc
import re
import sys

# Of objects in default values: different in every process.
ADDRESS = re.compile(r"(?:(?: |&nbsp;)at(?: |&nbsp;)0x|, handle )[0-9a-f]{6,16}\b")


def render(module: str) -> str:
    """HTML of the module's page. A fork for each page: importing some modules changes the process they are in."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        try:
            page, status = _page(module).encode("utf-8", "replace"), 0
        except BaseException as error:  # SystemExit included: modules may exit when imported
            page, status = f"{type(error).__name__}: {error}".encode("utf-8", "replace"), 1
        with os.fdopen(writing, "wb") as stream:
            stream.write(page)
        os._exit(status)
    os.close(writing)
    with os.fdopen(reading, "rb") as stream:
        page = stream.read()
    _, status = os.waitpid(child, 0)
    if status:
        raise RuntimeError(page.decode("utf-8", "replace") or f"the page's process ended with status {status}")
    return page.decode("utf-8")


def _page(module: str) -> str:
    os.environ.clear()  # pydoc prints the values of module variables, and os.environ is one
    sys.argv[:] = ["pydoc"]
    found = pydoc.resolve(module)
    if found is None:
        raise ImportError(f"no module {module}")
    value, name = found
    if value is sys:  # its page shows this machine's paths
        sys.orig_argv[:], sys.path[:], sys.executable = ["pydoc"], [], "python"
    page = pydoc.html.page(pydoc.describe(value), pydoc.html.document(value, name))
    return ADDRESS.sub("", page)
