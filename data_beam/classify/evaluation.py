"""How good a head is on texts with known labels: what the report and `maxllm classifier evaluate` show."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_beam.classify.calibration import calibration_error, reliability
from data_beam.classify.classifier import Classifier
from data_beam.classify.examples import batches
from data_beam.classify.fasttext_model import FastTextModel, Head
from data_beam.classify.metrics import binary, classification, regression, roc_auc
from maxllm.config.classify import LabelledFiles
from maxllm.config.errors import UserError

BATCH = 256
SWEEP = 9  # thresholds between the least and the greatest


def evaluate(
    head: Head,
    probabilities: NDArray[np.float64],
    truth: NDArray[np.int64],
    numbers: NDArray[np.float64],
    positive_from: float | None = None,
) -> dict[str, Any]:
    """`probabilities` [texts, labels], `truth` [texts] indices of labels, `numbers` [texts] what bins were made of."""
    report = classification(probabilities, truth, head.labels)
    scores = np.array([head.scores(row).get(head.name, 0.0) for row in probabilities])
    positive = None
    if head.positive is not None:
        positive = truth == head.labels.index(head.positive)
        report["reliability"] = reliability(scores, positive)
    else:
        # Of the label said: how often was it right?
        report["reliability"] = reliability(probabilities.max(axis=1), probabilities.argmax(axis=1) == truth)
    if head.values is not None:
        report["regression"] = regression(scores, numbers)
        if positive_from is not None:
            positive = numbers >= positive_from
    report["calibration_error"] = calibration_error(report["reliability"])
    if positive is not None:
        report["roc_auc"] = roc_auc(scores, positive)
        report["sweep"] = sweep(scores, positive)
        if head.threshold is not None:
            report["at_threshold"] = binary(scores >= head.threshold, positive)
    return report


def sweep(scores: NDArray[np.float64], positive: NDArray[np.bool_]) -> list[dict[str, float]]:
    """What thresholds between the least and the greatest score would give."""
    low, high = float(scores.min()), float(scores.max())
    places = sorted({round(low + (high - low) * step / (SWEEP + 1), 3) for step in range(1, SWEEP + 1)})
    return [{"threshold": place, **binary(scores >= place, positive)} for place in places]


def evaluate_files(model: Classifier, files: LabelledFiles, head: str | None, positive: str | None) -> dict[str, Any]:
    """Figures of one of a model's heads on labelled files; `positive`: the label that a lone score speaks for.

    Raises UserError.
    """
    heads = {each.name: each for each in model.heads} if isinstance(model, FastTextModel) else {}
    if heads and (head not in heads if head is not None else len(heads) > 1):
        raise UserError(f"--head: {head!r} is none of the model's heads; give one of {', '.join(heads)}")
    chosen = heads[head or next(iter(heads))] if heads else None
    names = [f"{chosen.name}.{label}" for label in chosen.labels] if chosen and chosen.values is None else []
    labels = chosen.labels if names else [] if chosen or len(model.keys) == 1 else list(model.keys)
    rows: list[list[float]] = []
    said: list[str] = []
    for examples in batches(files, "FILE", BATCH):
        for scores, example in zip(model.score([each.text for each in examples]), examples, strict=True):
            rows.append([scores[name] for name in (names or labels or [chosen.name if chosen else model.keys[0]])])
            said.append(example.label)
    if not said:
        raise UserError("FILE: there is no text in it")
    if labels:
        if unknown := sorted(set(said) - set(labels)):
            raise UserError(f"FILE: the label {unknown[0]!r} is none of the model's: {', '.join(labels)}")
        truth = np.array([labels.index(label) for label in said])
        probabilities = np.array(rows)
        if chosen:
            return evaluate(chosen, probabilities, truth, np.zeros(len(said)))
        return classification(probabilities, truth, labels)
    lone = np.array(rows)[:, 0]
    if positive is not None:
        return {"texts": len(said), "roc_auc": roc_auc(lone, [label == positive for label in said])}
    try:
        return regression(lone, [float(label) for label in said])
    except ValueError:
        raise UserError(
            "FILE: the labels are no numbers; say by --positive which one a high score speaks for"
        ) from None
