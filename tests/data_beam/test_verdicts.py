"""Verdicts reach the right documents, whatever their ids, and are applied phase after phase."""

from __future__ import annotations

import json

import apache_beam as beam
import pytest
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from hypothesis import given
from hypothesis import strategies as st

from data_beam.document import Document, Drop, Edit, Rejected
from data_beam.output import read_json
from data_beam.phases import Job
from data_beam.verdicts import Part, ReadParts, WriteVerdicts, apply, cut, name_in_run, with_verdicts, without_places


def document(id: str, text: str) -> Document:
    return Document(id, text, "s", "2020-01-01T00:00:00Z")


@given(st.text(), st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)).map(sorted)))
def test_cutting_leaves_the_characters_in_no_span(text, spans):
    obvious = "".join(c for i, c in enumerate(text) if not any(start <= i < end for start, end in spans))
    assert cut(text, [tuple(span) for span in spans]) == obvious


def test_a_drop_beats_edits_and_later_phases_see_the_cut_text():
    first = [Edit("line_dedup.line", ((0, 4),), {"a": 1}), Edit("substring_dedup.repeated", ((2, 6),), {"b": 2})]
    result = apply([first, [Edit("semantic.x", ((0, 1),))]], document("i", "0123456789"))
    assert isinstance(result, Document) and result.text == "789"
    assert result.metadata["a"] == 1 and result.metadata["b"] == 2
    assert result.metadata["removed_characters"] == {
        "line_dedup.line": 4,
        "substring_dedup.repeated": 4,
        "semantic.x": 1,
    }
    dropped = apply([[*first, Drop("b.c", 1), Drop("a.b", 2)]], document("i", "0123456789"))
    assert isinstance(dropped, Rejected) and dropped.drop == Drop("a.b", 2)
    nothing = apply([[Edit("line_dedup.line", ((0, 3),))]], document("i", "ab  "))
    assert isinstance(nothing, Rejected) and nothing.drop == Drop("line_dedup.too_little_left", 0)
    cut_words = Edit("substring_dedup.repeated", ((0, 4),), min_words=3)
    assert isinstance(apply([[cut_words]], document("i", "one two three four")), Document)
    little = apply([[cut_words]], document("i", "one two three"))
    assert isinstance(little, Rejected) and little.drop == Drop("substring_dedup.too_little_left", 2)


def test_documents_with_one_id_stay_two_and_get_each_its_own_verdict(tmp_path):
    parts = []
    for number in range(2):
        path = tmp_path / f"{number}.jsonl"
        rows = [document("same@id", f"text {number} {row}").to_json() for row in range(3)]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        parts.append(Part(number, str(path)))
    job = Job(str(tmp_path), str(tmp_path / "done.json"))
    passed = [
        (name_in_run("same@id", 0, 1), Drop("exact_dedup.duplicate", name_in_run("same@id", 1, 2))),
        (name_in_run("same@id", 1, 0), Edit("line_dedup.line", ((0, 5),))),
    ]
    with beam.Pipeline(runner=FnApiRunner()) as pipeline:
        pipeline | beam.Create(passed) | WriteVerdicts(job)
    judged = with_verdicts(parts, read_json(job.manifest))
    outcomes = [outcome for part in judged for outcome in ReadParts(outcomes=True).process(part)]
    assert [type(outcome).__name__ for outcome in outcomes] == ["Document", "Rejected", *["Document"] * 4]
    assert outcomes[1].drop == Drop("exact_dedup.duplicate", "same@id") and outcomes[3].text == "1 0"
    names = [each.id for part in judged for each in ReadParts().process(part)]
    assert len(set(names)) == 5 and {without_places(name) for name in names} == {"same@id"}


def test_a_damaged_part_fails_the_phase_with_what_to_do(tmp_path):
    (tmp_path / "part.jsonl").write_text('{"id": "a", "text": "x"}\n{"id": "b"\n')
    with pytest.raises(RuntimeError, match="part.jsonl:2: .* use --force"):
        list(ReadParts().process(Part(0, str(tmp_path / "part.jsonl"))))
