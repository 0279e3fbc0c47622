"""A few short texts for any kind of model, laid in rows one by one or packed, and what the model makes of each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from maxllm.batch import Batch, EncoderDecoderBatch
from maxllm.config.errors import UserError
from maxllm.config.model import ModelConfig

LENGTHS = (24, 24, 13)
SPECIAL = 5  # ids below it are taken for special tokens
Scores = dict[str, np.ndarray]  # by the head's name, of one text: [length, ...], or [...] of the text as a whole
Rows = Sequence[Sequence["Text"]]


class Text(NamedTuple):
    """Token ids, int32 `[length]`. `types`: as many; `decoder`: what an encoder-decoder's decoder is given."""

    tokens: np.ndarray
    types: np.ndarray | None = None
    decoder: np.ndarray | None = None


class Expected(NamedTuple):
    """What another program computes of a text."""

    scores: Scores
    divergence: float | None  # mean KL(its bfloat16 || its float32), nats
    greedy: np.ndarray | None  # int32 [n], the likeliest continuation


def random_texts(config: ModelConfig, seed: int = 0) -> list[Text]:
    """Texts of LENGTHS, or shorter where the model has fewer positions."""
    random = np.random.default_rng(seed)
    first = SPECIAL if config.vocab_size > 2 * SPECIAL else 0
    texts = []
    for length in LENGTHS:
        length = min(length, config.max_positions)
        draw = random.integers(first, config.vocab_size, (2, length), dtype=np.int32)
        types = decoder = None
        if config.architecture == "encoder" and config.encoder.type_vocab_size > 1:
            types = (np.arange(length) >= length // 2).astype(np.int32)
        if config.architecture == "encoder_decoder":
            decoder = np.append(np.int32(config.encoder_decoder.start_id), draw[1, : length // 2])
        texts.append(Text(draw[0], types, decoder))
    return texts


def read_expected(path: str | Path) -> tuple[list[Text], list[Expected]]:
    """The texts and values of an `expected.npz` (tests/maxllm/families/make_golden.py). Raises UserError."""
    try:
        with np.load(path) as file:
            arrays = dict(file)
    except (OSError, ValueError):
        raise UserError(f"{path} cannot be read as an .npz file") from None
    texts, expected = [], []
    for number in sorted(name.removeprefix("tokens_") for name in arrays if name.startswith("tokens_")):
        own = {name.removesuffix(f"_{number}"): a for name, a in arrays.items() if name.endswith(f"_{number}")}
        if "logits" not in own:
            raise UserError(f"{path} holds tokens_{number} and no logits_{number}; see `maxllm families --help`")
        kl = own.get("bfloat16_kl")
        for row in range(len(own["tokens"])):
            inputs = [own[name][row].astype(np.int32) if name in own else None for name in Text._fields]
            scores = {name: own[name][row] for name in ("logits", "next_sentence") if name in own}
            texts.append(Text(*inputs))
            greedy = own.get("greedy") if row == 0 else None
            expected.append(Expected(scores, None if kl is None else float(kl[row].mean()), greedy))
    if not texts:
        raise UserError(f"{path} holds no tokens_0 with logits_0; see `maxllm families --help`")
    return texts, expected


def batch_of(rows: Rows) -> Batch | EncoderDecoderBatch:
    """Each row's texts one after another as segments, with padding at the end. Targets are the tokens that follow."""
    read = _batch([[(text.tokens, text.types) for text in row] for row in rows])
    if rows[0][0].decoder is None:
        return read
    return EncoderDecoderBatch(read, _batch([[(text.decoder, None) for text in row] for row in rows]))


def _batch(rows: Sequence[Sequence[tuple[np.ndarray, np.ndarray | None]]]) -> Batch:
    length = max(sum(len(tokens) for tokens, _ in row) for row in rows)
    length += -length % 8
    tokens, targets, segments, positions, types = np.zeros((5, len(rows), length), np.int32)
    weights = np.zeros((len(rows), length), np.float32)
    for number, row in enumerate(rows):
        begin = 0
        for segment, (own, kinds) in enumerate(row, start=1):
            place = number, slice(begin, begin + len(own))
            tokens[place], segments[place], positions[place] = own, segment, np.arange(len(own))
            targets[place], weights[place] = np.append(own[1:], 0), np.arange(len(own)) < len(own) - 1
            types[place] = 0 if kinds is None else kinds
            begin += len(own)
    return Batch(tokens, targets, segments, positions, weights, types=types)


def scores(model: nnx.Module, batch: Batch | EncoderDecoderBatch) -> dict[str, jax.Array]:
    """Float32 `[rows, length, ...]` by the head's name; of a text as a whole at its first token."""
    config: ModelConfig = model.config
    if config.architecture == "encoder_decoder":
        return {"logits": model(batch)}
    if config.architecture == "decoder":
        return {"logits": model(batch.tokens, batch.positions, batch.segment_ids)}
    hidden = model.hidden(batch.tokens, batch.positions, batch.segment_ids, batch.types)
    if config.labels:
        return {"logits": model.labels(hidden, batch.segment_ids)}
    if config.encoder.head == "replaced":
        return {"logits": model.labels(hidden, batch.segment_ids)[..., 0]}
    found = {"logits": model.logits(hidden)}
    if config.encoder.head == "next_sentence":
        found["next_sentence"] = model.labels(hidden, batch.segment_ids)
    return found


def of_the_whole(config: ModelConfig, head: str) -> bool:
    """Whether the head says one thing about a text, not one about each token."""
    return head == "next_sentence" or (config.labels is not None and config.labels.kind in ("sequence", "rerank"))


def cut(found: dict[str, jax.Array], rows: Rows, config: ModelConfig) -> list[Scores]:
    """The scores of each text, in the order of the rows."""
    arrays = {head: np.asarray(array) for head, array in found.items()}
    texts = []
    for number, row in enumerate(rows):
        begin = 0
        for text in row:
            end = begin + len(text.tokens if text.decoder is None else text.decoder)
            cuts = {head: (number, begin if of_the_whole(config, head) else slice(begin, end)) for head in arrays}
            texts.append({head: arrays[head][place] for head, place in cuts.items()})
            begin = end
    return texts


def compiled(function: Callable[..., jax.Array], model: nnx.Module) -> Callable[..., jax.Array]:
    """`function(model, *arguments)`, compiled; the parameters are arguments of the program."""
    structure, parameters = nnx.split(model)
    run = jax.jit(lambda parameters, *arguments: function(nnx.merge(structure, parameters), *arguments))
    return lambda *arguments: run(parameters, *arguments)


def divergence(ours: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """KL(ours || reference) in nats over the last axis of logits; of a discriminator's `[length]`, of two outcomes."""
    if ours.ndim == 1:
        ours, reference = (np.stack([x, np.zeros_like(x)], -1) for x in (ours, reference))
    log_ours, log_reference = (np.asarray(jax.nn.log_softmax(jnp.asarray(x))) for x in (ours, reference))
    return (np.exp(log_ours) * (log_ours - log_reference)).sum(-1)
