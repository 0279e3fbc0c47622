"""Models in Flax NNX: norm, rope, embed, attention, mlp, and the decoder they make."""

from __future__ import annotations

from maxllm.models.create import abstract, count_parameters, create
from maxllm.models.decoder import Decoder, KVCache

__all__ = ["Decoder", "KVCache", "abstract", "count_parameters", "create"]
