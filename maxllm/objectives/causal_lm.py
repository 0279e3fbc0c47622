"""Next-token prediction."""

from __future__ import annotations

from maxllm.batch import Batch
from maxllm.kernels.cross_entropy import cross_entropy
from maxllm.models.decoder import Decoder
from maxllm.objectives.weighted import Weighted


def causal_lm(model: Decoder, batch: Batch, rngs: object = None, *, loss_chunk: int = 0) -> dict[str, Weighted]:
    """Cross-entropy of each target in nats, summed with `batch.weights`. `loss_chunk`: see `cross_entropy`."""
    hidden, losses = model.hidden_and_losses(batch.tokens, batch.positions, batch.segment_ids)
    total = cross_entropy(hidden, model.head_kernel(), batch.targets, batch.weights, loss_chunk)
    return {"loss": Weighted(total, batch.weights.sum())}
