"""Settings of `maxllm eval`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, PositiveInt

from maxllm.config.section import Section


class EvalConfig(Section):
    kind: Literal["eval"] = "eval"
    model: str = Field("", description="a run directory or a Hugging Face folder")
    tokens: list[str] = Field(default_factory=list, description="token datasets whose held-out split is scored")
    tasks: list[str] = Field(default_factory=list, description="lm-eval tasks, or ours")
    data_files: dict[str, str] = Field(default_factory=dict, description="task: local JSON lines file")
    limit: int | None = Field(None, gt=0, description="items per task")
    max_documents: PositiveInt = Field(200, description="held-out documents scored per source")
    batch_tokens: PositiveInt = Field(8192, description="tokens scored at once")
    output: str | None = Field(None, description="folder of the results; RUN/eval when absent")
