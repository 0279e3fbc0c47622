"""OpenAI's request bodies, and the few settings of vLLM's that its clients and benchmarks send.

A field we do not know is refused rather than ignored: a misspelled setting must not change an answer in silence.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from serving.gateway import Ask, Failure, Reason

# Fields of OpenAI's whose only accepted values are those that ask for nothing.
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "best_of": (None, 1),
    "frequency_penalty": (None, 0),
    "function_call": (None, "none"),
    "functions": (None, []),
    "logit_bias": (None, {}),
    "modalities": (None, ["text"]),
    "parallel_tool_calls": (None, True, False),
    "presence_penalty": (None, 0),
    "response_format": (None, {"type": "text"}),
    "suffix": (None, ""),
    "tool_choice": (None, "none", "auto"),
    "tools": (None, []),
}
# Fields of OpenAI's that cannot change an answer.
IGNORED = ("metadata", "prompt_cache_key", "safety_identifier", "service_tier", "store", "user")


def _stop(value: Any) -> Any:
    return [] if value is None else [value] if isinstance(value, str) else value


def _prompts(value: Any) -> list[str | list[int]]:
    """A string, a list of strings, token ids, or a list of token ids, as a list of prompts."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, list):
        if value and all(_is_token(item) for item in value):
            return [value]
        if all(isinstance(item, str) or (isinstance(item, list) and all(map(_is_token, item))) for item in value):
            return value
    raise ValueError("must be a string, a list of strings, a list of token ids, or a list of lists of token ids")


def _is_token(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _text(content: Any) -> Any:
    """OpenAI's content parts as one string."""
    if not isinstance(content, list):
        return content
    for part in content:
        if not isinstance(part, dict) or part.get("type") != "text" or not isinstance(part.get("text"), str):
            raise ValueError('every part must be {"type": "text", "text": ...}; this model reads text only')
    return "".join(part["text"] for part in content)


class StreamOptions(BaseModel):
    model_config = ConfigDict(extra="forbid")

    include_usage: bool = False


class Body(BaseModel):
    """What completions and chat share."""

    model_config = ConfigDict(extra="forbid")

    model: str | None = None
    max_tokens: int | None = Field(None, ge=0)
    temperature: float | None = Field(None, ge=0)
    top_p: float | None = Field(None, gt=0, le=1)
    top_k: int | None = Field(None, ge=-1)  # vLLM's; -1 and 0 are all
    n: int | None = Field(None, ge=1)
    seed: int | None = None
    stop: Annotated[list[str], BeforeValidator(_stop)] = []
    ignore_eos: bool = False  # vLLM's
    stream: bool | None = False
    stream_options: StreamOptions | None = None

    @model_validator(mode="before")
    @classmethod
    def _refuse_what_is_not_done(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        for name, accepted in NEUTRAL.items():
            if name in values and values[name] not in accepted:
                raise ValueError(f"{name} is not supported by this server; leave it out")
        dropped = {*NEUTRAL, *IGNORED} - cls.model_fields.keys()
        return {name: value for name, value in values.items() if name not in dropped}

    @property
    def include_usage(self) -> bool:
        return self.stream_options is not None and self.stream_options.include_usage

    def _common(self) -> dict[str, Any]:
        return {
            "copies": self.n or 1,
            "temperature": self.temperature,
            "top_p": self.top_p,
            "top_k": None if self.top_k is None else max(self.top_k, 0),
            "seed": self.seed,
            "stop": self.stop,
            "ignore_eos": self.ignore_eos,
        }


class CompletionBody(Body):
    """`POST /v1/completions`."""

    prompt: Annotated[list[Any], BeforeValidator(_prompts)]
    logprobs: int | None = Field(None, ge=0)
    echo: bool | None = False

    def ask(self) -> Ask:
        return Ask(
            prompts=self.prompt,
            max_tokens=self.max_tokens,
            logprobs=self.logprobs,
            echo=bool(self.echo),
            **self._common(),
        )


class Message(BaseModel):
    model_config = ConfigDict(extra="forbid")

    role: Literal["system", "developer", "user", "assistant"]
    content: Annotated[str, BeforeValidator(_text)]
    name: str | None = None


class ChatBody(Body):
    """`POST /v1/chat/completions`."""

    messages: list[Message] = Field(min_length=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    logprobs: bool | None = False
    top_logprobs: int | None = Field(None, ge=0)

    def ask(self, prompt: list[int], stop_token_ids: tuple[int, ...]) -> Ask:
        if self.top_logprobs is not None and not self.logprobs:
            raise Failure(Reason.INVALID, "top_logprobs needs logprobs: true", "top_logprobs")
        return Ask(
            prompts=[prompt],
            max_tokens=self.max_completion_tokens or self.max_tokens,
            logprobs=(self.top_logprobs or 0) if self.logprobs else None,
            stop_token_ids=stop_token_ids,
            **self._common(),
        )

    def conversation(self) -> list[dict[str, str]]:
        """As chat templates know it; "developer" is OpenAI's newer word for "system"."""
        roles = {"developer": "system"}
        return [{"role": roles.get(m.role, m.role), "content": m.content} for m in self.messages]
