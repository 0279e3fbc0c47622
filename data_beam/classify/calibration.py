"""Are the probabilities true? Temperature scaling, reliability, and the threshold that training chooses.

Temperature (Guo et al. 2017, arXiv 1706.04599): one number per head, fitted where the model was not trained, so that it
cannot overfit a small set as isotonic regression does, and never changes which label comes first.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
SMALLEST = 1e-10  # what can be told from nothing in a float32 of fastText's
BINS = 10


def scaled(probabilities: Floats, temperature: float) -> Floats:
    """[texts, labels] softmax(log p / temperature)."""
    logits = np.log(np.maximum(probabilities, SMALLEST)) / temperature
    logits -= logits.max(axis=1, keepdims=True)
    powers = np.exp(logits)
    return powers / powers.sum(axis=1, keepdims=True)


def negative_log_likelihood(probabilities: Floats, labels: NDArray[np.int64]) -> float:
    """Nats a text. `labels`: [texts], the index of the true one."""
    return float(-np.log(np.maximum(probabilities[np.arange(len(labels)), labels], SMALLEST)).mean())


def fit_temperature(probabilities: Floats, labels: NDArray[np.int64]) -> float:
    """The temperature in [0.05, 20] of least negative log-likelihood, which is convex in 1 / temperature."""
    low, high = 1 / 20.0, 20.0
    for _ in range(60):  # golden section on 1 / temperature; an interval of 20 shrinks below 1e-10
        span = (high - low) * 0.6180339887498949
        left, right = high - span, low + span
        if negative_log_likelihood(scaled(probabilities, 1 / left), labels) <= negative_log_likelihood(
            scaled(probabilities, 1 / right), labels
        ):
            high = right
        else:
            low = left
    return round(2 / (low + high), 6)


def reliability(predicted: ArrayLike, happened: ArrayLike, bins: int = BINS) -> list[dict[str, Any]]:
    """Bins of equal width of a probability: how many fell in, their mean, and how often it happened."""
    predicted, happened = np.asarray(predicted, float), np.asarray(happened, float)
    places = np.minimum((predicted * bins).astype(int), bins - 1)
    rows = []
    for place in range(bins):
        inside = places == place
        count = int(inside.sum())
        rows.append(
            {
                "from": place / bins,
                "to": (place + 1) / bins,
                "count": count,
                "predicted": round(float(predicted[inside].mean()), 6) if count else None,
                "observed": round(float(happened[inside].mean()), 6) if count else None,
            }
        )
    return rows


def calibration_error(rows: list[dict[str, Any]]) -> float:
    """Expected calibration error: mean |predicted - observed| over bins, weighted by count."""
    total = sum(row["count"] for row in rows)
    gap = sum(row["count"] * abs(row["predicted"] - row["observed"]) for row in rows if row["count"])
    return gap / total if total else 0.0


def best_threshold(scores: ArrayLike, positive: ArrayLike) -> float | None:
    """The score at or above which calling a text positive has the best F1; the highest of equals.

    None when all are positive or none is: there is nothing to tell apart.
    """
    scores, positive = np.asarray(scores, float), np.asarray(positive, bool)
    if not positive.any() or positive.all():
        return None
    order = np.argsort(-scores, kind="stable")
    hits = np.cumsum(positive[order])
    called = np.arange(1, len(scores) + 1)
    f1 = 2 * hits / (called + positive.sum())
    ends = np.append(np.diff(scores[order]) != 0, True)  # equal scores are called together
    f1 = np.where(ends, f1, -1.0)
    return float(scores[order][int(np.argmax(f1))])
