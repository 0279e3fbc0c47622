"""What the folders of all encoders have in common: layers, embeddings, and the heads that a class's name tells."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from maxllm.config.model import ModelConfig
from maxllm.config.model_parts import EncoderConfig, LabelsConfig
from maxllm.convert.family import ACTIVATIONS, TO_ACTIVATION, Settings
from maxllm.convert.tensors import FLAT, LINEAR, OUTPUT, Layout, Tensor, one, repeated

# Of old folders, which transformers renames too.
_OLD = {"LayerNorm.gamma": "LayerNorm.weight", "LayerNorm.beta": "LayerNorm.bias"}
BUFFERS = (r".*\.position_ids", r".*\.token_type_ids")


def architecture(settings: Settings) -> str:
    """The class's name without the family's: "ForMaskedLM", "Model"...; "ForMaskedLM" where none is named."""
    names = settings.get("architectures") or [""]
    for part in ("For", "Model"):
        if part in names[0]:
            return names[0][names[0].index(part) :]
    if names[0]:
        raise settings.refused(f"architectures {names[0]} is not among those we compute")
    return "ForMaskedLM"


def labels(settings: Settings, kind: str, hidden: str) -> LabelsConfig | None:
    """The head of a class `kind` that has labels. `hidden`: what a text's classes are read through."""
    named = settings.get("id2label", {})
    count = len(named) or settings.get("num_labels", 2)
    names = tuple(str(name) for _, name in sorted(named.items(), key=lambda each: int(each[0])))
    if all(name == f"LABEL_{number}" for number, name in enumerate(names)) or len(set(names)) < count:
        names = ()
    if kind == "ForSequenceClassification":
        if count == 1:
            return LabelsConfig(kind="rerank", hidden=hidden)
        return LabelsConfig(kind="sequence", count=count, names=names, hidden=hidden)
    if kind == "ForTokenClassification":
        return LabelsConfig(kind="token", count=count, names=names, hidden="none")
    if kind == "Model":  # a key of our own: Sentence Transformers keep it in another file
        return LabelsConfig(kind="embedding", pooling=settings.get("pooling", "mean"), hidden="none")
    return None


def from_settings(
    settings: Settings, family: str, heads: Mapping[str, str], *, hidden: str, encoder: Mapping[str, Any], **more: Any
) -> ModelConfig:
    """`heads`: `encoder.head` of each class without labels; `encoder`, `more`: the family's own settings."""
    settings.only("quantization_config")
    settings.only("is_decoder", False)
    settings.only("add_cross_attention", False)
    settings.only("position_embedding_type", "absolute")
    kind = architecture(settings)
    its_labels = labels(settings, kind, hidden)
    if its_labels is None and kind not in heads:
        known = ", ".join([*heads, "ForSequenceClassification", "ForTokenClassification", "Model"])
        raise settings.refused(f"architectures ...{kind} is not among those we compute: {known}")
    if its_labels is None:
        settings.only("tie_word_embeddings", True)
    size = settings["hidden_size"]
    fields = dict(
        architecture="encoder",
        family=family,
        vocab_size=settings["vocab_size"],
        hidden_size=size,
        intermediate_size=settings["intermediate_size"],
        num_layers=settings["num_hidden_layers"],
        num_heads=settings["num_attention_heads"],
        num_kv_heads=settings["num_attention_heads"],
        max_positions=settings.get("max_position_embeddings", 512),
        positions="learned",
        norm="layer",
        norm_placement="post",
        norm_eps=settings.get("layer_norm_eps", 1e-12),
        activation=settings.choose("hidden_act", ACTIVATIONS, "gelu"),
        gated=False,
        biases=("query_key_value", "output", "mlp"),
        embedding_norm=True,
        tie_embeddings=True,
        init_std=settings.get("initializer_range", 0.02),
        encoder=EncoderConfig(head=heads.get(kind, "words"), **encoder),
        labels=its_labels,
    )
    return ModelConfig(**fields | more)


def to_settings(config: ModelConfig, prefix: str, heads: Mapping[str, str]) -> dict[str, Any]:
    """config.json, of the class `prefix` and what the head asks for; `heads` as in `from_settings`."""
    values: dict[str, Any] = {
        "attention_probs_dropout_prob": 0.0,
        "hidden_act": TO_ACTIVATION[config.activation],
        "hidden_dropout_prob": 0.0,
        "hidden_size": config.hidden_size,
        "initializer_range": config.init_std,
        "intermediate_size": config.intermediate_size,
        "layer_norm_eps": config.norm_eps,
        "max_position_embeddings": config.max_positions + config.encoder.position_offset,
        "num_attention_heads": config.num_heads,
        "num_hidden_layers": config.num_layers,
        "tie_word_embeddings": True,
        "type_vocab_size": config.encoder.type_vocab_size,
        "vocab_size": config.vocab_size,
    }
    if (own := config.labels) is None:
        kind = next(kind for kind, head in heads.items() if head == config.encoder.head)
    elif own.kind == "embedding":
        kind, values["pooling"] = "Model", own.pooling
    else:
        kind = "ForTokenClassification" if own.kind == "token" else "ForSequenceClassification"
        names = own.names or [f"LABEL_{number}" for number in range(1 if own.kind == "rerank" else own.count)]
        values["id2label"] = {str(number): name for number, name in enumerate(names)}
        values["label2id"] = {name: number for number, name in enumerate(names)}
    return {"architectures": [prefix + kind], **values}


def norm(theirs: str, ours: str) -> list[Tensor]:
    return [one(f"{theirs}.{part}", f"{ours}.{part}") for part in ("weight", "bias")]


def dense(theirs: str, ours: str, layout: Layout = LINEAR) -> list[Tensor]:
    return [one(f"{theirs}.weight", f"{ours}.kernel", layout), one(f"{theirs}.bias", f"{ours}.bias", FLAT)]


_BERT_ATTENTION = [
    tensor for name in ("query", "key", "value") for tensor in dense(f"attention.self.{name}", f"attention.{name}")
]


def body(config: ModelConfig, prefix: str, attention: list[Tensor] = _BERT_ATTENTION) -> list[Tensor]:
    """Embeddings and layers under `prefix`; `attention`: of a layer, what comes before its output's matrix."""
    tables = {"embed": "word_embeddings"}
    if config.encoder.type_vocab_size:
        tables["type"] = "token_type_embeddings"
    if config.positions == "learned" or decodes(config):
        tables["position"] = "position_embeddings"
    layer = [
        *attention,
        *dense("attention.output.dense", "attention.output", OUTPUT),
        *norm("attention.output.LayerNorm", "attention_norm"),
        *dense("intermediate.dense", "mlp.up"),
        *dense("output.dense", "mlp.down"),
        *norm("output.LayerNorm", "mlp_norm"),
    ]
    return [
        *(one(f"{prefix}.embeddings.{theirs}.weight", f"{ours}.embedding") for ours, theirs in tables.items()),
        *norm(f"{prefix}.embeddings.LayerNorm", "embedding_norm"),
        *repeated(layer, f"{prefix}.encoder.layer.{{}}.", "layers.", range(config.num_layers)),
    ]


def decodes(config: ModelConfig) -> bool:
    """Whether the model has absolute positions for its mask decoder alone (DeBERTa)."""
    return bool(config.encoder.mask_decoder_layers) and config.labels is None


def words(dense_name: str, norm_name: str, bias_name: str) -> list[Tensor]:
    return [*dense(dense_name, "words.dense"), *norm(norm_name, "words.norm"), one(bias_name, "words.bias")]


def label_head(config: ModelConfig, hidden: str, classes: str, token: str) -> list[Tensor]:
    """Names of the two layers of a head for texts, and of the one of a head for tokens."""
    if config.labels is None or config.labels.kind == "embedding":
        return []
    if config.labels.kind == "token":
        return dense(token, "label_head.classes")
    return [*dense(hidden, "label_head.dense"), *dense(classes, "label_head.classes")]


def renamed(name: str, prefix: str, parts: tuple[str, ...] = ("embeddings.", "encoder.")) -> str:
    """`name` as new folders have it, with `prefix` where the folder is of a body alone."""
    for old, new in _OLD.items():
        name = name.replace(old, new)
    return f"{prefix}.{name}" if name.startswith(parts) else name
