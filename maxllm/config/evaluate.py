"""Settings of `maxllm eval`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, PositiveInt

from maxllm.config.section import Section


class EvalConfig(Section):
    kind: Literal["eval"] = "eval"
    model: str = Field("", description="a run directory, a checkpoint of one, or a Hugging Face folder")
    tokens: list[str] = Field(
        default_factory=list,
        description="token datasets whose held-out split is scored; the run's own when both this and tasks are empty",
    )
    tasks: list[str] = Field(default_factory=list, description="lm-eval tasks, or ours")
    data_files: dict[str, str] = Field(
        default_factory=dict,
        description="task: local JSON lines file, or a folder of them named after the task's splits (test.jsonl.gz)",
    )
    limit: int | None = Field(None, gt=0, description="items per task")
    max_documents: PositiveInt = Field(200, description="held-out documents scored per source, evenly spaced")
    context_length: PositiveInt | None = Field(
        None, description="tokens the model sees at most; the run's training length, or the model's positions"
    )
    batch_tokens: PositiveInt = Field(8192, description="tokens scored at once")
    dtype: Literal["float32", "bfloat16"] = "float32"
    output: str | None = Field(None, description="folder of the results; RUN/eval when absent")
