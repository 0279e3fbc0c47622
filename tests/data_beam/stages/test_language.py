"""Languages are told apart, and only a confidence above the limit counts."""

import gzip
import json

import pytest

from data_beam.classify.fasttext_format import to_fasttext
from data_beam.document import Document, Drop
from data_beam.stages.language import Language
from data_beam.stages.stage import without_signals
from data_beam.text.language import CHARACTERS_READ, load_model
from maxllm.config.curate import CurateConfig
from maxllm.config.errors import UserError
from maxllm.config.language import LanguageConfig
from maxllm.config.load import resolve

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
    _, confidence = load_model(None).identify(ENGLISH)
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
    assert load_model(None).identify(long)[0] == "en"


def test_source_code_passes_unlabelled():
    code = document("x = 1", content_type="code")
    assert Language(LanguageConfig())(code) is code


def test_a_missing_or_broken_model_is_the_users_error(tmp_path):
    with pytest.raises(UserError, match="language.model: .*none.bin does not exist"):
        Language(LanguageConfig(model=str(tmp_path / "none.bin")))
    (tmp_path / "text.bin").write_text("no model")
    with pytest.raises(UserError, match="not a fastText model"):
        Language(LanguageConfig(model=str(tmp_path / "text.bin")))


def test_a_label_the_model_does_not_have_is_the_users_error():
    with pytest.raises(UserError, match="language.languages: 'eng' is no label of the model; nearest are .*en"):
        Language(LanguageConfig(languages=["eng"]))
    with pytest.raises(UserError, match="language.labels: 'xx' is no label"):
        Language(LanguageConfig(labels=["en", "xx"]))
    Language(LanguageConfig(languages=["en", "und"]))
    assert len(load_model(None).labels) == 176


def test_undetermined_documents_can_be_wanted():
    stage = Language(LanguageConfig(languages=["en", "und"]))
    assert stage(document("x 1 2")).metadata["language"] == "und"
    assert stage(document(GERMAN)) == Drop("language.not_wanted", "de")


def test_only_the_labels_given_compete():
    """The confidence is the best one's share of what they have together."""
    model = load_model(None)
    line = "alles is warm"
    p = dict(zip(*model.model.predict(line, k=-1), strict=True))
    assert model.identify(line) == ("de", pytest.approx(p["__label__de"]))
    together = p["__label__nl"] + p["__label__en"]
    assert model.identify(line, frozenset({"nl", "en"})) == ("nl", pytest.approx(p["__label__nl"] / together))
    stage = Language(LanguageConfig(languages=[], labels=["nl", "en"], min_confidence=0.5))
    assert stage(document(line)).metadata["language"] == "nl"
    assert model.identify("東京は日本の首都です。", frozenset({"nl"})) == ("und", 0.0)
    assert model.identify("", frozenset({"de"})) == ("und", 0.0)


MIXED = f"{ENGLISH} It sailed.\n\n  {GERMAN}\n42\n{ENGLISH}"


def test_paragraphs_tell_how_much_of_a_text_is_in_which_language():
    kept = Language(LanguageConfig(languages=[], paragraphs="label"))(document(MIXED))
    english, german, unsure = len(ENGLISH) * 2 + len(" It sailed.\n"), len(GERMAN) + 3, 3
    total = english + german + unsure
    assert kept.text == MIXED
    shares = {"en": english, "de": german, "und": unsure}
    assert kept.metadata["language_shares"] == {name: round(count / total, 4) for name, count in shares.items()}
    assert list(kept.metadata["language_shares"]) == ["en", "de", "und"]


def test_paragraphs_surely_in_another_language_are_taken_out():
    kept = Language(LanguageConfig(paragraphs="remove"))(document(f"{MIXED}\n{ENGLISH}\n{ENGLISH}"))
    assert kept.text == f"{ENGLISH} It sailed.\n\n42\n{ENGLISH}\n{ENGLISH}\n{ENGLISH}"
    assert kept.metadata["language_paragraphs_removed"] == 1
    assert kept.metadata["language_shares"]["de"] > 0  # of the text as it was
    untouched = Language(LanguageConfig(paragraphs="remove"))(document(ENGLISH))
    assert untouched.text == ENGLISH and "language_paragraphs_removed" not in untouched.metadata
    with pytest.raises(ValueError, match="paragraphs: remove takes out what is in none"):
        LanguageConfig(languages=[], paragraphs="remove")


@pytest.mark.parametrize("paragraphs", ["off", "label", "remove"])
@pytest.mark.parametrize("labels", [[], ["en", "de", "fr"]])
def test_what_was_measured_decides_as_the_text_does_at_any_confidence(paragraphs, labels, monkeypatch):
    config = {"paragraphs": paragraphs, "labels": labels}
    first = Language(LanguageConfig(**config))
    texts = [ENGLISH, GERMAN, MIXED, f"{GERMAN}\n{MIXED}", "x 1 2", "", "\n", "\ud800"]
    measured = [through_json(first.measure(document(text))) for text in texts]
    expected = {}
    stages = [
        Language(LanguageConfig(min_confidence=c, languages=w, **config))
        for c in (0, 0.5, 0.9)
        for w in (["en"], ["de"])
    ]
    for number, stage in enumerate(stages):
        expected[number] = [stage(document(text)) for text in texts]
    monkeypatch.setattr(type(first.model), "identify", None)  # whoever reads a text again fails
    for number, stage in enumerate(stages):
        assert all(stage.measure(each) is each for each in measured)
        assert [plain(stage.decide(each)) for each in measured] == expected[number]


def test_other_labels_and_other_texts_are_measured_again():
    measured = Language(LanguageConfig()).measure(document(ENGLISH))
    assert Language(LanguageConfig(labels=["en", "de"])).measure(measured) is not measured
    with_paragraphs = Language(LanguageConfig(paragraphs="label"))
    assert with_paragraphs.measure(measured) is not measured
    measured_more = with_paragraphs.measure(document(ENGLISH))
    assert Language(LanguageConfig()).measure(measured_more) is measured_more
    changed = measured.with_text(GERMAN)
    assert Language(LanguageConfig())(changed) == Drop("language.not_wanted", "de")


def through_json(document: Document) -> Document:
    return Document.from_json(json.loads(json.dumps(document.to_json())))


def plain(outcome: Document | Drop) -> Document | Drop:
    return without_signals(outcome) if isinstance(outcome, Document) else outcome


def test_another_model_keeps_its_own_labels(tmp_path):
    """As GlotLID's eng_Latn."""
    floret = pytest.importorskip("floret")
    lines = ["__label__eng_Latn the cat sat on a mat", "__label__deu_Latn die katze sass auf der matte"] * 100
    (tmp_path / "train.txt").write_text("\n".join(lines))
    trained = floret.train_supervised(
        str(tmp_path / "train.txt"), mode="fasttext", dim=8, epoch=30, bucket=0, verbose=0
    )
    trained.save_model(str(tmp_path / "floret.bin"))
    path = tmp_path / "glot.bin"
    path.write_bytes(to_fasttext((tmp_path / "floret.bin").read_bytes()))
    config = LanguageConfig(model=str(path), languages=["eng_Latn"], min_confidence=0.5)
    assert Language(config)(document("the cat on the mat")).metadata["language"] == "eng_Latn"
    assert Language(config)(document("die katze auf der matte")) == Drop("language.not_wanted", "deu_Latn")
    with pytest.raises(UserError, match="'en' is no label of the model; nearest are eng_Latn"):
        Language(LanguageConfig(model=str(path)))


@pytest.mark.parametrize(
    ("name", "languages", "confidence"), [("mission", ["en"], 0.8), ("fineweb", ["en"], 0.65), ("every", [], 0.65)]
)
def test_presets(name, languages, confidence):
    config = resolve(CurateConfig, f"curate/language/{name}").config.language
    assert (config.languages, config.min_confidence) == (languages, confidence)


def test_real_sentences_in_75_languages(shared_data):
    """What the filter is for: of what it keeps as English nearly all is, and it keeps most of what is."""
    rows = [json.loads(line) for line in gzip.open(shared_data / "lid" / "lingua_sentences.jsonl.gz")]
    rows = [row for row in rows if row["lang"] == "en"] + rows[::7]
    stage = Language(LanguageConfig())
    kept = [row["lang"] for row in rows if isinstance(stage(document(row["text"])), Document)]
    english = sum(row["lang"] == "en" for row in rows)
    assert kept.count("en") / len(kept) > 0.97
    assert kept.count("en") / english > 0.75
