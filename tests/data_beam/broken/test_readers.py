"""Broken files: no reader raises, every record is a document, a drop or a dead letter that says why."""

from __future__ import annotations

import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest

from data_beam.document import DeadLetter, Document, Rejected
from data_beam.io import source
from data_beam.io.documents import read_documents
from data_beam.parts import to_line, to_record
from maxllm.config.curate import InputConfig

corpus = SimpleNamespace(**runpy.run_path(str(Path(__file__).parent / "corpus.py")))
CASES = [(format, name) for format, cases in corpus.FORMATS.items() for name in cases]


def read_all(format: str, folder: Path, **settings) -> list[source.Read]:
    config = InputConfig(format=format, paths=[str(folder)], max_bytes=corpus.MAX_BYTES, **settings)
    works = list(source.format_module(config).list_work(config))
    return [item for work in works for item in source.read(config, work)]


@pytest.mark.parametrize(("format", "name"), CASES, ids=[f"{format}: {name}" for format, name in CASES])
def test_what_can_be_read_is_read_and_the_rest_says_why(format, name, tmp_path):
    case = corpus.FORMATS[format][name]
    case.make(tmp_path)
    items = read_all(format, tmp_path)
    assert all(isinstance(item, Document | Rejected | DeadLetter) for item in items)
    documents = [item for item in items if isinstance(item, Document)]
    if case.documents is None:
        assert documents
    else:
        assert len(documents) == case.documents, items[:5]
    assert len({item.id for item in documents}) == len(documents)
    said = [item.error if isinstance(item, DeadLetter) else item.drop.reason for item in items if item not in documents]
    assert bool(said) == bool(case.says) or case.documents is None, said
    assert all(case.says in each for each in said), said
    assert all(len(each) < 600 for each in said)
    # Whatever was read can be written, and read again as it was.
    written = tmp_path / "out.jsonl"
    written.write_bytes(b"".join(to_line(to_record(item)) for item in documents))
    assert list(read_documents(str(written))) == documents
