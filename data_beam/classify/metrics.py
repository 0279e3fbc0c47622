"""Figures of merit on held-out texts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray


def roc_auc(scores: ArrayLike, positive: ArrayLike) -> float | None:
    """P(a positive's score > a negative's), ties half (Mann-Whitney U). None when one of the two is missing."""
    scores, positive = np.asarray(scores, float), np.asarray(positive, bool)
    positives = int(positive.sum())
    negatives = len(positive) - positives
    if not positives or not negatives:
        return None
    _, inverse, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[inverse]  # from 1; of equals, their mean
    return float((ranks[positive].sum() - positives * (positives + 1) / 2) / (positives * negatives))


def binary(called: ArrayLike, positive: ArrayLike) -> dict[str, float]:
    called, positive = np.asarray(called, bool), np.asarray(positive, bool)
    hits = int((called & positive).sum())
    precision = hits / max(int(called.sum()), 1)
    recall = hits / max(int(positive.sum()), 1)
    return {
        "precision": precision,
        "recall": recall,
        "f1": 2 * precision * recall / max(precision + recall, 1e-12),
        "called": int(called.sum()) / max(len(called), 1),
    }


def classification(
    probabilities: NDArray[np.float64], truth: NDArray[np.int64], labels: Sequence[str]
) -> dict[str, Any]:
    """[texts, labels] probabilities against [texts] indices: accuracy, macro F1 over labels, and each label's own."""
    called = probabilities.argmax(axis=1)
    per_label = {}
    for index, label in enumerate(labels):
        figures = binary(called == index, truth == index)
        figures.pop("called")
        auc = roc_auc(probabilities[:, index], truth == index)
        per_label[label] = {"texts": int((truth == index).sum()), **figures, "roc_auc": auc}
    confusion = np.zeros((len(labels), len(labels)), int)
    np.add.at(confusion, (truth, called), 1)
    return {
        "texts": len(truth),
        "accuracy": float((called == truth).mean()) if len(truth) else None,
        "macro_f1": float(np.mean([row["f1"] for row in per_label.values()])),
        "labels": per_label,
        "confusion": confusion.tolist(),  # rows: the truth; columns: what was said
    }


def regression(scores: ArrayLike, truth: ArrayLike) -> dict[str, Any]:
    scores, truth = np.asarray(scores, float), np.asarray(truth, float)
    if not len(truth):
        return {"texts": 0}
    varied = scores.std() > 0 and truth.std() > 0
    return {
        "texts": len(truth),
        "mean_absolute_error": float(np.abs(scores - truth).mean()),
        "root_mean_squared_error": float(np.sqrt(((scores - truth) ** 2).mean())),
        "correlation": float(np.corrcoef(scores, truth)[0, 1]) if varied else None,
    }
