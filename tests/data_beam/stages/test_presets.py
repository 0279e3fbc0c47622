"""The presets named after papers: each loads, switches on exactly its rule sets, and decides as its source says."""

import pytest

from data_beam.document import Document, Drop
from data_beam.stages.quality import Quality
from maxllm.config.curate import CurateConfig
from maxllm.config.load import resolve
from maxllm.config.rules import QualityConfig

SETS = {
    "gopher": {"gopher", "repetition"},
    "c4": {"c4"},
    "c4-tfds": {"c4"},
    "fineweb": {"gopher", "repetition", "c4", "fineweb"},
    "refinedweb": {"gopher", "repetition", "refinedweb"},
    "dolma": {"gopher", "repetition", "c4"},
    "mission": {"heuristics"},
    "nemotron-style": {"gopher", "repetition", "heuristics"},
}


def preset(name: str) -> QualityConfig:
    return resolve(CurateConfig, f"curate/rules/{name}").config.quality


def reason(name: str, text: str) -> str | None:
    outcome = Quality(preset(name))(Document("1", text, "test", "2024"))
    return outcome.reason if isinstance(outcome, Drop) else None


@pytest.mark.parametrize("name", SETS)
def test_exactly_the_sets_of_the_paper_are_on(name):
    config = preset(name)
    assert {each for each in QualityConfig.model_fields if getattr(config, each).enabled} == SETS[name]


def words(count: int, length: int = 4) -> str:
    """Distinct words of one length, without punctuation."""
    digits = str.maketrans("0123456789", "abcdefghij")
    return " ".join(f"{i:0{length}d}"[-length:].translate(digits) for i in range(count))


STOP = "the of"
SENTENCE = "It was a good day to go out with a boat."
CASES = [
    # preset, a text that stays, a text a step away that goes, the reason
    ("gopher", f"{STOP} {words(48)}", f"{STOP} {words(47)}", "gopher.word_count"),
    ("gopher", f"{STOP} {words(48)}", f"the the {words(48)}", "gopher.stop_words"),
    ("refinedweb", f"the the {words(48)}", f"the {words(49)}", "gopher.stop_words"),
    ("dolma", f"the the {words(48)}.", f"the {words(49)}.", "gopher.stop_words"),
    # 24 words of 10 letters, 26 of 2 and one of 3: a mean of 5.8 and a median of 2.
    ("gopher", f"{STOP} {words(24, 10)} {words(25, 2)}", f"{STOP} {words(60, 2)}", "gopher.mean_word_length"),
    ("dolma", f"{STOP} {words(48)}.", f"{STOP} {words(24, 10)} {words(26, 2)}.", "gopher.median_word_length"),
    ("c4", "Three words here. " * 5, "Three words here. " * 4, "c4.sentences"),
    ("c4", "Three words here.\n" * 5, "Two words.\n" * 5, "c4.sentences"),
    ("c4-tfds", "There are five words here.\n" * 3, "There are five words here.\n" * 2, "c4.sentences"),
    ("c4-tfds", "There are five words here.\n" * 3, "Only four are here.\n" * 5, "c4.sentences"),
    # 50 words, of which two (4 %) and then three (6 %) stand in lines that are removed.
    (
        "refinedweb",
        f"{STOP} {words(46)}\n3 likes",
        f"{STOP} {words(45)}\n3 likes\nHOME",
        "refinedweb.removed_word_fraction",
    ),
    # Of 200 characters 50, then 51, are spaces or asterisks; of 300 and some, 52 or 53 digits, 75 or 76 of a URL.
    ("mission", "abc*" + " abc" * 49, "ab**" + " abc" * 49, "heuristics.non_alphanumeric_fraction"),
    ("mission", f"{words(60)} {'7' * 52}", f"{words(60)} {'7' * 53}", "heuristics.digit_fraction"),
    ("mission", f"{words(60)} http://{'w' * 68}", f"{words(60)} http://{'w' * 69}", "heuristics.url_fraction"),
    ("mission", words(50), words(49), "heuristics.word_count"),
    ("mission", words(50, 3), words(50, 2), "heuristics.mean_word_length"),
]


@pytest.mark.parametrize(("name", "stays", "goes", "expected"), CASES)
def test_a_text_just_inside_stays_and_one_just_outside_goes(name, stays, goes, expected):
    assert reason(name, stays) is None
    assert reason(name, goes) == expected
