"""What an objective makes of packed rows, on the host: masks, spans, middles.

A corruption turns a causal batch (tokens, and each one's next) into what the objective learns from. All its random
numbers come from (data.seed, split, step, the row's number in the global batch): going on, other hosts and
accumulation change nothing, and every time a text comes by it is damaged anew.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from maxllm.batch import Batch, EncoderDecoderBatch, empty_batch
from maxllm.config.train import ObjectiveConfig, TrainConfig
from maxllm.data.denoisers import infill_and_permute, mix_denoisers, ul2_settings
from maxllm.data.draws import Draw, generator
from maxllm.data.fim import cut_prefixes, fill_in_the_middle
from maxllm.data.labelled import with_labels
from maxllm.data.masked import mask_tokens
from maxllm.data.spans import corrupt_spans, most_spans
from maxllm.data.special_ids import Ids, find
from maxllm.tokenizer import Tokenizer

Corruption = Callable[[Batch, Sequence[Draw]], Batch | EncoderDecoderBatch]

# Of each objective: the function, the settings it takes, and the marks it needs.
FUNCTIONS: dict[str, tuple[Callable[..., Any], tuple[str, ...], tuple[str, ...]]] = {
    "fill_in_the_middle": (fill_in_the_middle, ("rate",), ("holes",)),
    "prefix_lm": (cut_prefixes, (), ()),
    "masked_lm": (mask_tokens, ("rate", "next_sentence"), ("mask",)),
    "replaced_token": (mask_tokens, ("rate",), ("mask",)),
    "span_corruption": (corrupt_spans, ("rate", "span"), ()),
    "denoising": (infill_and_permute, ("rate", "span"), ("mask",)),
    "ul2": (mix_denoisers, (), ("modes",)),
}


def make_corruption(config: TrainConfig, tokenizer: Tokenizer) -> Corruption | None:
    """None where rows are learned from as they come. Raises UserError where the vocabulary has no room for marks."""
    if config.objective.name not in FUNCTIONS:
        return None
    wanted = FUNCTIONS[config.objective.name][2]
    sentinels = _sentinels(config.objective, config.data.sequence_length)
    ids = find(tokenizer, config.model.vocab_size, config.objective.name, wanted, sentinels)
    return _bound(config.objective, ids._replace(start=config.model.encoder_decoder.start_id))


def example(config: TrainConfig) -> Callable[[Batch], Batch | EncoderDecoderBatch]:
    """The corruption without a tokenizer, its marks any ids: for programs that are measured or compiled only."""
    if config.model.labels:
        return lambda batch: with_labels(batch, config.model, 0)
    if config.objective.name not in FUNCTIONS:
        return lambda batch: batch
    last = config.model.vocab_size - 1
    marks = np.full(_sentinels(config.objective, config.data.sequence_length), last, np.int32)
    nothing = np.zeros(last, bool)
    ids = Ids(~nothing, nothing, mask=last, end=last, sentinels=marks, modes=np.full(3, last), holes=np.full(3, last))
    bound = _bound(config.objective, ids)

    def corrupt(batch: Batch) -> Batch | EncoderDecoderBatch:
        return bound(batch, [Draw(generator(row), lambda random: batch) for row in range(len(batch.tokens))])

    return corrupt


def example_row(config: TrainConfig) -> Batch | EncoderDecoderBatch:
    """One row of a batch as the step gets it, of zeros."""
    return example(config)(empty_batch(1, config.data.sequence_length))


def _bound(objective: ObjectiveConfig, ids: Ids) -> Corruption:
    function, names, _ = FUNCTIONS[objective.name]
    settings = {name: getattr(objective, name) for name in names if getattr(objective, name) is not None}
    return functools.partial(function, **settings, **({} if objective.name == "prefix_lm" else {"ids": ids}))


def _sentinels(objective: ObjectiveConfig, length: int) -> int:
    if objective.name == "ul2":
        return most_spans(length, ul2_settings())
    if objective.name == "span_corruption":
        return most_spans(length, ((objective.rate or 0.15, objective.span or 3.0),))
    return 0
