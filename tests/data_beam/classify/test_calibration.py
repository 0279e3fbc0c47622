"""Probabilities made true, and the figures that show it, against values worked out by hand and scikit-learn's."""

import numpy as np
import pytest

from data_beam.classify.calibration import (
    best_threshold,
    calibration_error,
    fit_temperature,
    negative_log_likelihood,
    reliability,
    scaled,
)
from data_beam.classify.metrics import binary, classification, regression, roc_auc


def drawn(temperature: float, count: int = 20_000) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities that are too sure by `temperature`, and labels drawn from the true ones."""
    random = np.random.default_rng(0)
    logits = random.normal(size=(count, 3))
    true = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    labels = (true.cumsum(1) < random.random((count, 1))).sum(1).clip(0, 2)
    too_sure = np.exp(logits * temperature)
    return too_sure / too_sure.sum(1, keepdims=True), labels


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_the_temperature_that_made_them_too_sure_is_found(temperature):
    probabilities, labels = drawn(temperature)
    assert fit_temperature(probabilities, labels) == pytest.approx(temperature, rel=0.05)


def test_the_temperature_is_the_best_of_a_grid():
    probabilities, labels = drawn(2.0, 500)
    grid = min(np.arange(0.1, 10, 0.01), key=lambda t: negative_log_likelihood(scaled(probabilities, t), labels))
    assert fit_temperature(probabilities, labels) == pytest.approx(grid, abs=0.011)


def test_scaling_keeps_the_order_and_the_sum_and_does_nothing_at_one():
    probabilities, _ = drawn(1.0, 100)
    hot = scaled(probabilities, 4.0)
    assert (hot.argsort(1) == probabilities.argsort(1)).all() and np.allclose(hot.sum(1), 1)
    assert np.allclose(scaled(probabilities, 1.0), probabilities)
    assert np.isfinite(scaled(np.array([[1.0, 0.0]]), 0.05)).all()


def test_reliability_by_hand():
    rows = reliability([0.1, 0.15, 0.95, 1.0, 0.5], [0, 1, 1, 1, 0])
    assert rows[1] == {"from": 0.1, "to": 0.2, "count": 2, "predicted": 0.125, "observed": 0.5}
    assert rows[9]["count"] == 2 and rows[9]["predicted"] == pytest.approx(0.975)
    assert rows[0] == {"from": 0.0, "to": 0.1, "count": 0, "predicted": None, "observed": None}
    assert calibration_error(rows) == pytest.approx((2 * 0.375 + 2 * 0.025 + 1 * 0.5) / 5)
    assert calibration_error([]) == 0


def test_the_threshold_of_best_f1_by_trying_all():
    random = np.random.default_rng(1)
    scores, positive = random.random(200).round(2), random.random(200) < 0.3
    tried = {t: binary(scores >= t, positive)["f1"] for t in set(scores.tolist())}
    best = max(tried.values())
    assert best_threshold(scores, positive) == max(t for t, f1 in tried.items() if f1 == pytest.approx(best))


def test_no_threshold_where_there_is_nothing_to_tell_apart():
    assert best_threshold([0.1, 0.2], [True, True]) is None
    assert best_threshold([0.1, 0.2], [False, False]) is None
    assert best_threshold([], []) is None


@pytest.mark.peer
def test_figures_against_scikit_learn():
    sklearn = pytest.importorskip(
        "sklearn.metrics", reason="scikit-learn is absent: figures were not compared with its"
    )
    random = np.random.default_rng(2)
    truth, probabilities = random.integers(0, 3, 300), random.dirichlet([1, 1, 1], 300).round(1)
    found = classification(probabilities, truth, ["a", "b", "c"])
    called = probabilities.argmax(1)
    assert found["accuracy"] == pytest.approx(sklearn.accuracy_score(truth, called))
    assert found["macro_f1"] == pytest.approx(sklearn.f1_score(truth, called, average="macro"))
    assert found["confusion"] == sklearn.confusion_matrix(truth, called).tolist()
    precision, recall, f1, support = sklearn.precision_recall_fscore_support(truth, called)
    for index, row in enumerate(found["labels"].values()):
        assert row["precision"] == pytest.approx(precision[index]) and row["recall"] == pytest.approx(recall[index])
        assert row["f1"] == pytest.approx(f1[index]) and row["texts"] == support[index]
        assert row["roc_auc"] == pytest.approx(sklearn.roc_auc_score(truth == index, probabilities[:, index]))


def test_figures_by_hand():
    assert roc_auc([0.1, 0.4, 0.35, 0.8], [0, 0, 1, 1]) == 0.75
    assert roc_auc([0.5, 0.5], [0, 1]) == 0.5
    assert roc_auc([0.5, 0.6], [1, 1]) is None
    assert binary([1, 1, 0, 0], [1, 0, 1, 0]) == {"precision": 0.5, "recall": 0.5, "f1": 0.5, "called": 0.5}
    assert binary([0, 0], [0, 0])["f1"] == 0
    figures = regression([1.0, 2.0, 3.0], [1.0, 2.0, 5.0])
    assert figures["mean_absolute_error"] == pytest.approx(2 / 3)
    assert figures["root_mean_squared_error"] == pytest.approx((4 / 3) ** 0.5)
    assert figures["correlation"] == pytest.approx(0.960769, abs=1e-6)
    assert regression([1.0, 1.0], [1.0, 2.0])["correlation"] is None
