"""A recipe: verbs in order, each with its own settings."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from maxllm.config.section import Section

Verb = Literal[
    "curate",
    "select",
    "augment",
    "contamination",
    "tokenize",
    "mix",
    "ngram",
    "train",
    "eval",
    "export",
    "import",
    "generate",
    "serve",
]


class StageConfig(Section):
    """One stage: `maxllm VERB [config] [arguments]`. `{run}` in any value stands for the recipe's run_dir."""

    verb: Verb
    name: str | None = Field(None, description="the verb when absent; names the stage's files")
    config: dict[str, Any] = Field(default_factory=dict, description="what the verb would read from a file")
    arguments: list[str] = Field(default_factory=list, description="what else stands on its command line")
    outputs: list[str] = Field(default_factory=list, description="paths without which the stage must run again")

    @property
    def label(self) -> str:
        return self.name or self.verb


class RecipeConfig(Section):
    kind: Literal["recipe"] = "recipe"
    run_dir: str = "runs/recipe"
    stages: list[StageConfig] = Field(default_factory=list)

    @model_validator(mode="after")
    def _names_differ(self) -> RecipeConfig:
        labels = [stage.label for stage in self.stages]
        for label in labels:
            if labels.count(label) > 1:
                raise ValueError(f"two stages are called {label}; give one of them a name")
        return self
