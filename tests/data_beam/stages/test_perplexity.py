from __future__ import annotations

import json
import math
from pathlib import Path

import apache_beam as beam
import pytest
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.testing.util import assert_that, equal_to
from hypothesis import given
from hypothesis import strategies as st

from data_beam.document import Document, Drop, Edit
from data_beam.stages.perplexity import Perplexity, PerplexityBuckets
from data_beam.stages.stage import without_signals
from maxllm.config.errors import UserError
from maxllm.config.perplexity import PerplexityConfig

# log10 p and back-off, by hand: `a b` is known, `b a` is not.
ARPA = """\\data\\
ngram 1=5
ngram 2=3

\\1-grams:
-2\t<unk>\t0
0\t<s>\t-0.5
-1\t</s>\t0
-0.5\ta\t-0.25
-0.75\tb\t-0.125

\\2-grams:
-0.1\t<s> a
-0.2\ta b
-0.3\tb </s>

\\end\\
"""
OTHER = ARPA.replace("-0.2\ta b", "-1.2\ta b")


def document(text: str, **metadata) -> Document:
    return Document("d", text, "s", "2026-01-01T00:00:00Z", metadata=metadata)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("models")
    (path / "hand.arpa").write_text(ARPA)
    (path / "other.arpa").write_text(OTHER)
    return path


def stage_of(folder: Path, **settings) -> Perplexity:
    settings = {"models": {"*": str(folder / "hand.arpa")}, "max_perplexity": None} | settings
    return Perplexity(PerplexityConfig(enabled=True, **settings))


@pytest.mark.parametrize(
    ("text", "log10", "words"),
    [
        ("a b", -0.1 - 0.2 - 0.3, 3),
        ("b a", (-0.5 - 0.75) + (-0.125 - 0.5) + (-0.25 - 1), 3),  # nothing known: three back-offs
        ("a zebra b", -0.1 + (-0.25 - 2) + (0 - 0.75) - 0.3, 4),  # behind an unknown word nothing is left of a context
        ("a b\n\n  \nb a", -0.6 - 3.125, 6),  # lines are added up, empty ones are none
    ],
)
def test_perplexity_by_hand(folder, text, log10, words):
    kept = stage_of(folder)(document(text))
    assert kept.metadata["perplexity"] == round(10 ** (-log10 / words), 1)
    assert kept.metadata["signals"]["perplexity"]["log10"] == pytest.approx(log10, abs=1e-4)
    assert kept.metadata["signals"]["perplexity"]["words"] == words
    json.dumps(kept.metadata)


def test_a_document_at_the_threshold_stays_and_one_above_it_goes(folder):
    exact = 10 ** (0.6 / 3)
    assert isinstance(stage_of(folder, max_perplexity=exact + 1e-3)(document("a b")), Document)
    assert stage_of(folder, max_perplexity=exact - 1e-3)(document("a b")) == Drop("perplexity.too_high", 1.6)


def test_a_language_has_its_own_model(folder):
    stage = stage_of(folder, models={"en": str(folder / "hand.arpa"), "de": str(folder / "other.arpa")})
    assert stage(document("a b", language="en")).metadata["perplexity"] == 1.6
    assert stage(document("a b", language="de")).metadata["perplexity"] == round(10 ** (1.6 / 3), 1)
    assert stage(document("a b", language="fr")) == document("a b", language="fr")
    everything = stage_of(folder, models={"de": str(folder / "other.arpa"), "*": str(folder / "hand.arpa")})
    assert everything(document("a b", language="fr")).metadata["perplexity"] == 1.6
    assert everything(document("a b")).metadata["perplexity"] == 1.6


@pytest.mark.parametrize("text", ["", "\n \n", "<s>"])
def test_no_words_no_perplexity(folder, text):
    assert "perplexity" not in stage_of(folder, max_perplexity=1e-3)(document(text)).metadata


def test_source_code_passes_as_it_is(folder):
    code = document("a b", content_type="code")
    assert stage_of(folder, max_perplexity=1e-3)(code) == code


def test_another_threshold_needs_the_stored_values_only(folder):
    measured = stage_of(folder).measure(document("b a"))
    unread = Document("d", "text that was not read", "s", measured.added, metadata=measured.metadata)
    assert stage_of(folder, max_perplexity=5.0)(unread) == Drop("perplexity.too_high", round(10 ** (3.125 / 3), 1))
    assert stage_of(folder).decide(document("b a")) == document("b a")  # nothing stored, nothing decided
    other = stage_of(folder, models={"*": str(folder / "other.arpa")})
    assert other(unread).metadata["perplexity"] != round(10 ** (3.125 / 3), 1)  # another model measures again


@given(st.text())
def test_any_text_has_a_finite_perplexity_or_none(tmp_path_factory, text):
    path = tmp_path_factory.getbasetemp() / "any.arpa"
    if not path.exists():
        path.write_text(ARPA)
    kept = stage_of(path.parent, models={"*": str(path)})(document(text))
    assert without_signals(kept).text == text
    assert math.isfinite(kept.metadata.get("perplexity", 0))


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("none.arpa", None, "does not exist"),
        ("empty.arpa", "", "not an ARPA file"),
        ("cut.arpa", ARPA[:-40], "ends after|broken 2-grams"),
        ("words.arpa", ARPA.replace("<s> a", "<s>"), "broken 2-grams"),
        ("cut.arpa.gz", "\x1f", "cannot read"),
        ("model.binary", "mmap lm http://kheafield.com", "install maxllm\\[kenlm\\]|KenLM cannot read"),
    ],
)
def test_a_model_that_cannot_be_read_is_a_sentence(tmp_path, name, content, problem):
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=problem):
        stage_of(tmp_path, models={"*": str(tmp_path / name)})


def test_the_tokenizer_of_a_foreign_model_goes_by_language(folder):
    preparation = {"normalisation": "ccnet", "tokenizer": str(folder / "{language}.sp.model")}
    with pytest.raises(UserError, match="cannot read .*en.sp.model"):
        stage_of(folder, models={"en": str(folder / "hand.arpa")}, preparation=preparation)
    with pytest.raises(UserError, match="stands for none"):
        stage_of(folder, preparation=preparation)


def test_settings_without_a_model_or_with_impossible_shares_are_refused():
    with pytest.raises(ValueError, match="models is empty"):
        PerplexityConfig(enabled=True)
    with pytest.raises(ValueError, match="more than all"):
        PerplexityConfig(head=0.6, tail=0.5)
    with pytest.raises(ValueError, match="keep_buckets is empty"):
        PerplexityConfig(keep_buckets=[])


def test_buckets_are_shares_of_each_language():
    documents = [
        Document(f"{language}{n}", "x", "s", "", metadata={"language": language, "perplexity": factor * (n + 0.3)})
        for language, factor in (("en", 1), ("de", 100))
        for n in range(9)
    ] + [Document("none", "x", "s", "", metadata={"language": "en"})]
    expected = []
    for language in ("en", "de"):
        for n in range(9):
            bucket = ("head", "middle", "tail")[n // 3]
            verdict = Edit("perplexity.bucket", metadata={"perplexity_bucket": bucket})
            expected.append((f"{language}{n}", Drop("perplexity.bucket", bucket) if bucket == "tail" else verdict))
    with beam.Pipeline(runner=FnApiRunner()) as pipeline:
        verdicts = (
            pipeline
            | beam.Create(documents)
            | PerplexityBuckets(PerplexityConfig(buckets=True, keep_buckets=["head", "middle"]))
        )
        assert_that(verdicts, equal_to(expected))
