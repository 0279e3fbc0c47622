"""Log-likelihoods of many texts at once, in few compiled shapes.

Rows are padded on the right to the next power of two (causal attention: what follows a token cannot change it) and
every batch of a length has the same number of rows, so that there are at most log2(context) programs to compile.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from maxllm.eval.windows import Window, windows
from maxllm.models.decoder import Decoder

SHORTEST = 64
LOGITS_AT_ONCE = 1024  # tokens whose [vocab] logits exist together


class Score(NamedTuple):
    nats: float  # -ln p of the scored tokens together
    greedy: bool  # each of them was the most likely one
    tokens: int  # how many were scored


class Scorer:
    """Scores token sequences with `model`: `context` tokens seen at most, `batch_tokens` computed at once."""

    def __init__(self, model: Decoder, *, context: int, batch_tokens: int):
        self.context = context
        self.batch_tokens = batch_tokens
        graph, self.state = nnx.split(model)
        self.compiled = jax.jit(lambda state, tokens: _token_scores(nnx.merge(graph, state), tokens))

    def score(
        self,
        texts: Sequence[tuple[Sequence[int], int]],
        *,
        stride: int | None = None,
        progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> list[Score]:
        """A Score for each `(tokens, first)`: how likely `tokens[first:]` is after `tokens[:first]`.

        Texts longer than the context are scored in windows that advance by `stride` (the context when None; see
        `windows`). `progress` is told after each batch how many windows are done, of how many.
        """
        by_length: dict[int, list[tuple[int, Window]]] = defaultdict(list)
        for number, (tokens, first) in enumerate(texts):
            for window in windows(tokens, first, context=self.context, stride=stride or self.context):
                by_length[self._bucket(len(window.tokens) - 1)].append((number, window))
        nats = np.zeros(len(texts))
        greedy = np.ones(len(texts), bool)
        count = np.zeros(len(texts), np.int64)
        done, total = 0, sum(map(len, by_length.values()))
        for length in sorted(by_length, reverse=True):  # the one that needs most memory first
            rows = max(1, self.batch_tokens // length)
            for start in range(0, len(by_length[length]), rows):
                batch = by_length[length][start : start + rows]
                padded = np.zeros((rows, length + 1), np.int32)
                for row, (_, window) in enumerate(batch):
                    padded[row, : len(window.tokens)] = window.tokens
                row_nats, row_greedy = jax.device_get(self.compiled(self.state, padded))
                for row, (number, window) in enumerate(batch):
                    last = len(window.tokens) - 1
                    scored = slice(last - window.scored, last)
                    nats[number] += row_nats[row, scored].sum(dtype=np.float64)
                    greedy[number] &= bool(row_greedy[row, scored].all())
                    count[number] += window.scored
                done += len(batch)
                progress(done, total)
        return [Score(float(n), bool(g), int(c)) for n, g, c in zip(nats, greedy, count, strict=True)]

    def _bucket(self, length: int) -> int:
        bucket = SHORTEST
        while bucket < length:
            bucket *= 2
        return min(bucket, self.context)


def _token_scores(model: Decoder, tokens: jax.Array) -> tuple[jax.Array, jax.Array]:
    """tokens int32 `[batch, length + 1]` -> -ln p of each token after the first, float32 `[batch, length]`, and
    whether it was the most likely one, bool `[batch, length]`."""
    inputs, targets = tokens[:, :-1], tokens[:, 1:]
    positions = jnp.broadcast_to(jnp.arange(inputs.shape[1], dtype=jnp.int32), inputs.shape)
    hidden = model.hidden(inputs, positions)

    def row(hidden_and_targets: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        row_hidden, row_targets = hidden_and_targets
        logits = model.logits(row_hidden)
        chosen = jnp.take_along_axis(logits, row_targets[:, None], axis=-1)[:, 0]
        return jax.nn.logsumexp(logits, axis=-1) - chosen, jnp.argmax(logits, axis=-1) == row_targets

    return jax.lax.map(row, (hidden, targets), batch_size=max(1, LOGITS_AT_ONCE // inputs.shape[1]))
