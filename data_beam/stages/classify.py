"""Model-based quality: every classifier's scores written into the document, and the bounds set on them.

Scores are measured once (`measure`) and decided by alone (`decide`), so that a threshold can be changed without the
model being asked again. `metadata.scores.NAME` is a number, or one for each head of a model with several; a head that
tells classes apart also leaves the likeliest in `metadata.labels.NAME`, of the same shape. A share of the whole run
(`keep_fraction`) is not this stage's to decide: see data_beam.classify.top_fraction.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from data_beam.classify.classifier import Classifier, load_classifier
from data_beam.document import Document, Drop
from data_beam.stages.stage import store, stored
from maxllm.config.classify import ClassifierConfig
from maxllm.config.errors import UserError

NAME = "classifiers"


def signal_key(config: ClassifierConfig) -> str:
    return f"{NAME}.{config.name}"


def score_of(document: Document, config: ClassifierConfig, key: str) -> float | None:
    """A score that was measured, whichever version of the model did; None when the document has none."""
    values = (document.metadata.get("signals") or {}).get(signal_key(config))
    if isinstance(values, dict) and key in values:
        return values[key]
    scores = document.metadata.get("scores", {}).get(config.name)
    value = scores.get(key) if isinstance(scores, dict) else scores
    return value if isinstance(value, int | float) else None


class Classify:
    """Source code passes as it is: these models are of prose."""

    name = NAME

    def __init__(self, configs: Sequence[ClassifierConfig]) -> None:
        names = [config.name for config in configs]
        if repeated := sorted({name for name in names if names.count(name) > 1}):
            raise UserError(f"classifiers: two are called {repeated[0]}; scores are kept by name: give each its own")
        self.models = [(config, load_classifier(config)) for config in configs]
        for config, model in self.models:
            if unknown := sorted(set(config.rules) - set(model.keys)):
                known = ", ".join(model.keys[:30])
                raise UserError(
                    f"classifiers.{config.name}.rules: {unknown[0]} is no score of the model; it has {known}"
                )

    def __call__(self, document: Document) -> Document | Drop:
        return self.decide(self.measure(document))

    def measure(self, document: Document) -> Document:
        return self.measure_batch([document])[0]

    def measure_batch(self, documents: Iterable[Document]) -> list[Document]:
        """The same for many at once, which a model on an accelerator is faster at."""
        measured = list(documents)
        for config, model in self.models:
            key = signal_key(config)
            missing = [
                place
                for place, document in enumerate(measured)
                if not is_code(document) and stored(document, key, model.version) is None
            ]
            if not missing:
                continue
            found = model.score([measured[place].text for place in missing])
            for place, scores in zip(missing, found, strict=True):
                measured[place] = store(measured[place], key, model.version, scores)
        return measured

    def decide(self, document: Document) -> Document | Drop:
        if is_code(document):
            return document
        all_scores = dict(document.metadata.get("scores", {}))
        all_labels = dict(document.metadata.get("labels", {}))
        for config, model in self.models:
            scores = stored(document, signal_key(config), model.version)
            if scores is None:
                raise LookupError(f"the scores of {config.name} were not measured by this version of the model")
            for key, rule in config.rules.items():
                if (bound := rule.failed(scores[key])) is not None:
                    where = f"{NAME}.{config.name}" if len(model.keys) == 1 else f"{NAME}.{config.name}.{key}"
                    return Drop(f"{where}.{bound}", scores[key])
            own, labels = summary(model, scores)
            all_scores[config.name] = own
            if labels is not None:
                all_labels[config.name] = labels
        metadata: dict[str, Any] = {"scores": all_scores}
        if all_labels:
            metadata["labels"] = all_labels
        return document.with_text(document.text, **metadata)


def is_code(document: Document) -> bool:
    return document.metadata.get("content_type") == "code"


def summary(model: Classifier, scores: dict[str, Any]) -> tuple[Any, Any]:
    """(a number or one for each head, the likeliest label or one for each head with labels)

    A head of classes without a score of its own shows the probability of its likeliest.
    """
    heads: dict[str, float] = {}
    labels: dict[str, str] = {}
    parts = {f"{head}.{label}" for head, names in model.labels.items() for label in names}
    for head, names in model.labels.items():
        labels[head] = max(names, key=lambda label: scores[f"{head}.{label}"])
        heads[head] = scores[f"{head}.{labels[head]}"]
    heads |= {key: scores[key] for key in model.keys if key not in parts}
    only = len(heads) == 1
    return (
        next(iter(heads.values())) if only else heads,
        (next(iter(labels.values())) if only else labels) if labels else None,
    )
