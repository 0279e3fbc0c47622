"""The roots of the config trees, one per verb that has settings."""

from __future__ import annotations

from pydantic import BaseModel

from maxllm.config.augment import AugmentConfig
from maxllm.config.classify import ClassifierTrainConfig
from maxllm.config.curate import CurateConfig
from maxllm.config.decontaminate import ContaminationConfig
from maxllm.config.errors import UserError
from maxllm.config.evaluate import EvalConfig
from maxllm.config.load import find, read_file
from maxllm.config.mix import MixConfig
from maxllm.config.perplexity import NgramConfig
from maxllm.config.prices import AcceleratorPricesConfig, PricesConfig
from maxllm.config.recipe import RecipeConfig
from maxllm.config.select import SelectConfig
from maxllm.config.serve import ServeConfig
from maxllm.config.tokenize import TokenizeConfig
from maxllm.config.train import TrainConfig

ROOTS: dict[str, type[BaseModel]] = {
    "curate": CurateConfig,
    "select": SelectConfig,
    "augment": AugmentConfig,
    "classifier": ClassifierTrainConfig,
    "ngram": NgramConfig,
    "contamination": ContaminationConfig,
    "tokenize": TokenizeConfig,
    "mix": MixConfig,
    "train": TrainConfig,
    "eval": EvalConfig,
    "serve": ServeConfig,
    "recipe": RecipeConfig,
    "prices": PricesConfig,
    "accelerator-prices": AcceleratorPricesConfig,
}


def root_of(file: str) -> type[BaseModel]:
    """The root that `file` (a path or preset) says it is by its `kind:`, its own or a base's."""
    path = find(file)
    kind = read_file(path).values.get("kind")
    if kind not in ROOTS:
        raise UserError(f"{path}: says kind {kind!r}; write `kind:` and one of {', '.join(ROOTS)}")
    return ROOTS[kind]
