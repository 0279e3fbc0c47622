"""Writes rope.json: frequencies and attention factors of transformers' rotary scalings.

Run in a throw-away environment with PyTorch and transformers: python tests/maxllm/models/golden/make_rope.py
"""

from __future__ import annotations

import json
from pathlib import Path

from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

# name: (head_dim, theta, length asked for, transformers' rope_parameters, our RopeScalingConfig)
CASES = {
    "linear": (16, 10000.0, None, {"rope_type": "linear", "factor": 8.0}, {"kind": "linear", "factor": 8.0}),
    "dynamic": (
        16,
        10000.0,
        700,
        {"rope_type": "dynamic", "factor": 2.0},
        {"kind": "dynamic", "factor": 2.0, "original_positions": 256},
    ),
    "dynamic, not yet longer": (
        16,
        10000.0,
        100,
        {"rope_type": "dynamic", "factor": 2.0},
        {"kind": "dynamic", "factor": 2.0, "original_positions": 256},
    ),
    "yarn": (
        32,
        1000000.0,
        None,
        {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768},
        {"kind": "yarn", "factor": 4.0, "original_positions": 32768},
    ),
    "yarn of DeepSeek-V3": (
        64,
        10000.0,
        None,
        {
            "rope_type": "yarn",
            "factor": 40.0,
            "original_max_position_embeddings": 4096,
            "beta_fast": 32,
            "beta_slow": 1,
            "mscale": 1.0,
            "mscale_all_dim": 0.707,
        },
        {
            "kind": "yarn",
            "factor": 40.0,
            "original_positions": 4096,
            "beta_fast": 32,
            "beta_slow": 1,
            "mscale": 1.0,
            "mscale_all_dim": 0.707,
        },
    ),
    "yarn with a factor of its own": (
        16,
        10000.0,
        None,
        {
            "rope_type": "yarn",
            "factor": 2.0,
            "original_max_position_embeddings": 64,
            "attention_factor": 1.5,
            "beta_fast": 16,
            "beta_slow": 2,
        },
        {
            "kind": "yarn",
            "factor": 2.0,
            "original_positions": 64,
            "attention_factor": 1.5,
            "beta_fast": 16,
            "beta_slow": 2,
        },
    ),
    "llama3": (
        128,
        500000.0,
        None,
        {
            "rope_type": "llama3",
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
        },
        {"kind": "llama3", "factor": 8.0, "original_positions": 8192},
    ),
}


def main() -> None:
    cases = {}
    for name, (head_dim, theta, length, theirs, ours) in CASES.items():
        config = LlamaConfig(
            hidden_size=2 * head_dim,
            num_attention_heads=2,
            head_dim=head_dim,
            max_position_embeddings=ours.get("original_positions", 2048),
            rope_parameters={"rope_theta": theta, **theirs},
        )
        frequencies, factor = ROPE_INIT_FUNCTIONS[theirs["rope_type"]](config, "cpu", seq_len=length)
        cases[name] = {
            "head_dim": head_dim,
            "theta": theta,
            "length": length,
            "scaling": ours,
            "frequencies": [float(f"{x:.9g}") for x in frequencies],
            "attention_factor": factor,
        }
    path = Path(__file__).with_name("rope.json")
    path.write_text("{\n" + ",\n".join(f'"{name}": {json.dumps(case)}' for name, case in cases.items()) + "\n}\n")


if __name__ == "__main__":
    main()
