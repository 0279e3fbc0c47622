"""A scaling by length means in a folder what transformers makes of it, or is not written."""

from __future__ import annotations

import pytest

from maxllm.config.model import ModelConfig
from maxllm.convert.expressible import contradiction
from maxllm.convert.families.llama import from_huggingface, to_huggingface
from maxllm.convert.family import Settings

DYNAMIC = {"kind": "dynamic", "factor": 2.0, "original_positions": 64}


@pytest.mark.parametrize("max_positions, said", [(64, None), (128, "rope_scaling.original_positions 64")])
def test_a_dynamic_scaling_starts_at_max_position_embeddings(max_positions, said):
    config = ModelConfig(max_positions=max_positions, rope_scaling=DYNAMIC)
    written = to_huggingface(config)
    assert contradiction(config, from_huggingface(Settings(written, "config.json"))) == said
    # transformers reads no other length for this kind.
    written["rope_scaling"]["original_max_position_embeddings"] = 7
    written.pop("rope_parameters")
    assert from_huggingface(Settings(written, "config.json")).rope_scaling.original_positions == max_positions
