"""What was measured and stored decides as the text itself would, for any thresholds, without measuring again."""

import json
from functools import cached_property

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_beam.document import Document, Drop
from data_beam.stages.quality import Quality
from data_beam.stages.stage import without_signals
from data_beam.text.signals import Signals
from maxllm.config.rules import QualityConfig

LINES = [
    "It is a long way to the sea from here, and that is what they have to walk with the dog.",
    "The keeper of the tower would be glad of the company! Would he?",
    "- a list of things",
    "• another",
    "HOME | ABOUT US",
    "3 likes",
    "2024 12 31",
    "Read more...",
    "and so on…",
    "Citation[12] here.",
    "terms of use",
    "Lorem ipsum { dolor }.",
    "see https://example.org/a/b?c=d for more # # #",
    "東京は日本の首都です。人口は多い。",
    "word word word word word word word word",
    "Menu",
    "",
]
texts = st.one_of(st.lists(st.sampled_from(LINES), max_size=25).map("\n".join), st.text(max_size=200))


def limits(low: float, high: float) -> st.SearchStrategy:
    return st.one_of(st.none(), st.floats(low, high))


def fractions() -> st.SearchStrategy:
    return limits(0, 1)


configs = st.fixed_dictionaries(
    {
        "gopher": st.fixed_dictionaries(
            {
                "enabled": st.booleans(),
                "reading": st.sampled_from(["gopher", "dolma"]),
                "count_stop_words": st.sampled_from(["distinct", "occurrences"]),
                "min_words": st.integers(0, 40),
                "min_mean_word_length": limits(0, 5),
                "max_symbol_word_ratio": fractions(),
                "max_bullet_line_fraction": fractions(),
                "max_ellipsis_line_fraction": fractions(),
                "min_alphabetic_word_fraction": fractions(),
                "min_stop_words": st.integers(0, 3),
            }
        ),
        "repetition": st.fixed_dictionaries(
            {
                "enabled": st.booleans(),
                "reading": st.sampled_from(["gopher", "dolma"]),
                "max_duplicate_line_fraction": fractions(),
                "max_duplicate_paragraph_fraction": fractions(),
                "max_duplicate_line_character_fraction": fractions(),
                "max_duplicate_paragraph_character_fraction": fractions(),
                "max_top_ngram_character_fraction": st.dictionaries(st.integers(2, 10), fractions()),
                "max_duplicate_ngram_character_fraction": st.dictionaries(st.integers(2, 10), fractions()),
            }
        ),
        "heuristics": st.fixed_dictionaries(
            {
                "enabled": st.booleans(),
                "min_words": st.integers(0, 40),
                "min_mean_word_length": limits(0, 5),
                "max_non_alphanumeric_fraction": fractions(),
                "max_digit_fraction": fractions(),
                "max_url_fraction": fractions(),
                "max_white_space_fraction": fractions(),
                "max_bracket_fraction": fractions(),
                "max_boilerplate_paragraph_fraction": fractions(),
                "max_unended_line_fraction": fractions(),
                "max_word_length": st.integers(1, 40),
            }
        ),
        "refinedweb": st.fixed_dictionaries({"enabled": st.booleans(), "max_removed_word_fraction": fractions()}),
        "c4": st.fixed_dictionaries(
            {
                "enabled": st.booleans(),
                "min_sentences": st.one_of(st.none(), st.integers(0, 8)),
                "drop_lorem_ipsum": st.booleans(),
                "drop_curly_brace": st.booleans(),
            }
        ),
        "fineweb": st.fixed_dictionaries(
            {
                "enabled": st.booleans(),
                "min_line_punctuation_ratio": fractions(),
                "max_short_line_ratio": fractions(),
                "max_duplicate_line_character_ratio": fractions(),
                "max_newline_word_ratio": fractions(),
            }
        ),
    }
)


def document(text: str, **metadata) -> Document:
    return Document("1", text, "test", "2024-01-01", metadata=metadata)


def plain(outcome: Document | Drop) -> Document | Drop:
    return without_signals(outcome) if isinstance(outcome, Document) else outcome


def through_json(document: Document) -> Document:
    return Document.from_json(json.loads(json.dumps(document.to_json())))


@given(texts, configs)
@settings(max_examples=150, deadline=None)
def test_measured_with_one_config_and_decided_by_another_is_what_the_other_decides(text, config):
    measured = through_json(Quality(QualityConfig()).measure(document(text)))
    stage = Quality(QualityConfig.model_validate(config))
    assert stage.measure(measured) is measured  # other thresholds need nothing more
    expected = stage(document(text))
    assert plain(stage.decide(measured)) == expected
    assert plain(stage(measured)) == expected


@given(texts, configs)
@settings(max_examples=50, deadline=None)
def test_settings_that_say_which_lines_go_are_measured_again(text, config):
    measured = Quality(QualityConfig()).measure(document(text))
    config = {
        **config,
        "c4": {**config["c4"], "terminal_punctuation": False, "min_words_per_line": 2},
        "refinedweb": {**config["refinedweb"], "max_uppercase_fraction": 0.2},
        "fineweb": {**config["fineweb"], "short_line_length": 10},
    }
    stage = Quality(QualityConfig.model_validate(config))
    again = stage.measure(measured)
    assert again is not measured
    assert plain(stage.decide(again)) == plain(stage(measured)) == stage(document(text))


def test_deciding_again_computes_nothing(monkeypatch):
    everything = {name: {"enabled": True} for name in QualityConfig.model_fields}
    text = "\n".join([LINES[0], LINES[1], LINES[1].replace("tower", "light")])
    measured = Quality(QualityConfig.model_validate(everything)).measure(document(text))

    def untouched(*_):
        raise AssertionError("the text was looked at")

    for name, value in vars(Signals).items():
        if not name.startswith("__") and (callable(value) or isinstance(value, property | cached_property)):
            monkeypatch.setattr(Signals, name, property(untouched))
    strict = {**everything, "gopher": {"min_words": 1000}}
    words = measured.metadata["signals"]["quality"]["counts"]["word_count"]
    assert Quality(QualityConfig.model_validate(strict)).decide(measured) == Drop("gopher.word_count", words)
    # RefinedWeb and C4 take nothing out of this text, and so need not look at it either.
    loose = {**everything, "c4": {"min_sentences": 1}}
    loose |= {name: {"enabled": False} for name in ("gopher", "repetition", "heuristics")}
    assert Quality(QualityConfig.model_validate(loose)).decide(measured) == measured


def test_a_text_that_was_changed_since_is_measured_again():
    stage = Quality(QualityConfig())
    measured = stage.measure(document("the of " + "word " * 60))
    changed = measured.with_text("too short")
    assert stage(changed) == stage(document("too short")) == Drop("gopher.word_count", 2)
    assert stage.measure(changed).metadata["signals"]["quality"]["counts"]["word_count"] == 2


def test_what_is_stored_is_small_and_json():
    stored = Quality(QualityConfig()).measure(document("\n".join(LINES) * 10)).metadata["signals"]["quality"]
    assert len(json.dumps(stored)) < 4000


def test_source_code_is_not_measured():
    code = document("x = 1", content_type="code")
    assert Quality(QualityConfig()).measure(code) is code


@pytest.mark.parametrize("text", ["", "\ud800", "\x00", "\u2028", " "])
def test_no_text_is_too_odd_to_be_measured(text):
    stage = Quality(QualityConfig())
    assert plain(stage.decide(stage.measure(document(text)))) == stage(document(text))
