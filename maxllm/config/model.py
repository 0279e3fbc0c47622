"""The section `model`: a model's shape."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, PositiveInt, model_validator

from maxllm.config.model_parts import (
    DualChunkConfig,
    EncoderConfig,
    EncoderDecoderConfig,
    LabelsConfig,
    LatentAttentionConfig,
    RopeScalingConfig,
    RoutingConfig,
)
from maxllm.config.section import Section

Family = Literal[
    "transformer",
    "gpt1",
    "gpt2",
    "llama",
    "mistral",
    "mixtral",
    "qwen2",
    "qwen2_moe",
    "qwen3",
    "qwen3_moe",
    "gemma",
    "gemma2",
    "gemma3",
    "deepseek_v3",
    "bert",
    "roberta",
    "electra",
    "deberta",
    "deberta_v2",
    "t5",
    "bart",
]
_WIDTHS = ("hidden_size", "intermediate_size", "num_heads", "num_kv_heads")
Bias = Literal["query_key_value", "output", "mlp"]


class ModelConfig(Section):
    """A model's shape. The names are the papers'; `maxllm/convert` maps them to Hugging Face's.

    What a model computes follows from these settings alone: `family` says whose folders it is read from and written to.
    """

    architecture: Literal["decoder", "encoder", "encoder_decoder"] = "decoder"
    family: Family = "llama"
    vocab_size: PositiveInt = 32000
    hidden_size: PositiveInt = 256
    intermediate_size: PositiveInt = 704
    num_layers: PositiveInt = 4
    num_heads: PositiveInt = 8
    num_kv_heads: PositiveInt = 8
    head_dim: PositiveInt | None = Field(None, description="hidden_size / num_heads when absent")
    num_experts: int = Field(0, ge=0, description="0: every layer is dense")
    experts_per_token: PositiveInt = 2
    capacity_factor: float | None = Field(
        None, gt=0, description="places of an expert, in even shares of a row's tokens; absent: no token is dropped"
    )
    routing: RoutingConfig = RoutingConfig()
    max_positions: PositiveInt = 2048
    positions: Literal["rope", "learned", "sinusoidal", "alibi", "relative", "disentangled", "none"] = "rope"
    rope_theta: float = Field(10000.0, gt=0)
    rope_local_theta: float | None = Field(None, gt=0, description="of layers with a window; rope_theta when absent")
    rope_scaling: RopeScalingConfig | None = Field(None, description="not of layers with a rope_local_theta")
    dual_chunk: DualChunkConfig | None = None
    latent_attention: LatentAttentionConfig | None = None
    window: PositiveInt | None = Field(None, description="keys that a query sees: itself and those before it")
    global_every: int = Field(0, ge=0, description="every how manyth layer sees beyond the window; 0: none")
    attention_scale: float | None = Field(None, gt=0, description="of scores; 1 / sqrt(head_dim) when absent")
    attention_softcap: float | None = Field(None, gt=0)
    logits_softcap: float | None = Field(None, gt=0)
    norm: Literal["rms", "rms_plus_one", "layer"] = Field("rms", description="rms_plus_one: the weight is 1 + w")
    norm_placement: Literal["pre", "post", "both"] = Field("pre", description="of a sublayer; post: after the sum")
    norm_eps: float = Field(1e-5, gt=0)
    query_key_norm: bool = Field(False, description="a norm over each head's query and key, before the rotation")
    activation: Literal["silu", "gelu", "gelu_tanh", "relu"] = "silu"
    gated: bool = Field(True, description="down(activation(gate(x)) · up(x)); without: down(activation(up(x)))")
    biases: tuple[Bias, ...] = ()
    embedding_scale: float | None = Field(None, gt=0, description="what embeddings are multiplied by")
    embedding_norm: bool = False
    tie_embeddings: bool = False
    prediction_layers: int = Field(0, ge=0, description="modules that each predict one token further (DeepSeek-V3)")
    init_std: float = Field(0.02, gt=0, description="standard deviation of the normal initialiser")
    encoder: EncoderConfig = EncoderConfig()
    encoder_decoder: EncoderDecoderConfig = EncoderDecoderConfig()
    labels: LabelsConfig | None = None

    @property
    def head_size(self) -> int:
        if self.latent_attention:
            return self.latent_attention.nope_dim + self.latent_attention.rope_dim
        return self.head_dim or self.hidden_size // self.num_heads

    @property
    def rotary_size(self) -> int:
        """Of a head, the dimensions that positions turn."""
        return self.latent_attention.rope_dim if self.latent_attention else self.head_size

    @property
    def windows(self) -> tuple[bool, ...]:
        """Whether each layer has the window, for the layers that repeat: layer i is like layer i % len."""
        if self.window is None:
            return (False,)
        return (True,) * (self.global_every - 1) + (False,) if self.global_every else (True,)

    @property
    def leading_layers(self) -> int:
        """Layers before those that repeat: dense ones in front of layers with experts."""
        return self.routing.dense_layers if self.num_experts else 0

    @property
    def cache_shape(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """(heads, width) of what one layer keeps of a token for generation: as keys and as values."""
        if latent := self.latent_attention:
            return (1, latent.rank), (1, latent.rope_dim)
        return (self.num_kv_heads, self.head_size), (self.num_kv_heads, self.head_size)

    @property
    def generator(self) -> ModelConfig:
        """ELECTRA's: as deep, `generator_factor` as wide, with tables of our width (Clark et al. 2020, section 3.2)."""
        sizes = self._generator_sizes()
        width = self.encoder.embedding_size or self.hidden_size
        encoder = {"head": "words", "generator_factor": None, "embedding_size": width}
        changed = {"encoder": self.encoder.model_dump() | encoder, "tie_embeddings": True, "head_dim": None}
        return ModelConfig(**self.model_dump() | sizes | changed)

    def _generator_sizes(self) -> dict[str, int]:
        factor = self.encoder.generator_factor or 1.0
        return {name: max(1, round(getattr(self, name) * factor)) for name in _WIDTHS}

    @model_validator(mode="after")
    def _consistent(self) -> ModelConfig:
        if self.num_heads % self.num_kv_heads:
            raise ValueError(f"num_heads {self.num_heads} is not divisible by num_kv_heads {self.num_kv_heads}")
        if self.head_dim is None and self.latent_attention is None and self.hidden_size % self.num_heads:
            raise ValueError(
                f"hidden_size {self.hidden_size} is not divisible by num_heads {self.num_heads}; set head_dim"
            )
        if self.positions == "rope" and self.rotary_size % 2:
            raise ValueError(f"head_dim {self.rotary_size} is odd; rotary positions need pairs")
        if self.latent_attention and (why := self._not_latent()):
            raise ValueError(why)
        if 0 < self.num_experts < self.experts_per_token:
            raise ValueError(f"experts_per_token {self.experts_per_token} of only {self.num_experts} num_experts")
        if self.num_experts and (why := self.routing.refusal(self.num_experts, self.experts_per_token)):
            raise ValueError(why)
        if self.num_experts and (self.activation != "silu" or not self.gated or "mlp" in self.biases):
            raise ValueError("num_experts: experts are SwiGLUs; leave activation silu, gated true, no mlp in biases")
        if self.num_experts and not self.routing.dense_layers < self.num_layers:
            raise ValueError(f"routing.dense_layers {self.routing.dense_layers} of only {self.num_layers} num_layers")
        if self.leading_layers % len(self.windows):
            raise ValueError(
                f"routing.dense_layers {self.leading_layers} is no multiple of global_every {self.global_every}, "
                "by which layers take turns"
            )
        if self.global_every and self.window is None:
            raise ValueError(f"global_every {self.global_every} without a window; set window")
        if self.architecture == "encoder" and (why := self._no_encoder()):
            raise ValueError(why)
        if self.architecture == "decoder" and (why := self._no_decoder()):
            raise ValueError(why)
        if self.architecture == "encoder_decoder" and (why := self._no_encoder_decoder()):
            raise ValueError(why)
        return self

    def _not_latent(self) -> str | None:
        """What latent attention does not compute (maxllm/models/latent_attention.py)."""
        others = {
            "window": self.window,
            "attention_softcap": self.attention_softcap,
            "query_key_norm": self.query_key_norm,
            "dual_chunk": self.dual_chunk,
            "biases": set(self.biases) - {"mlp"},
            "positions": self.positions not in ("rope", "none"),
        }
        first = next((name for name, asked in others.items() if asked), None)
        return first and f"{first} does not go with latent_attention; leave it at its default"

    def _no_decoder(self) -> str | None:
        """Why this is not a decoder whose positions we compute (maxllm/models/decoder.py)."""
        if self.labels and self.labels.kind != "token" and self.labels.pooling == "first":
            return "labels.pooling first: a decoder's first token has seen no other; set it to last or mean"
        if self.positions in ("relative", "disentangled"):
            return f"positions {self.positions}: a decoder alone has rope, learned, sinusoidal, alibi or none"
        if self.positions == "sinusoidal" and self.hidden_size % 2:
            return f"hidden_size {self.hidden_size} is odd; sinusoidal positions need pairs"
        if self.positions != "rope":
            for name in ("rope_scaling", "dual_chunk"):
                if getattr(self, name):
                    return f"{name}: it is of rotary positions; set positions to rope, not {self.positions}"
        if not self.dual_chunk:
            return None
        if self.window is not None:
            return "dual_chunk does not go with a window"
        if self.rope_scaling and self.rope_scaling.kind == "dynamic":
            return "dual_chunk: no position of it is beyond the original ones; rope_scaling.kind cannot be dynamic"
        return None

    def _no_encoder_decoder(self) -> str | None:
        """Why this is not an encoder-decoder that we compute (maxllm/models/encoder_decoder.py)."""
        pair = self.encoder_decoder
        if self.positions not in ("relative", "learned", "sinusoidal", "none"):
            return f"positions {self.positions}: encoder-decoders have relative, learned, sinusoidal ones or none"
        if self.positions == "sinusoidal" and self.hidden_size % 2:
            return f"hidden_size {self.hidden_size} is odd; sinusoidal positions need pairs"
        others = ("num_experts", "window", "dual_chunk", "latent_attention", "logits_softcap", "labels")
        for name in (*others, "prediction_layers"):
            if getattr(self, name):
                return f"{name}: encoder-decoders have none; leave it at its default"
        if self.query_key_norm:
            return "query_key_norm: encoder-decoders have none; set it to false"
        exact = pair.relative_buckets // 2
        if self.positions == "relative" and (pair.relative_buckets % 4 or pair.relative_distance <= exact):
            return (
                f"encoder_decoder.relative_buckets {pair.relative_buckets} and .relative_distance "
                f"{pair.relative_distance}: buckets come in fours, and more than half as many distances are told apart"
            )
        largest = max(pair.start_id, pair.forced_id or 0)
        if largest >= self.vocab_size:
            return f"encoder_decoder: token {largest} to begin with is not below vocab_size {self.vocab_size}"
        return None

    def _no_encoder(self) -> str | None:
        """Why this is not an encoder that we compute (maxllm/models/encoder.py)."""
        encoder, disentangled = self.encoder, self.positions == "disentangled"
        if self.positions not in ("learned", "disentangled"):
            return f"positions {self.positions}: encoders have learned or disentangled ones"
        if self.num_experts or self.window:
            return f"{'num_experts' if self.num_experts else 'window'}: encoders have none"
        if not self.tie_embeddings and self.labels is None and encoder.head != "replaced":
            return "tie_embeddings is false; encoders score words with their embedding: set it to true"
        if disentangled and not encoder.relative_positions:
            return "encoder.relative_positions 0; disentangled positions need the largest distance"
        if disentangled and encoder.embedding_size not in (None, self.hidden_size):
            return "encoder.embedding_size other than hidden_size does not go with disentangled positions"
        if disentangled and self.num_kv_heads != self.num_heads:
            return f"num_kv_heads {self.num_kv_heads}: disentangled positions need as many as num_heads"
        if encoder.mask_decoder_layers and not disentangled:
            return "encoder.mask_decoder_layers: absolute positions come in late where they are disentangled before"
        if encoder.generator_factor and encoder.head != "replaced":
            return "encoder.generator_factor: a generator goes with encoder.head=replaced"
        if encoder.generator_factor and (disentangled or self.labels):
            return "encoder.generator_factor: a generator goes with learned positions, and with no labels"
        sizes = self._generator_sizes()
        uneven = sizes["hidden_size"] % sizes["num_heads"] or sizes["num_heads"] % sizes["num_kv_heads"]
        if encoder.generator_factor and uneven:
            names = ", ".join(f"{name} {size}" for name, size in sizes.items())
            return f"encoder.generator_factor {encoder.generator_factor}: a generator of {names} has uneven heads"
        return None
