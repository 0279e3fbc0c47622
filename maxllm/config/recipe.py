"""A recipe: verbs in order, each with its own settings."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from maxllm.config.section import Section

Verb = Literal["curate", "tokenize", "train", "eval", "export", "serve-check"]


class StageConfig(Section):
    """One stage. `config` is the tree its verb would read from a file; `{run}` stands for the recipe's run_dir."""

    verb: Verb
    name: str | None = Field(None, description="the verb when absent")
    config: dict[str, Any] = Field(default_factory=dict)


class RecipeConfig(Section):
    kind: Literal["recipe"] = "recipe"
    run_dir: str = "runs/recipe"
    stages: list[StageConfig] = Field(default_factory=list)
