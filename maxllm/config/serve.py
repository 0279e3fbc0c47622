"""Settings of `maxllm serve` and `maxllm generate`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, PositiveInt, model_validator

from maxllm.config.section import Section


class EngineConfig(Section):
    """What is compiled: slots, lengths, dtypes."""

    slots: PositiveInt = Field(8, description="requests decoded at once")
    max_length: PositiveInt | None = Field(None, description="prompt + answer; the model's positions when absent")
    prefill_buckets: list[PositiveInt] = Field(default_factory=list, description="powers of two when empty")
    dtype: Literal["float32", "bfloat16"] = "float32"
    tensor: int = Field(1, ge=1, description="devices along the tensor axis")


class SamplingConfig(Section):
    """Defaults of a request that does not say."""

    temperature: float = Field(1.0, ge=0, description="0 = greedy")
    top_k: int = Field(0, ge=0, description="0 = all")
    top_p: float = Field(1.0, gt=0, le=1)
    max_tokens: PositiveInt = 128


class SchedulerConfig(Section):
    queue: PositiveInt = Field(64, description="waiting requests; one more is refused")
    prefill_tokens: PositiveInt = Field(
        256, description="prompt tokens between two decode steps; fewer: smoother answers, more: earlier first tokens"
    )
    deadline_seconds: float | None = Field(None, gt=0)
    drain_seconds: float = Field(30.0, ge=0, description="after SIGTERM, time for running requests to finish")


class PortsConfig(Section):
    host: str = "127.0.0.1"
    grpc: int = Field(9000, ge=0, le=65535, description="0 = a free port")
    http: int = Field(8000, ge=0, le=65535, description="0 = a free port")


class ServeConfig(Section):
    kind: Literal["serve"] = "serve"
    model: str = Field("", description="a run directory or a Hugging Face folder")
    name: str | None = Field(None, description="the name clients use; the folder's name when absent")
    chat_template: str | None = Field(None, description="path of a Jinja template for a model that has none")
    engine: EngineConfig = EngineConfig()
    sampling: SamplingConfig = SamplingConfig()
    scheduler: SchedulerConfig = SchedulerConfig()
    ports: PortsConfig = PortsConfig()

    @model_validator(mode="after")
    def _consistent(self) -> ServeConfig:
        length = self.engine.max_length
        if length and self.engine.prefill_buckets and max(self.engine.prefill_buckets) > length:
            raise ValueError(
                f"engine.prefill_buckets has {max(self.engine.prefill_buckets)}, longer than engine.max_length {length}"
            )
        return self
