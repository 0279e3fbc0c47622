"""Scores are measured once, written where they can be seen, and decide by themselves."""

import gzip
import json
import shutil

import pytest
from apache_beam.io.localfilesystem import LocalFileSystem

from data_beam.classify.classifier import load_classifier
from data_beam.classify.training import train
from data_beam.document import Document, Drop
from data_beam.stages.classify import Classify
from data_beam.stages.stage import without_signals
from maxllm.config.classify import ClassifierConfig, ClassifierTrainConfig
from maxllm.config.errors import UserError

GOOD, BAD = "a theorem because of the evidence", "click the cheap casino deal"


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    """Quality in three classes, toxicity, and a domain of 27."""
    folder = tmp_path_factory.mktemp("model")
    three = [
        {"text": f"{'abc'[i % 3]}word the {['cheap', 'blog', 'theorem'][i % 3]} n{i}", "q": i % 3} for i in range(300)
    ]
    two = [{"text": f"the {['idiot', 'friend'][i % 2]} said n{i}", "t": ["toxic", "fine"][i % 2]} for i in range(300)]
    many = [{"text": f"about topic{i % 27} and topic{i % 27} n{i}", "d": f"d{i % 27:02}"} for i in range(27 * 30)]
    for name, rows in (("quality", three), ("toxicity", two), ("domain", many)):
        with gzip.open(folder / f"{name}.jsonl.gz", "wt") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)
    heads = {
        "quality": {"data": [{"paths": [str(folder / "quality.jsonl.gz")], "label_key": "q"}], "positive": "2"},
        "toxicity": {"data": [{"paths": [str(folder / "toxicity.jsonl.gz")], "label_key": "t"}], "positive": "toxic"},
        "domain": {"data": [{"paths": [str(folder / "domain.jsonl.gz")], "label_key": "d"}]},
    }
    settings = {"output": str(folder / "model"), "heads": heads, "fasttext": {"dim": 16, "buckets": 1000, "epochs": 40}}
    train(ClassifierTrainConfig.model_validate(settings))
    return str(folder / "model")


def document(text: str, **metadata) -> Document:
    return Document("1", text, "test", "2024", metadata=metadata)


def config(model: str, name: str = "multi", **rules) -> ClassifierConfig:
    return ClassifierConfig.model_validate({"name": name, "model": model, "rules": rules})


def test_one_pass_gives_all_heads(model):
    kept = Classify([config(model)])(document("the theorem", url="u", scores={"other": 1}))
    scores, labels = kept.metadata["scores"]["multi"], kept.metadata["labels"]["multi"]
    assert scores["quality"] > 0.8 and scores["toxicity"] < 0.6 and 0 < scores["domain"] <= 1
    assert labels["quality"] == "2" and labels["domain"] in {f"d{i:02}" for i in range(27)}
    assert kept.metadata["scores"]["other"] == 1 and kept.metadata["url"] == "u" and kept.text == "the theorem"
    signals = kept.metadata["signals"]["classifiers.multi"]
    assert len(signals) == 1 + (1 + 3) + (1 + 2) + 27
    topic = Classify([config(model)])(document("about topic13 and topic13"))
    assert topic.metadata["labels"]["multi"]["domain"] == "d13"
    json.dumps(kept.to_json())


@pytest.mark.parametrize(
    ("rule", "stays"),
    [
        ({"above": 0}, False),
        ({"min_score": 0}, True),
        ({"below": 0}, False),
        ({"max_score": 0}, True),
        ({}, True),
        ({"keep_fraction": 0.1}, True),
    ],
)
def test_above_and_below_leave_out_the_bound_itself(model, rule, stays):
    stage = Classify([config(model)])
    score = stage(document(GOOD)).metadata["scores"]["multi"]["quality"]
    rule = {key: score if key != "keep_fraction" else value for key, value in rule.items()}
    result = Classify([config(model, quality=rule)])(document(GOOD))
    if stays:
        assert isinstance(result, Document)
    else:
        assert result == Drop(f"classifiers.multi.quality.{next(iter(rule))}", score)


def test_a_rule_on_a_single_label(model):
    result = Classify([config(model, **{"quality.0": {"below": 0.5}})])(document("the cheap"))
    assert result.reason == "classifiers.multi.quality.0.below" and result.value > 0.5


def test_thresholds_change_without_the_model_being_asked(model):
    """The text is taken away: only what was measured is left to decide by."""
    measured = Classify([config(model)]).measure(document(GOOD))
    blank = measured.with_text("")
    strict = Classify([config(model, quality={"above": 1.0})])
    assert isinstance(strict.decide(strict.measure(blank)), Drop)
    score = Classify([config(model)]).decide(blank).metadata["scores"]["multi"]["quality"]
    assert score == measured.metadata["signals"]["classifiers.multi"]["quality"]


def test_another_model_measures_again(model, tmp_path):
    measured = Classify([config(model)]).measure(document(GOOD))
    other = shutil.copytree(model, tmp_path / "other")
    description = json.loads((other / "model.json").read_text())
    description["fingerprint"] = "other"
    (other / "model.json").write_text(json.dumps(description))
    stage = Classify([config(str(other))])
    with pytest.raises(LookupError):
        stage.decide(measured)
    assert stage.measure(measured).metadata["signals"]["classifiers.multi"]["version"].endswith("other")


def test_many_at_once_are_as_one_by_one(model):
    stage = Classify([config(model), config(model, "again")])
    texts = [document(text) for text in (GOOD, BAD, "", "\ud800 \x00", "日本語のテキスト")] + [
        document("x", content_type="code")
    ]
    assert stage.measure_batch(texts) == [stage.measure(text) for text in texts]


def test_source_code_passes_unscored(model):
    code = document("x = 1", content_type="code")
    assert Classify([config(model, quality={"above": 1.0})])(code) is code


@pytest.mark.parametrize(
    "text", ["", "\n", "\ud800", "a\nb\r\nc\x00d", "x" * 1_000_000, " " * 1_000_000, "\u2028", "__label__2"]
)
def test_no_text_raises(model, text):
    kept = Classify([config(model)])(document(text))
    assert isinstance(without_signals(kept), Document)


def test_a_bare_fasttext_file_is_read_by_its_label(model):
    stage = Classify(
        [ClassifierConfig(name="hq", model=f"{model}/quality.bin", label="2", rules={"score": {"above": 0.5}})]
    )
    kept = stage(document("the theorem"))
    assert 0.5 < kept.metadata["scores"]["hq"] <= 1 and "labels" not in kept.metadata
    assert stage(document("the cheap")).reason == "classifiers.hq.above"
    with pytest.raises(UserError, match="classifiers.hq.label: is 'good', but the model knows 0, 1, 2"):
        Classify([ClassifierConfig(name="hq", model=f"{model}/quality.bin", label="good")])


def test_what_is_wrong_with_a_model_is_a_sentence(model, tmp_path):
    (tmp_path / "text.bin").write_text("no model " * 20)
    (tmp_path / "empty").mkdir()
    truncated = shutil.copytree(model, tmp_path / "truncated")
    (truncated / "domain.bin").write_bytes((truncated / "domain.bin").read_bytes()[:60])
    for path, message in (
        (tmp_path / "none", "does not exist"),
        (tmp_path / "text.bin", "is not a whole fastText model: it does not begin"),
        (tmp_path / "empty", "holds neither model.json nor"),
        (truncated, "is not a whole fastText model: it is cut off"),
    ):
        with pytest.raises(UserError, match=f"classifiers.q.model: .*({message})"):
            Classify([ClassifierConfig(name="q", model=str(path))])
    with pytest.raises(UserError, match="rules: nothing is no score of the model; it has quality, quality.0"):
        Classify([config(model, nothing={"above": 1})])
    with pytest.raises(UserError, match="two are called multi"):
        Classify([config(model), config(model)])


class Elsewhere(LocalFileSystem):
    """A file system that only Beam can read: local files under another scheme."""

    @classmethod
    def scheme(cls) -> str:
        return "elsewhere"

    def match(self, patterns, limits=None):
        found = super().match([pattern.removeprefix("elsewhere:/") for pattern in patterns], limits)
        for result in found:
            for metadata in result.metadata_list:
                metadata.path = "elsewhere:/" + metadata.path
        return found

    def exists(self, path):
        return super().exists(path.removeprefix("elsewhere:/"))

    def open(self, path, *arguments, **more):
        return super().open(path.removeprefix("elsewhere:/"), *arguments, **more)

    def join(self, basepath, *paths):
        return "/".join([basepath.rstrip("/"), *paths])


def test_a_model_on_another_file_system_is_copied(model):
    here = load_classifier(ClassifierConfig(name="q", model=model))
    remote = load_classifier(ClassifierConfig(name="q", model=f"elsewhere:/{model}"))
    assert remote.version == here.version and remote.score([GOOD]) == here.score([GOOD])
    bare = load_classifier(ClassifierConfig(name="q", model=f"elsewhere:/{model}/quality.bin", label="2"))
    assert bare.score([GOOD])[0]["score"] > 0.5
    for path in (f"elsewhere:/{model}/none", f"unknown://{model}"):
        with pytest.raises(UserError, match="does not exist|cannot be read"):
            load_classifier(ClassifierConfig(name="q", model=path))
