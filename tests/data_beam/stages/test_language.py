"""Languages are told apart, and only a confidence above the limit counts."""

import gzip
import json

import pytest

from data_beam.document import Document, Drop
from data_beam.stages.language import CHARACTERS_READ, Language
from maxllm.config.errors import UserError
from maxllm.config.language import LanguageConfig

ENGLISH = "The ship left the harbour early in the morning, before anyone in the town was awake."
GERMAN = "Das Schiff verließ den Hafen früh am Morgen, bevor jemand in der Stadt wach war."


def document(text: str, **metadata) -> Document:
    return Document("1", text, "test", "2024", metadata=metadata)


def test_wanted_languages_stay_with_label_and_confidence():
    kept = Language(LanguageConfig())(document(ENGLISH, url="u"))
    assert kept.metadata["language"] == "en" and kept.metadata["language_confidence"] > 0.8
    assert kept.metadata["url"] == "u" and kept.text == ENGLISH
    assert Language(LanguageConfig())(document(GERMAN)) == Drop("language.not_wanted", "de")
    assert Language(LanguageConfig(languages=["en", "de"]))(document(GERMAN)).metadata["language"] == "de"


def test_the_confidence_must_be_above_the_limit_not_at_it():
    _, confidence = Language(LanguageConfig()).detect(ENGLISH)
    below = LanguageConfig(min_confidence=confidence - 1e-6)
    assert Language(below)(document(ENGLISH)).metadata["language"] == "en"
    drop = Language(LanguageConfig(min_confidence=confidence))(document(ENGLISH))
    assert drop == Drop("language.low_confidence", round(confidence, 4))


def test_without_wanted_languages_all_stay_and_the_unsure_are_und():
    everything = Language(LanguageConfig(languages=[]))
    assert everything(document(GERMAN)).metadata["language"] == "de"
    assert everything(document("x 1 2")).metadata["language"] == "und"


@pytest.mark.parametrize("text", ["", "\n", "\ud800", "a\nb\r\nc\x00d", "x" * 1_000_000, " " * 1_000_000, "\u2028"])
def test_no_text_raises(text):
    assert isinstance(Language(LanguageConfig())(document(text)), Document | Drop)


def test_the_head_of_a_long_text_decides():
    long = (ENGLISH + " ") * (CHARACTERS_READ // len(ENGLISH) + 1) + (GERMAN + " ") * 100_000
    assert Language(LanguageConfig()).detect(long)[0] == "en"


def test_source_code_passes_unlabelled():
    code = document("x = 1", content_type="code")
    assert Language(LanguageConfig())(code) is code


def test_a_missing_or_broken_model_is_the_users_error(tmp_path):
    with pytest.raises(UserError, match="language.model: .*none.bin does not exist"):
        Language(LanguageConfig(model=str(tmp_path / "none.bin")))
    (tmp_path / "text.bin").write_text("no model")
    with pytest.raises(UserError, match="not a fastText model"):
        Language(LanguageConfig(model=str(tmp_path / "text.bin")))


def test_real_sentences_in_75_languages(shared_data):
    """What the filter is for: of what it keeps as English nearly all is, and it keeps most of what is."""
    rows = [json.loads(line) for line in gzip.open(shared_data / "lid" / "lingua_sentences.jsonl.gz")]
    rows = [row for row in rows if row["lang"] == "en"] + rows[::7]
    stage = Language(LanguageConfig())
    kept = [row["lang"] for row in rows if isinstance(stage(document(row["text"])), Document)]
    english = sum(row["lang"] == "en" for row in rows)
    assert kept.count("en") / len(kept) > 0.97
    assert kept.count("en") / english > 0.75
