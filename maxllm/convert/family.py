"""What a model family says about its Hugging Face folders."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from maxllm.config.errors import UserError
from maxllm.config.model import ModelConfig
from maxllm.convert.tensors import Tensor

_ABSENT = object()


class Settings:
    """The values of a config.json. A null is as good as absent, as transformers has it.

    `where`: the file's name, for errors.
    """

    def __init__(self, values: Mapping[str, Any], where: str):
        self.values = values
        self.where = where

    def __getitem__(self, name: str) -> Any:
        """A setting that the model cannot be known without. Raises UserError if it is missing."""
        value = self.values.get(name)
        if value is None:
            raise UserError(f"{self.where}: {name} missing; the model's shape cannot be known without")
        return value

    def get(self, name: str, default: Any = None) -> Any:
        value = self.values.get(name)
        return default if value is None else value

    def only(self, name: str, *allowed: Any) -> None:
        """Refuses any value but `allowed`: others change what the model computes, in ways that ours does not."""
        value = self.values.get(name)
        if value is not None and value not in allowed:
            raise self.refused(f"{name} is {value!r}, and we compute {' or '.join(map(repr, allowed))} only")

    def choose(self, name: str, choices: Mapping[str, Any], default: str) -> Any:
        """What `choices` has for the setting's value. Raises UserError for another value."""
        value = self.get(name, default)
        if value not in choices:
            raise self.refused(f"{name} {value!r} is not among those we compute: {', '.join(choices)}")
        return choices[value]

    def unquantized(self) -> None:
        if self.values.get("quantization_config"):
            raise self.refused("the weights are quantized (quantization_config); take the unquantized model")

    def refused(self, reason: str) -> UserError:
        return UserError(f"{self.where}: {reason}; this model cannot be imported")


# Their names of activations, and ours. ("gelu_new" and "gelu_pytorch_tanh" are one formula.)
ACTIVATIONS = {
    "silu": "silu",
    "swish": "silu",
    "gelu": "gelu",
    "gelu_python": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu": "relu",
}
TO_ACTIVATION = {"silu": "silu", "gelu": "gelu", "gelu_tanh": "gelu_pytorch_tanh", "relu": "relu"}


@dataclass(frozen=True)
class Family:
    """One family's folders.

    from_huggingface: our config for a config.json. What we cannot compute is refused (`Settings.only`, `.refused`),
      never ignored. A setting that the family has and `ModelConfig` cannot hold is refused too.
    to_huggingface: config.json's content but for dtype and the tokenizer's ids (with `architectures`, `model_type`).
      Whether it says all that our config does is not its business: `from_huggingface` of the result must give the
      config again, and whoever exports checks that.
    tensors: the map, given the config that from_huggingface made.
    """

    name: str  # ModelConfig.family
    model_types: tuple[str, ...]
    from_huggingface: Callable[[Settings], ModelConfig]
    to_huggingface: Callable[[ModelConfig], dict[str, Any]]
    tensors: Callable[[ModelConfig], list[Tensor]]
    # Regular expressions of names (after `canonical`) that hold no parameter: buffers that old versions wrote.
    ignored: tuple[str, ...] = ()
    # Other names under which folders hold a tensor: what the map calls it (a missing prefix, gamma for weight).
    canonical: Callable[[str], str] = lambda name: name
    # Names that may be there as another tensor's copy (tied), and whose; checked to be equal, never written.
    copies: Callable[[ModelConfig], dict[str, str]] = lambda config: {}
    # Tensors that a folder has and our model computes: written on export; on import, those there are have to be equal.
    computed: Callable[[ModelConfig], dict[str, Callable[[], np.ndarray]]] = lambda config: {}
    # Tensors that are another one times a number, (whose, number): as for `computed`.
    scaled: Callable[[ModelConfig], dict[str, tuple[str, float]]] = lambda config: {}
