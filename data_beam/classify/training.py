"""`train(config)`: labelled texts in; a model folder with its report out, whole or not at all.

A text's hash says whether it trains, calibrates or tests, and in which order: neither depends on the order of files,
and a text that occurs twice is on one side only. One thread, because fastText's threads race: the same data and seed
give the same bytes.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
import xxhash
from numpy.typing import NDArray

from data_beam.classify.calibration import best_threshold, fit_temperature, negative_log_likelihood, scaled
from data_beam.classify.classifier import MODEL
from data_beam.classify.evaluation import evaluate
from data_beam.classify.examples import Example, read_examples
from data_beam.classify.fasttext_format import to_fasttext
from data_beam.classify.fasttext_model import Head, Probabilities, description_of, fasttext_label
from data_beam.classify.report import render
from data_beam.classify.text import line_of
from data_beam.io.files import matching
from data_beam.output import Output, read_json, write_bytes
from maxllm.config.classify import ClassifierTrainConfig, FastTextConfig, HeadConfig
from maxllm.config.errors import UserError

logger = logging.getLogger("maxllm.progress")
# What a few hundred texts need before fastText tells them apart at all; a few 10,000 have it after 5 epochs.
STEPS = 25_000
TRAIN, CALIBRATE, TEST = "train", "calibrate", "test"


class Split(NamedTuple):
    """What does not train: lines as the model reads them, and the index of each one's label; its number, with bins."""

    lines: list[str]
    truth: NDArray[np.int64]
    numbers: NDArray[np.float64]


class Prepared(NamedTuple):
    file: str  # fastText's training file
    labels: list[str]
    values: list[float] | None
    counts: dict[str, dict[str, int]]  # split -> label -> texts
    calibrate: Split
    test: Split


def train(config: ClassifierTrainConfig, *, force: bool = False) -> dict[str, Any]:
    """The content of `report.json`. Does nothing when the output already is this config's. Raises UserError."""
    if not config.heads:
        raise UserError("heads is empty; name what to predict and its labelled files, e.g. classify/quality")
    output = Output(config.output, fingerprint(config))
    finished = output.finished()
    if finished == output.fingerprint and not force:
        logger.info("classifier: %s is finished and the config is the same: nothing to do", config.output)
        return read_json(output.join("report.json"))
    if finished and not force:
        raise UserError(
            f"output: {config.output} holds a model of another config or other data; give another output, or --force"
        )
    started = time.monotonic()
    heads, files, reports = [], {}, {}
    with tempfile.TemporaryDirectory(prefix="maxllm-classifier-") as folder:
        for name, head_config in config.heads.items():
            head, data, reports[name] = train_head(name, head_config, config, folder)
            heads.append(head)
            files[head.file] = data
    description = description_of(heads, files)
    report = {
        "fingerprint": output.fingerprint,
        "model": description["fingerprint"],
        "seed": config.seed,
        "seconds": round(time.monotonic() - started, 1),
        "bytes": sum(map(len, files.values())),
        "heads": reports,
        "config": config.model_dump(mode="json"),
    }
    written = {
        **files,
        MODEL: json.dumps(description, indent=1, ensure_ascii=False).encode(),
        "report.json": json.dumps(report, indent=1, ensure_ascii=False).encode(),
        "report.html": render(report).encode(),
    }
    run = output.new_run()
    for file, data in written.items():
        write_bytes(f"{run}/{file}", data)
    output.commit({file: f"{run}/{file}" for file in written}, ())
    return report


def fingerprint(config: ClassifierTrainConfig) -> str:
    """Of the config without the output's place, and of the data's paths, sizes and times."""
    tree = config.model_dump(mode="json", exclude={"output"})
    paths = [path for head in config.heads.values() for files in head.data for path in files.paths]
    seen = [f"{file.path} {file.size} {file.written}" for file in matching(paths)]
    return hashlib.sha256(json.dumps([tree, seen], sort_keys=True).encode()).hexdigest()


def train_head(
    name: str, head_config: HeadConfig, config: ClassifierTrainConfig, folder: str
) -> tuple[Head, bytes, dict[str, Any]]:
    """One head, its model file's bytes, and its report."""
    setting = f"heads.{name}"
    prepared = prepare(name, head_config, config, folder)
    total = sum(prepared.counts[TRAIN].values())
    epochs = config.fasttext.epochs or min(max(-(-STEPS // total), 5), 100)
    logger.info(
        "classifier: %s: %s texts to train on, %s labels, %s epochs",
        name,
        f"{total:,}",
        len(prepared.labels),
        epochs,
    )
    path = os.path.join(folder, f"{name}.bin")
    data = fit(prepared.file, config.fasttext, epochs, config.seed)
    with open(path, "wb") as file:
        file.write(data)
    model = Probabilities(path, setting)
    names = [fasttext_label(label) for label in prepared.labels]

    def probabilities(split: Split) -> NDArray[np.float64]:
        return np.array([model(line, names) for line in split.lines]).reshape(-1, len(names))

    head = Head(name, f"{name}.bin", prepared.labels, head_config.positive, prepared.values)
    raw = probabilities(prepared.calibrate)
    temperature = fit_temperature(raw, prepared.calibrate.truth) if len(raw) else 1.0
    head = Head(name, head.file, head.labels, head.positive, head.values, temperature)
    threshold = _threshold(head, head_config, scaled(raw, temperature), prepared.calibrate)
    head = Head(name, head.file, head.labels, head.positive, head.values, temperature, threshold)

    raw = probabilities(prepared.test)
    report: dict[str, Any] = {
        "labels": prepared.labels,
        "positive": head.positive,
        "values": head.values,
        "positive_from": head_config.positive_from,
        "counts": prepared.counts,
        "epochs": epochs,
        "temperature": temperature,
        "threshold": threshold,
        "bytes": len(data),
    }
    if len(raw):
        truth = prepared.test.truth
        report["test"] = evaluate(
            head, scaled(raw, temperature), truth, prepared.test.numbers, head_config.positive_from
        )
        report["test"]["log_loss"] = negative_log_likelihood(scaled(raw, temperature), truth)
        report["test"]["log_loss_uncalibrated"] = negative_log_likelihood(raw, truth)
        report["uncalibrated"] = {
            key: value
            for key, value in evaluate(head, raw, truth, prepared.test.numbers, head_config.positive_from).items()
            if key in ("reliability", "calibration_error")
        }
    return head, data, report


def _threshold(head: Head, config: HeadConfig, probabilities: NDArray[np.float64], split: Split) -> float | None:
    """The score of best F1 on the texts that calibrate."""
    if not len(probabilities):
        return None
    scores = [head.scores(row).get(head.name, 0.0) for row in probabilities]
    if head.positive is not None:
        return best_threshold(scores, split.truth == head.labels.index(head.positive))
    if config.positive_from is not None:
        return best_threshold(scores, split.numbers >= config.positive_from)
    return None


# Data -------------------------------------------------------------------------------------------


def prepare(name: str, head: HeadConfig, config: ClassifierTrainConfig, folder: str) -> Prepared:
    """Splits the texts, writes those that train as fastText wants them, in the order of their hashes."""
    setting = f"heads.{name}.data"
    spool = os.path.join(folder, f"{name}.spool")
    place: list[tuple[int, str, int, int]] = []  # hash, label, offset and length in the spool: texts stay on disk
    counts: dict[str, Counter[str]] = {TRAIN: Counter(), CALIBRATE: Counter(), TEST: Counter()}
    sums: dict[str, list[float]] = {}  # bin -> sum of the numbers that train, and how many
    kept: dict[str, list[tuple[int, str, str, float]]] = {CALIBRATE: [], TEST: []}
    with open(spool, "wb") as file:
        for label, number, line in _labelled(_examples(head, setting), head, setting):
            key = xxhash.xxh3_64_intdigest(f"{config.seed}\0{line}".encode())
            side = _side(key / 2**64, config)
            counts[side][label] += 1
            if side == TRAIN:
                data = f"{fasttext_label(label)} {line}\n".encode()
                place.append((key, label, file.tell(), len(data)))
                file.write(data)
                total = sums.setdefault(label, [0.0, 0])
                total[0] += number
                total[1] += 1
            else:
                kept[side].append((key, line, label, number))
    labels = _labels(head, counts, setting)
    place.sort()
    path = os.path.join(folder, f"{name}.txt")
    with open(spool, "rb") as source, open(path, "wb") as target:
        for _, _, offset, length in place:
            source.seek(offset)
            target.write(source.read(length))
    os.remove(spool)
    index = {label: number for number, label in enumerate(labels)}

    def split(side: str) -> Split:
        rows = sorted(kept[side])
        known = [row for row in rows if row[2] in index]
        return Split(
            [row[1] for row in known],
            np.array([index[row[2]] for row in known], np.int64),
            np.array([row[3] for row in known], np.float64),
        )

    values = [sums[label][0] / sums[label][1] for label in labels] if head.bins else None
    return Prepared(
        path,
        labels,
        values,
        {side: {label: count[label] for label in labels} for side, count in counts.items()},
        split(CALIBRATE),
        split(TEST),
    )


def _examples(head: HeadConfig, setting: str) -> Iterable[Example]:
    for number, files in enumerate(head.data):
        yield from read_examples(files, f"{setting}.{number}")


def _labelled(examples: Iterable[Example], head: HeadConfig, setting: str) -> Iterable[tuple[str, float, str]]:
    """(label or bin, number, line)"""
    for text, label in examples:
        number = 0.0
        if head.bins:
            try:
                number = float(label)
            except ValueError:
                raise UserError(f"{setting}: the label {label!r} is not a number, which bins needs") from None
            label = f"bin{int(np.searchsorted(head.bins, number, side='right'))}"
        elif head.labels and label not in head.labels:
            raise UserError(f"{setting}: the label {label!r} is none of heads.*.labels {head.labels}; add or mend it")
        if line := line_of(text):
            yield label, number, line


def _side(fraction: float, config: ClassifierTrainConfig) -> str:
    if fraction < config.test_fraction:
        return TEST
    return CALIBRATE if fraction < config.test_fraction + config.calibration_fraction else TRAIN


def _labels(head: HeadConfig, counts: dict[str, Counter[str]], setting: str) -> list[str]:
    """Those that can be learned, in the order given, else sorted; bins in the order of their numbers."""
    found = set(counts[TRAIN])
    labels = (
        [label for label in head.labels if label in found]
        if head.labels
        else sorted(found, key=lambda label: (len(label), label) if head.bins else (0, label))
    )
    if len(labels) < 2:
        raise UserError(f"{setting}: {len(labels)} label to train on ({', '.join(labels)}); at least two are needed")
    if head.positive is not None and head.positive not in labels:
        raise UserError(f"{setting}: no text with the positive label {head.positive!r}; there are {labels}")
    words = [fasttext_label(label) for label in labels]
    if len(set(words)) < len(words):
        raise UserError(f"{setting}: two of the labels {labels} differ in white space only; rename one")
    return labels


# fastText ---------------------------------------------------------------------------------------


def fit(file: str, config: FastTextConfig, epochs: int, seed: int) -> bytes:
    """A model in fastText's own format, trained on `file`. The same bytes for the same file, settings and seed."""
    try:
        import floret
    except ImportError:
        raise UserError(
            "training needs floret; install maxllm[classifier], on Python 3.11 or 3.12 (using a model does not)"
        ) from None
    shortest, longest = config.characters or (0, 0)
    try:
        model = floret.train_supervised(
            input=file,
            mode="fasttext",
            dim=config.dim,
            epoch=epochs,
            lr=config.learning_rate,
            wordNgrams=config.word_ngrams,
            minCount=config.min_count,
            minn=shortest,
            maxn=longest,
            bucket=config.buckets if config.word_ngrams > 1 or longest else 0,
            loss="softmax",
            thread=1,
            seed=seed,
            verbose=2 if sys.stderr.isatty() else 0,
        )
    except (ValueError, RuntimeError) as error:
        raise UserError(f"fasttext: training failed: {error}") from None
    path = f"{file}.model"
    model.save_model(path)
    with open(path, "rb") as stream:
        data = stream.read()
    os.remove(path)
    return to_fasttext(data)
