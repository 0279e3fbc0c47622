"""Labelled texts become a model that says what it was taught: the same bytes every time, read by every fastText."""

import csv
import gzip
import hashlib
import json
import os
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from data_beam.classify.classifier import load_classifier
from data_beam.classify.examples import read_examples
from data_beam.classify.fasttext_format import check_whole, to_fasttext
from data_beam.classify.fasttext_model import Probabilities
from data_beam.classify.training import fit, train
from data_beam.text.language import bundled_model
from maxllm.config.classify import ClassifierConfig, ClassifierTrainConfig, FastTextConfig, LabelledFiles
from maxllm.config.errors import UserError

SMALL = {"dim": 8, "buckets": 1000, "epochs": 10}


def write(path: Path, records: list[dict]) -> str:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return str(path)


def configure(tmp_path: Path, name: str = "model", **head) -> ClassifierTrainConfig:
    return ClassifierTrainConfig.model_validate(
        {"output": str(tmp_path / name), "heads": {"quality": head}, "fasttext": SMALL}
    )


def weights(folder: str) -> str:
    return hashlib.sha256(Path(folder, "quality.bin").read_bytes()).hexdigest()


def test_good_texts_against_others_each_from_their_own_files(tmp_path, labelled):
    records = labelled(400)
    good = write(tmp_path / "good.jsonl", [r for r in records if r["label"] == "good"])
    other = tmp_path / "web.txt.gz"
    other.write_bytes(gzip.compress("\n".join(r["text"] for r in records if r["label"] == "bad").encode()))
    data = [{"paths": [good], "label": "hq"}, {"paths": [str(other)], "label": "cc"}]
    config = configure(tmp_path, data=data, positive="hq")
    report = train(config)
    head = report["heads"]["quality"]
    assert head["test"]["accuracy"] > 0.95 and head["test"]["roc_auc"] > 0.98
    assert sum(sum(labels.values()) for labels in head["counts"].values()) == 400
    model = load_classifier(ClassifierConfig(name="q", model=config.output))
    high, low = model.score(["a theorem because of evidence", "click the cheap casino deal"])
    assert high["quality"] > 0.9 > 0.1 > low["quality"]
    assert high["quality"] == high["quality.hq"] and high["quality.hq"] + high["quality.cc"] == pytest.approx(1)


def test_the_same_data_and_seed_give_the_same_bytes_whatever_the_order_of_files(tmp_path, labelled):
    records = labelled(200)
    first, second = write(tmp_path / "a.jsonl", records[:120]), write(tmp_path / "b.jsonl", records[120:])
    outputs = []
    for name, paths in (("one", [first, second]), ("two", [second, first])):
        config = configure(tmp_path, name, data=[{"paths": paths}])
        train(config)
        outputs.append(weights(config.output))
    assert outputs[0] == outputs[1]
    other = configure(tmp_path, "three", data=[{"paths": [first, second]}]).model_copy(update={"seed": 1})
    train(other)
    assert weights(other.output) != outputs[0]


def test_a_text_that_occurs_twice_is_on_one_side_only(tmp_path, labelled):
    records = labelled(100) * 3
    config = configure(tmp_path, data=[{"paths": [write(tmp_path / "a.jsonl", records)]}])
    for side, labels in train(config)["heads"]["quality"]["counts"].items():
        assert all(count % 3 == 0 for count in labels.values()), side


def test_a_regression_by_bins_gives_the_expected_value(two_heads):
    folder, report = two_heads
    grade = report["heads"]["grade"]
    assert grade["values"] == [0, 2, 4] and grade["labels"] == ["bin0", "bin1", "bin2"]
    assert grade["test"]["regression"]["correlation"] > 0.8 and grade["threshold"] is not None
    model = load_classifier(ClassifierConfig(name="q", model=str(folder)))
    assert model.keys == ("quality", "quality.bad", "quality.middle", "quality.good", "grade")
    assert model.labels == {"quality": ("bad", "middle", "good")}
    (low,), (high,) = model.score(["cheap casino deal winner"]), model.score(["theorem because evidence"])
    assert 0 <= low["grade"] < 0.7 < 3.3 < high["grade"] <= 4
    assert sum(high[f"quality.{label}"] for label in ("bad", "middle", "good")) == pytest.approx(1, abs=1e-6)


def test_calibration_does_not_hurt_and_the_report_has_it_all(two_heads):
    folder, report = two_heads
    head = report["heads"]["quality"]
    assert head["test"]["log_loss"] <= head["test"]["log_loss_uncalibrated"] + 0.01
    assert sum(row["count"] for row in head["test"]["reliability"]) == head["test"]["texts"]
    assert 0 < head["threshold"] < 1
    page = (folder / "report.html").read_text()
    assert page.count("<svg") == 4 and f"{head['threshold']:.6g}" in page
    assert "http" not in page.replace("http://www.w3.org", "") and "theorem" not in page
    assert json.loads((folder / "report.json").read_text()) == report


def test_finished_output_is_left_alone_and_another_configs_is_not_overwritten(tmp_path, labelled):
    data = [{"paths": [write(tmp_path / "a.jsonl", labelled(100))]}]
    config = configure(tmp_path, data=data)
    train(config)
    written = os.stat(Path(config.output, "quality.bin")).st_mtime_ns
    train(config)
    assert os.stat(Path(config.output, "quality.bin")).st_mtime_ns == written
    other = configure(tmp_path, data=data, positive="good")
    with pytest.raises(UserError, match="another config"):
        train(other)
    train(other, force=True)
    assert json.loads(Path(config.output, "model.json").read_text())["heads"][0]["positive"] == "good"


def test_what_fails_leaves_no_output(tmp_path, labelled):
    data = [{"paths": [write(tmp_path / "a.jsonl", labelled(100))], "label": "all"}]
    with pytest.raises(UserError, match="1 label to train on"):
        train(configure(tmp_path, data=data))
    assert not (tmp_path / "model").exists()


def test_a_text_cannot_label_itself_or_end_its_line(tmp_path, labelled):
    records = labelled(200)
    for record in records:
        record["text"] = f"__label__bad </s> __label__good\n{record['text']}"
    report = train(configure(tmp_path, data=[{"paths": [write(tmp_path / "a.jsonl", records)]}]))
    assert report["heads"]["quality"]["test"]["accuracy"] > 0.9


def test_labels_in_csv_and_their_spelling(tmp_path):
    with open(tmp_path / "a.csv", "w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["", "tweet", "class"])
        rows.writerows([[0, "two\nlines, with a comma", "1"], [1, "  ", "1"], [2, "plain", " 0 "]])
    files = LabelledFiles(paths=[str(tmp_path / "*.csv")], text_key="tweet", label_key="class")
    assert list(read_examples(files, "d")) == [("two\nlines, with a comma", "1"), ("plain", "0")]
    path = write(tmp_path / "b.jsonl", [{"text": "x", "label": True}, {"text": "y", "label": 2.5}])
    assert [label for _, label in read_examples(LabelledFiles(paths=[path]), "d")] == ["true", "2.5"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"text": "x", "label": 1}\n{"text": "y"}\n', r"a.jsonl:2 has no label under 'label'; it has \['text'\]"),
        (b'{"body": "x", "label": 1}\n', r"a.jsonl:1 has no text under 'text'; it has \['body', 'label'\]"),
        (b'{"text": "x", "label": 1}\nsecret\n', "a.jsonl:2 is not JSON"),
    ],
)
def test_a_bad_record_is_named_by_file_and_line_not_by_its_text(tmp_path, content, message):
    (tmp_path / "a.jsonl").write_bytes(content)
    with pytest.raises(UserError, match=message) as error:
        list(read_examples(LabelledFiles(paths=[str(tmp_path / "a.jsonl")]), "heads.q.data.0"))
    assert "secret" not in str(error.value)


def test_truncated_missing_and_unknown_files_are_the_users_errors(tmp_path):
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(b'{"text": "x", "label": 1}\n' * 1000)[:-20])
    for name, message in (
        ("a.jsonl.gz", "truncated"),
        ("none.jsonl", "cannot be read"),
        ("a.docx", "of no known kind"),
    ):
        with pytest.raises(UserError, match=message):
            list(read_examples(LabelledFiles(paths=[str(tmp_path / name)]), "d"))


@pytest.mark.parametrize(
    ("head", "message"),
    [
        ({"labels": ["good"]}, "the label 'bad' is none of"),
        ({"bins": [1.0]}, "is not a number"),
        ({"positive": "best"}, "no text with the positive label 'best'"),
    ],
)
def test_labels_that_do_not_fit_are_the_users_error(tmp_path, labelled, head, message):
    data = [{"paths": [write(tmp_path / "a.jsonl", labelled(60))]}]
    with pytest.raises(UserError, match=message):
        train(configure(tmp_path, data=data, **head))


@pytest.mark.parametrize(
    "head", [{"data": []}, {"bins": [2, 1]}, {"bins": [1], "positive": "a"}, {"positive_from": 1.0}, {"bins": [1, 1]}]
)
def test_settings_that_contradict_each_other_are_refused(head):
    with pytest.raises(ValueError):
        ClassifierTrainConfig.model_validate({"heads": {"q": {"data": [{"paths": ["x"]}]} | head}})


# The format ------------------------------------------------------------------------------------


def test_floret_settings_are_cut_out_where_they_are():
    header = struct.pack("<2i11i", 793712314, 12, 16, 5, 5, 1, 5, 2, 3, 3, 100, 0, 0)
    assert to_fasttext(header + struct.pack("<2i", 1, 1) + b"rest") == header + b"rest"
    for broken in (
        b"",
        b"x" * 100,
        header + struct.pack("<2i", 2, 1) + b"rest",
        header.replace(b"\x0c", b"\x0b", 1) * 2,
    ):
        with pytest.raises(ValueError, match="not a"):
            to_fasttext(broken)


def test_a_file_cut_off_anywhere_or_grown_is_not_whole(tmp_path, labelled):
    """fastText would read on until the memory is gone."""
    text_file = tmp_path / "train.txt"
    text_file.write_text("".join(f"__label__{r['label']} {r['text']}\n" for r in labelled(20)))
    data = fit(str(text_file), FastTextConfig(dim=2, buckets=10), 5, 0)
    check_whole(data)
    for length in [*range(0, len(data), 7), len(data) - 1]:
        with pytest.raises(ValueError, match="it "):
            check_whole(data[:length])
    with pytest.raises(ValueError, match="bytes long and says"):
        check_whole(data + b"x")


def test_a_quantized_model_that_others_made_is_whole():
    data = Path(bundled_model()).read_bytes()
    check_whole(data)
    for length in (100, 100_000, len(data) // 2, len(data) - 1):
        with pytest.raises(ValueError, match="it "):
            check_whole(data[:length])


def test_predictions_are_those_of_a_plain_reading_of_the_file(tmp_path, labelled):
    """Hidden = mean of the rows of words, word n-grams and character n-grams; softmax of output @ hidden."""
    text_file = tmp_path / "train.txt"
    text_file.write_text("".join(f"__label__{r['label']} {r['text']}\n" for r in labelled(200)))
    config = FastTextConfig(dim=5, buckets=50, word_ngrams=2, characters=(2, 3), min_count=1)
    path = tmp_path / "model.bin"
    path.write_bytes(fit(str(text_file), config, 5, 0))
    import fasttext

    model = fasttext.load_model(str(path))
    for line in ("the theorem of one casino", "unseen words only", "ünïcode deal", ""):
        labels, probabilities = model.predict(line, k=-1)
        expected = plain_reading(path.read_bytes(), line)
        assert dict(zip(labels, probabilities, strict=True)) == pytest.approx(expected, abs=2e-5)


def test_what_a_model_is_sure_of_is_not_all_the_same(tmp_path, labelled):
    """fastText adds 1e-5 to a probability: read as it is, all that lie some 11 nats away would be equal."""
    text_file = tmp_path / "train.txt"
    text_file.write_text("".join(f"__label__{r['label']} {r['text']}\n" for r in labelled(300, share=0.9)))
    path = tmp_path / "model.bin"
    path.write_bytes(fit(str(text_file), FastTextConfig(dim=8, buckets=50, learning_rate=2.0), 100, 0))
    labels = ["__label__bad", "__label__good"]
    model = Probabilities(str(path), "test")
    least = 1.0
    for line in (
        "cheap casino deal winner",
        "cheap casino the deal",
        "theorem of evidence",
        "theorem because evidence",
    ):
        expected = plain_reading(path.read_bytes(), line)
        assert model(line, labels) == pytest.approx([expected[label] for label in labels], rel=0.02, abs=1e-9)
        least = min(least, *expected.values())
    assert least < 1e-5


def fnv(word: bytes) -> int:
    """Dictionary::hash: FNV-1a, with bytes as signed characters."""
    h = 2166136261
    for byte in word:
        h = ((h ^ (byte | 0xFFFFFF00 if byte > 127 else byte)) * 16777619) & 0xFFFFFFFF
    return h


def plain_reading(data: bytes, line: str) -> dict[str, float]:
    _, _, _, _, _, _, _, ngrams, _, _, bucket, minn, maxn, _ = struct.unpack_from("<2i12i", data)
    place = 14 * 4 + 8
    size, nwords, nlabels, _, _ = struct.unpack_from("<3i2q", data, place)
    place += 3 * 4 + 2 * 8
    words: list[str] = []
    for _ in range(size):
        end = data.index(0, place)
        words.append(data[place:end].decode())
        place = end + 1 + 8 + 1
    place += 1
    rows, columns = struct.unpack_from("<2q", data, place)
    matrix = np.frombuffer(data, "<f4", rows * columns, place + 16).reshape(rows, columns)
    place += 16 + 4 * rows * columns + 1
    out_rows, _ = struct.unpack_from("<2q", data, place)
    output = np.frombuffer(data, "<f4", out_rows * columns, place + 16).reshape(out_rows, columns)
    index = {word: number for number, word in enumerate(words[:nwords])}
    found: list[int] = []
    hashes: list[int] = []
    for word in [*line.split(), "</s>"]:
        if word in index:
            found.append(index[word])
        if word != "</s>":
            marked = f"<{word}>"
            for begin in range(len(marked)):
                for length in range(max(minn, 1), maxn + 1):
                    gram = marked[begin : begin + length]
                    if len(gram) == length and not (length == 1 and (begin == 0 or begin + 1 == len(marked))):
                        found.append(nwords + fnv(gram.encode()) % bucket)
        hashes.append(np.int32(np.uint32(fnv(word.encode()))).item())
    for begin in range(len(hashes)):
        mixed = hashes[begin]
        for following in hashes[begin + 1 : begin + ngrams]:
            mixed = mixed * 116049371 + following
            found.append(nwords + (mixed % 2**64) % bucket)
    logits = output @ matrix[found].mean(0)
    powers = np.exp(logits - logits.max())
    return dict(zip(words[nwords:], (powers / powers.sum()).tolist(), strict=True))


@pytest.mark.peer
def test_fasttext_itself_predicts_the_same_bits(tmp_path, labelled):
    """fastText itself (its NumPy 2 build), in an environment of its own: its module has the same name as ours."""
    environment = tmp_path / "environment"
    subprocess.run([sys.executable, "-m", "venv", environment], check=True)
    python = environment / "bin" / "python"
    if subprocess.run([python, "-m", "pip", "install", "-q", "fasttext-numpy2-wheel"], timeout=600).returncode:
        pytest.skip("fasttext-numpy2-wheel cannot be installed here: nothing was compared with it")
    text_file = tmp_path / "train.txt"
    text_file.write_text("".join(f"__label__{r['label']} {r['text']}\n" for r in labelled(300)))
    path = tmp_path / "model.bin"
    path.write_bytes(fit(str(text_file), FastTextConfig(characters=(2, 4), buckets=5000), 5, 0))
    lines = [r["text"] for r in labelled(50)] + ["", "ünï", "unseen words only"]
    code = (
        "import fasttext, json, sys; m = fasttext.load_model(sys.argv[1]); "
        "print(json.dumps([m.f.predict(line + chr(10), -1, 0.0, 'strict') for line in json.loads(sys.stdin.read())]))"
    )
    answer = subprocess.run(
        [python, "-c", code, path], input=json.dumps(lines), capture_output=True, text=True, check=True
    )
    import fasttext

    ours = fasttext.load_model(str(path))
    assert [[list(pair) for pair in ours.f.predict(line + "\n", -1, 0.0, "strict")] for line in lines] == json.loads(
        answer.stdout
    )
