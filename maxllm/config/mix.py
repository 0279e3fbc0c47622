"""Settings of `maxllm mix`: the shares of tokenized sources in training, by a rule, from their sizes."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, PositiveInt, model_validator

from maxllm.config.section import Section


class MixConfig(Section):
    """Every document source of every data set is weighed by itself; route documents into sources when curating.

    `alpha` divides the exponent: p ~ tokens ** (1 / alpha), temperature sampling, so that 1.3 flattens a little
    (Devlin et al. 2018 and mT5 write the exponent 0.3 for what is alpha 3.33 here). Whoever reads 1.3 as the exponent
    itself, which sharpens, sets `alpha_is: exponent`.
    """

    kind: Literal["mix"] = "mix"
    tokens: dict[str, str] = Field(default_factory=dict, description="name -> folder that `maxllm tokenize` wrote")
    method: Literal["unimax", "alpha", "proportional", "uniform"] = "unimax"
    budget_tokens: PositiveInt | None = Field(None, description="of the whole training; unimax needs it")
    max_epochs: float = Field(1.0, gt=0, description="of unimax: no source is read more often than this")
    alpha: float = Field(1.3, gt=0)
    alpha_is: Literal["temperature", "exponent"] = "temperature"
    output: str = Field("runs/mixture.yml", description="a mixture file: `base:` of a train config")

    @model_validator(mode="after")
    def _consistent(self) -> MixConfig:
        if self.method == "unimax" and self.budget_tokens is None:
            raise ValueError("unimax spreads a budget; set budget_tokens to the tokens of the whole training")
        return self
