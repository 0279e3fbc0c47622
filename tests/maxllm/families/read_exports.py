"""Loads folders that maxllm exported with transformers; prints, as JSON by name, how far their logits are from those of
the golden folder of that name, and which tensors transformers missed or did not know.

    python tests/maxllm/families/read_exports.py FOLDER_OF_FOLDERS      (needs what make_golden.py does)
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import torch
import transformers
from make_golden import FAMILIES, GOLDEN, LENGTHS, Reference


def compare(folder: Path) -> dict:
    # As a user would: the class is the one that config.json names.
    architecture = json.loads((folder / "config.json").read_text())["architectures"][0]
    kind = getattr(transformers, architecture)
    assert kind is FAMILIES[folder.name][0], f"{folder.name} names {architecture}"
    _, info = kind.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
    strange = sorted(map(str, [*info["missing_keys"], *info["unexpected_keys"], *info["mismatched_keys"]]))
    model, expected, error = Reference(folder, kind, torch.float32), np.load(GOLDEN / folder.name / "expected.npz"), 0.0
    names = dict(tokens="input_ids", types="token_type_ids", decoder="decoder_input_ids")
    for number in range(len(LENGTHS)):
        given = {key: expected.get(f"{name}_{number}") for name, key in names.items()}
        inputs = {key: torch.from_numpy(array) for key, array in given.items() if array is not None}
        error = max(error, float(np.abs(model.logits(inputs).numpy() - expected[f"logits_{number}"]).max()))
    return dict(error=error, strange=strange)


if __name__ == "__main__":
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    found = {}
    for folder in sorted(Path(sys.argv[1]).iterdir()):
        try:
            found[folder.name] = compare(folder)
        except Exception as wrong:  # every folder is told
            found[folder.name] = dict(error=float("nan"), strange=[f"{type(wrong).__name__}: {wrong}"[:300]])
    print(json.dumps(found))
