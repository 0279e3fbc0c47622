"""Four domains of real text, a few megabytes each: paper abstracts, mathematics, books, Python source."""

from __future__ import annotations

import gzip
import itertools
import json
import random
import re
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple


class Text(NamedTuple):
    group: str  # never on both sides of the held-out split
    text: str


def write(corpus: Path, output: Path, most_bytes: int) -> dict[str, int]:
    """One JSON-lines file with all domains, up to `most_bytes` of each; returns the bytes of each.

    corpus: the folder with academic_scitldr_abstracts.jsonl.gz, math_MATH_test_with_solutions.jsonl.gz and gutenberg/.
    """
    domains = {
        "abstracts": abstracts(corpus / "academic_scitldr_abstracts.jsonl.gz"),
        "math": mathematics(corpus / "math_MATH_test_with_solutions.jsonl.gz"),
        "books": books(corpus / "gutenberg"),
        "code": python_source(),
    }
    sizes = dict.fromkeys(domains, 0)
    output.parent.mkdir(parents=True, exist_ok=True)
    with output.open("w", encoding="utf-8") as file:
        for name, texts in domains.items():
            for number, text in enumerate(texts):
                if sizes[name] > most_bytes:
                    break
                sizes[name] += len(text.text.encode())
                record = {"id": f"{name}-{number}", "text": text.text, "source": name, "added": "2026-11-21T00:00:00Z"}
                file.write(json.dumps({**record, "metadata": {"group": f"{name}/{text.group}"}}) + "\n")
    return sizes


def abstracts(path: Path) -> Iterator[Text]:
    for record in _records(path):
        yield Text(record["id"], record["text"])


def mathematics(path: Path) -> Iterator[Text]:
    for number, record in enumerate(_records(path)):
        yield Text(str(number), f"{record['context']}\n\n{record['chain_of_thought']}")


def books(folder: Path) -> Iterator[Text]:
    """Pieces of some 4000 characters, cut between paragraphs, from every book in turn; licence and header left out."""
    pieces = [_pieces(path.name, gzip.decompress(path.read_bytes()).decode()) for path in sorted(folder.glob("*.gz"))]
    for texts in itertools.zip_longest(*pieces):
        yield from (text for text in texts if text)


def _pieces(name: str, text: str) -> Iterator[Text]:
    marks = [match.end() for match in re.finditer(r"\*\*\* ?(START|END) OF.*", text)]
    body = text[marks[0] : marks[1]].rpartition("***")[0] if len(marks) > 1 else text
    held = ""
    for paragraph in re.split(r"\n\s*\n", body.replace("\r\n", "\n")):
        held += paragraph + "\n\n"
        if len(held) > 4000:
            yield Text(name, held.strip())
            held = ""


def python_source() -> Iterator[Text]:
    """The standard library's own modules, in an order that does not depend on the alphabet."""
    library = Path(sysconfig.get_paths()["stdlib"])
    paths = [
        path for path in sorted(library.rglob("*.py")) if not {"test", "site-packages", "idlelib"} & set(path.parts)
    ]
    random.Random(0).shuffle(paths)
    for path in paths:
        text = path.read_bytes().decode("utf-8", "replace")
        if 500 < len(text) < 100_000:
            yield Text(path.relative_to(library).parts[0], text)


def _records(path: Path) -> Iterator[dict[str, Any]]:
    with gzip.open(path, "rt", encoding="utf-8") as file:
        yield from map(json.loads, file)
