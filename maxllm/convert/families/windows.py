"""Which layers have a sliding window, in config.json's words and in ours."""

from __future__ import annotations

from typing import Any

from maxllm.config.model import ModelConfig
from maxllm.convert.family import Settings

LOCAL, WHOLE = "sliding_attention", "full_attention"


def from_layers(settings: Settings, layers: list[str], window: int | None, global_every: int) -> dict[str, Any]:
    """`window` and `global_every` of ModelConfig, for one kind per layer. `global_every`: the family's custom, which
    decides where there are too few layers to tell. Raises UserError for an order of layers that we do not have."""
    if window is None or set(layers) == {WHOLE}:
        return {}
    for every in (global_every, 0, *range(2, len(layers) + 1)):
        if layers == kinds(len(layers), every):
            return {"window": window, "global_every": every}
    raise settings.refused(
        f"layer_types {' '.join(layers)}: ours are with a window, or every nth of them is without one"
    )


def kinds(num_layers: int, global_every: int) -> list[str]:
    """Layer `global_every - 1`, and every so many after it, sees everything."""
    return [WHOLE if global_every and not (i + 1) % global_every else LOCAL for i in range(num_layers)]


def kinds_of(config: ModelConfig) -> list[str]:
    windows = config.windows
    return [LOCAL if windows[i % len(windows)] else WHOLE for i in range(config.num_layers)]
