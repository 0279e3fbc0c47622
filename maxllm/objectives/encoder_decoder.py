"""A text predicted from another: span corruption, denoising, translation, according to the pairs."""

from __future__ import annotations

from maxllm.batch import EncoderDecoderBatch
from maxllm.kernels.cross_entropy import cross_entropy
from maxllm.models.encoder_decoder import EncoderDecoder
from maxllm.objectives.weighted import Weighted


def encoder_decoder(
    model: EncoderDecoder, batch: EncoderDecoderBatch, rngs: object = None, *, loss_chunk: int = 0
) -> dict[str, Weighted]:
    """Cross-entropy of the decoder's targets in nats, summed with its weights. `loss_chunk`: see `cross_entropy`."""
    inputs, kernel = model.scored(model.hidden(batch))
    total = cross_entropy(inputs, kernel, batch.decoder.targets, batch.decoder.weights, loss_chunk)
    return {"loss": Weighted(total, batch.decoder.weights.sum())}
