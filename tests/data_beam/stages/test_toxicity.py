"""Toxic text by word lists, by a classifier and by score; kept out or nothing else kept; never shown."""

import json
import re

import pytest

from data_beam.classify.badwords import ALLOWED, NO_SPACES, WordMatcher
from data_beam.classify.training import train
from data_beam.document import Document, Drop
from data_beam.stages.toxicity import Toxicity
from maxllm.config.classify import ClassifierTrainConfig
from maxllm.config.errors import UserError
from maxllm.config.toxicity import ToxicityConfig

LIST = ["darn", "blasted thing", "b-word", "$hoot", "Heck"]


def document(text: str, identity: str = "1", **metadata) -> Document:
    return Document(identity, text, "test", "2024", metadata=metadata)


@pytest.fixture()
def words(tmp_path) -> dict[str, str]:
    (tmp_path / "en").write_text("\n".join(LIST) + "\n\n")
    (tmp_path / "ja").write_text("悪い\nsm\n", encoding="utf-8")
    return {"en": str(tmp_path / "en"), "ja": str(tmp_path / "ja")}


def configure(lists: dict[str, str] | None = None, **settings) -> ToxicityConfig:
    return ToxicityConfig.model_validate({"enabled": True, "words": {"files": lists or {}}, **settings})


# Words -----------------------------------------------------------------------------------------


def twin(words: list[str], language: str) -> re.Pattern[str]:
    """The rule as C4's code writes it (c4_utils.py of tensorflow_datasets)."""
    escaped = "|".join(re.escape(word.lower()) for word in words if word not in ALLOWED.get(language, ()))
    return re.compile(escaped if language in NO_SPACES else rf"(?:\W|^)({escaped})(?:\W|$)")


TEXTS = [
    "Darn it",
    "darned, undarn, darn2, _darn, darn_",
    "it is a DARN.",
    "(darn)",
    "blasted\nthing",
    "the blasted thing!",
    "bb-word b-words",
    "b-word",
    "a $hoot",
    "a$hoot",
    "HECK",
    "heckdarn",
    "darn" + "é",
    "darn\u0301",
    "",
    "悪い",
    "とても悪いこと",
    "sm",
    "\ud800darn",
    "İdarn İ darn",
]


@pytest.mark.parametrize("language", ["en", "ja"])
@pytest.mark.parametrize("text", TEXTS)
def test_what_matches_is_what_c4s_expression_finds(text, language):
    listed = [*LIST, "悪い", "sm"]
    assert (WordMatcher(listed, language).count(text) > 0) == bool(twin(listed, language).search(text.lower()))


def test_occurrences_are_counted_each():
    matcher = WordMatcher(["darn", "darn it", "darn"], "en")
    assert len(matcher) == 2
    assert matcher.count("Darn it, darn! Undarned.") == 3  # "darn", "darn it", "darn"
    assert WordMatcher([], "en").count("darn") == 0


def test_real_lists_agree_with_the_expression_on_real_text(shared_data):
    import gzip

    lists = json.load(gzip.open(shared_data / "toxicity" / "ldnoobw_by_language.json.gz"))
    texts = [json.loads(line)["text"] for line in gzip.open(shared_data / "corpus" / "c4_demo.jsonl.gz")][:100]
    texts += [
        json.loads(line)["text"] for line in gzip.open(shared_data / "toxicity" / "toxigen_demonstrations.jsonl.gz")
    ]
    for language in ("en", "de", "zh"):
        matcher, expression = WordMatcher(lists[language], language), twin(lists[language], language)
        assert [matcher.count(text) > 0 for text in texts] == [bool(expression.search(text.lower())) for text in texts]


def test_a_page_with_a_word_goes_by_the_list_of_its_language(words):
    stage = Toxicity(configure(words))
    assert stage(document("darn", language="en")) == Drop("toxicity.words", 1)
    assert stage(document("a fine day", language="en")).metadata["toxicity"] == {"words": 0}
    assert isinstance(stage(document("darn", language="de")), Document)
    assert stage(document("darn とても悪い")) == Drop("toxicity.words", 2)  # language unknown: every list
    assert stage(document("darn とても悪い", language="und")) == Drop("toxicity.words", 2)
    everywhere = Toxicity(configure({"any": words["en"]}))
    assert everywhere(document("darn", language="de")) == Drop("toxicity.words", 1)


def test_so_many_words_are_allowed(words):
    stage = Toxicity(configure(words, words={"files": words, "max_matches": 2}))
    assert stage(document("darn darn")).metadata["toxicity"] == {"words": 2}
    assert stage(document("darn darn heck")) == Drop("toxicity.words", 3)


# Inverse, share, re-deciding -------------------------------------------------------------------


def test_the_inverse_filter_keeps_the_toxic_only(words):
    stage = Toxicity(configure(words, keep="toxic"))
    assert stage(document("darn")).metadata["toxicity"] == {"words": 1}
    assert stage(document("a fine day")) == Drop("toxicity.clean", 0)
    both = Toxicity(configure(words, keep="all"))
    assert both(document("darn")).metadata["toxicity"] == {"words": 1}
    assert both(document("a fine day")).metadata["toxicity"] == {"words": 0}


def test_a_share_of_what_would_go_stays_always_the_same(words):
    def kept(seed: int) -> list[str]:
        stage = Toxicity(configure(words, keep_fraction=0.25, seed=seed))
        return [str(i) for i in range(2000) if isinstance(stage(document("darn", str(i))), Document)]

    assert 400 < len(kept(0)) < 600 and kept(0) == kept(0) != kept(1)
    inverse = Toxicity(configure(words, keep="toxic", keep_fraction=1.0))
    assert isinstance(inverse(document("a fine day")), Document)


def test_decided_again_without_the_text(words):
    measured = Toxicity(configure(words)).measure(document("darn darn"))
    blank = measured.with_text("")
    lenient = Toxicity(configure(words, words={"files": words, "max_matches": 2}))
    assert isinstance(lenient.decide(lenient.measure(blank)), Document)
    assert isinstance(Toxicity(configure(words)).decide(blank), Drop)
    other = Toxicity(configure({"en": words["ja"]}))
    assert other.measure(blank).metadata["signals"]["toxicity"]["words"] == 0  # another list counts anew


def test_source_code_passes(words):
    code = document("darn = 1", content_type="code")
    assert Toxicity(configure(words))(code) is code


@pytest.mark.parametrize("text", ["", "\ud800", "\x00", "x" * 1_000_000, "darn" * 100_000])
def test_no_text_raises(words, text):
    assert isinstance(Toxicity(configure(words))(document(text)), Document)


# A classifier ----------------------------------------------------------------------------------


def test_a_classifier_trained_on_the_users_data(tmp_path, words):
    rows = [
        {"text": f"the {['idiot', 'friend'][i % 2]} said n{i}", "label": ["toxic", "fine"][i % 2]} for i in range(200)
    ]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    head = {"data": [{"paths": [str(tmp_path / "a.jsonl")]}], "positive": "toxic"}
    train(
        ClassifierTrainConfig.model_validate(
            {"output": str(tmp_path / "model"), "heads": {"toxicity": head}, "fasttext": {"dim": 8, "buckets": 100}}
        )
    )
    classifier = {"model": str(tmp_path / "model"), "score": "toxicity"}
    stage = Toxicity(configure(words, classifier=classifier))
    bad, good = stage(document("the idiot")), stage(document("the friend"))
    assert bad.reason == "toxicity.classifier" and bad.value > 0.5
    assert good.metadata["toxicity"]["classifier"] < 0.5 and good.metadata["toxicity"]["words"] == 0
    at = Toxicity(configure(classifier=classifier | {"below": bad.value}))
    assert isinstance(at(document("the idiot")), Drop)  # kept is what is below
    with pytest.raises(UserError, match="classifier.score: score is no score of the model; it has toxicity"):
        Toxicity(configure(classifier={"model": classifier["model"]}))


def test_lists_that_are_missing_or_empty_are_the_users_error(tmp_path):
    (tmp_path / "empty").write_text("\n\n")
    with pytest.raises(UserError, match="toxicity.words.files.en: .*empty has no words"):
        Toxicity(configure({"en": str(tmp_path / "empty")}))
    with pytest.raises(UserError, match="toxicity.words.files.en: .*none"):
        Toxicity(configure({"en": str(tmp_path / "none")}))
    with pytest.raises(ValueError, match="enabled without a method"):
        ToxicityConfig(enabled=True)
