"""The best share of a run, as sorting all scores would give it, however the run was divided."""

import random

import apache_beam as beam
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.testing.util import assert_that, equal_to

from data_beam.classify.top_fraction import TopFractions, has_fractions
from data_beam.document import Document, Drop
from maxllm.config.classify import ClassifierConfig


def classifier(**rule) -> ClassifierConfig:
    return ClassifierConfig.model_validate({"name": "edu", "model": "unused", "rules": {"score": rule}})


def documents(scores: list[float], languages: list[str] | None = None) -> list[Document]:
    return [
        Document(
            str(i), "", "s", "2024", metadata={"scores": {"edu": score}, "language": (languages or ["en"])[i % 2 - 1]}
        )
        for i, score in enumerate(scores)
    ]


def check(found: list[Document], configs: list[ClassifierConfig], expected: list[tuple[str, Drop]]) -> None:
    with beam.Pipeline(runner=FnApiRunner()) as pipeline:
        assert_that(pipeline | beam.Create(found) | TopFractions(configs), equal_to(expected))


def test_the_highest_scores_stay_with_ties(fraction=0.25):
    scores = [round(random.Random(0).random() * 7 + i % 5) / 8 for i in range(40)]
    ranked = sorted(scores)
    limit = ranked[min(int(round((1 - fraction) * 40, 9)), 39)]
    expected = [(str(i), Drop("classifiers.edu.keep_fraction", s)) for i, s in enumerate(scores) if s < limit]
    assert 40 - len(expected) >= fraction * 40
    check(documents(scores), [classifier(keep_fraction=fraction)], expected)


def test_of_distinct_scores_exactly_the_share_stays_and_what_has_none_is_not_ranked():
    scores = [i / 100 for i in range(100)]
    expected = [(str(i), Drop("classifiers.edu.keep_fraction", i / 100)) for i in range(90)]
    code = Document("code", "", "s", "2024", metadata={"content_type": "code"})
    check([*documents(scores), code], [classifier(keep_fraction=0.1)], expected)


def test_a_share_of_each_language():
    scores = [0.0, 0.5, 0.1, 0.6, 0.2, 0.7, 0.3, 0.8]
    found = documents(scores, ["en", "de"])
    worst = [(str(i), Drop("classifiers.edu.keep_fraction", scores[i])) for i in (0, 1, 2, 3)]
    check(found, [classifier(keep_fraction=0.5, per_language=True)], worst)


def test_stored_signals_serve_as_well_as_the_scores_written_down():
    found = [
        Document(
            str(i), "", "s", "2024", metadata={"signals": {"classifiers.edu": {"version": "1", "score": float(i)}}}
        )
        for i in range(4)
    ]
    expected = [(str(i), Drop("classifiers.edu.keep_fraction", float(i))) for i in range(3)]
    check(found, [classifier(keep_fraction=0.25)], expected)


def test_a_config_says_whether_there_is_anything_to_do():
    assert has_fractions([classifier(above=1), classifier(keep_fraction=0.1)])
    assert not has_fractions([classifier(above=1)])
