"""`keep_fraction`: the best share of a whole run, by scores that were stored before."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import apache_beam as beam

from data_beam.document import Document, Drop
from data_beam.quantiles import Quantiles
from data_beam.stages.classify import NAME, score_of
from maxllm.config.classify import ClassifierConfig, ScoreRule


def has_fractions(classifiers: Sequence[ClassifierConfig]) -> bool:
    return any(rule.keep_fraction is not None for config in classifiers for rule in config.rules.values())


class TopFractions(beam.PTransform):
    """Documents -> (id, Drop) of those below the quantile that keeps each rule's share.

    Of n documents at least keep_fraction * n stay: those that score the same as the last one kept stay too, so that the
    verdict depends on scores alone. Documents without the score (source code) are in no ranking. Scores are compared as
    the float32 nearest to them. A document that several rules drop has several verdicts.
    """

    def __init__(self, classifiers: Sequence[ClassifierConfig]) -> None:
        super().__init__()
        self.rules = [
            (config, key, rule)
            for config in classifiers
            for key, rule in config.rules.items()
            if rule.keep_fraction is not None
        ]

    def expand(self, documents: beam.PCollection[Document]) -> beam.PCollection[tuple[str, Drop]]:
        verdicts = []
        for number, (config, key, rule) in enumerate(self.rules):
            label = f"{config.name}.{key} {number}"
            scores = (
                documents
                | f"scores of {label}" >> beam.FlatMap(_scored, config, key, rule)
                | f"keep {label}"
                >> beam.Reshuffle()  # text stays behind: (ranking, (id, score)) is all that is read twice
            )
            fraction = round(1 - rule.keep_fraction, 12)  # 1 - 0.9 is 0.09999999999999998
            limits = scores | f"numbers of {label}" >> beam.Map(_number) | f"limits of {label}" >> Quantiles([fraction])
            verdicts.append(
                scores
                | f"verdicts of {label}" >> beam.FlatMap(_below, _reason(config, key), beam.pvalue.AsDict(limits))
            )
        return verdicts | "all fractions" >> beam.Flatten()


def _reason(config: ClassifierConfig, key: str) -> str:
    middle = config.name if key == "score" else f"{config.name}.{key}"
    return f"{NAME}.{middle}.keep_fraction"


def _scored(
    document: Document, config: ClassifierConfig, key: str, rule: ScoreRule
) -> Iterator[tuple[str, tuple[str, float]]]:
    if (score := score_of(document, config, key)) is not None:
        language = document.metadata.get("language") or "" if rule.per_language else ""
        yield str(language), (document.id, score)


def _number(item: tuple[str, tuple[str, float]]) -> tuple[str, float]:
    return item[0], item[1][1]


def _below(
    item: tuple[str, tuple[str, float]], reason: str, limits: dict[str, list[float]]
) -> Iterator[tuple[str, Any]]:
    import numpy as np

    ranking, (identity, score) = item
    if float(np.float32(score)) < limits[ranking][0]:
        yield identity, Drop(reason, score)
