"""Perplexity under an n-gram model, as CCNet measures and uses it (Wenzek et al. 2020, arXiv 1911.00359, section 3.3).

    perplexity = 10 ^ (-(sum over lines of log10 p(line </s> | <s>)) / (words + lines))

rounded to a tenth, as there. Perplexities of different models, languages or tokenizers cannot be compared: a threshold
belongs to a model, shares (head, middle, tail) to a language.
"""

from __future__ import annotations

from collections.abc import Iterator

import apache_beam as beam
import numpy as np

from data_beam.document import Document, Drop, Edit
from data_beam.ngram.model import Model, load_model
from data_beam.quantiles import Quantiles
from data_beam.stages.stage import store, stored
from maxllm.config.errors import UserError
from maxllm.config.perplexity import PerplexityConfig, PreparationConfig

VERSION = 1
ANY = "*"
LARGEST = 300.0  # log10; a perplexity is a number that JSON holds


class Perplexity:
    """Writes `perplexity` and drops documents above the threshold.

    The model is that of the document's language, else the one for "*". A document without a model, without a word, or
    of source code passes as it is.
    """

    name = "perplexity"

    def __init__(self, config: PerplexityConfig) -> None:
        self.config = config
        self.models = {
            language: load_model(path, _preparation_of(config.preparation, language))
            for language, path in config.models.items()
        }

    def __call__(self, document: Document) -> Document | Drop:
        return self.decide(self.measure(document))

    def measure(self, document: Document) -> Document:
        model = self._model(document)
        if model is None or stored(document, self.name, _version(model)) is not None:
            return document
        log10, words = model.log10(document.text)
        return store(document, self.name, _version(model), {"log10": round(log10, 4), "words": words})

    def decide(self, document: Document) -> Document | Drop:
        model = self._model(document)
        values = model and stored(document, self.name, _version(model))
        if not values or not values["words"]:
            return document
        perplexity = 10 ** min(-values["log10"] / values["words"], LARGEST)
        if self.config.max_perplexity is not None and perplexity > self.config.max_perplexity:
            return Drop("perplexity.too_high", round(perplexity, 1))
        return document.with_text(document.text, perplexity=round(perplexity, 1))

    def _model(self, document: Document) -> Model | None:
        if document.metadata.get("content_type") == "code":
            return None
        return self.models.get(document.metadata.get("language", ANY)) or self.models.get(ANY)


def _version(model: Model) -> str:
    return f"{VERSION}-{model.fingerprint}"


def _preparation_of(config: PreparationConfig | None, language: str) -> PreparationConfig | None:
    if config is None or config.tokenizer is None or "{language}" not in config.tokenizer:
        return config
    if language == ANY:
        raise UserError("perplexity.preparation.tokenizer: {language} stands for none in the model of '*'; give a path")
    tokenizer = config.tokenizer.replace("{language}", language)
    return PreparationConfig(normalisation=config.normalisation, tokenizer=tokenizer)


class PerplexityBuckets(beam.PTransform):
    """Documents -> (id, Edit that marks head, middle or tail within its language, or the Drop of an unwanted bucket).

    head: perplexity below the `head` quantile; middle: below the 1 - `tail` quantile; tail: the others.
    """

    def __init__(self, config: PerplexityConfig) -> None:
        super().__init__()
        self.config = config

    def expand(self, documents: beam.PCollection[Document]) -> beam.PCollection[tuple[str, Drop | Edit]]:
        scored = documents | "Perplexities" >> beam.FlatMap(_perplexity_of).with_output_types(
            tuple[str, tuple[str, float]]
        )
        borders = (
            scored
            | "Scores" >> beam.MapTuple(lambda language, item: (language, item[1])).with_output_types(tuple[str, float])
            | "Borders" >> Quantiles([self.config.head, 1 - self.config.tail])
        )
        return scored | "Buckets" >> beam.Map(self._verdict, beam.pvalue.AsDict(borders))

    def _verdict(
        self, element: tuple[str, tuple[str, float]], borders: dict[str, list[float]]
    ) -> tuple[str, Drop | Edit]:
        language, (document_id, perplexity) = element
        head, tail = borders[language]
        bucket = "head" if perplexity < head else "middle" if perplexity < tail else "tail"
        if bucket not in self.config.keep_buckets:
            return document_id, Drop("perplexity.bucket", bucket)
        return document_id, Edit("perplexity.bucket", metadata={"perplexity_bucket": bucket})


def _perplexity_of(document: Document) -> Iterator[tuple[str, tuple[str, float]]]:
    """(language, (id, perplexity as the float32 that borders are))"""
    perplexity = document.metadata.get("perplexity")
    if isinstance(perplexity, int | float):
        yield str(document.metadata.get("language", ANY)), (document.id, float(np.float32(perplexity)))
