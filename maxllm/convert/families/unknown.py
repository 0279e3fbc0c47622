"""Architectures that we do not have: the nearest that we have, and what differs."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

# model_type: (the nearest of ours, what theirs does otherwise). None: nothing of ours is near.
DIFFERS: dict[str, tuple[str | None, str]] = {
    "baichuan": ("llama", "query, key and value lie in one tensor, and the head's rows are normalised"),
    "bloom": ("gpt2", "ALiBi with a norm of the embeddings, and heads interleaved in one tensor"),
    "camembert": ("roberta", "nothing but the name: set model_type to roberta in config.json"),
    "chatglm": ("llama", "half of each head is turned, and two tensors hold five"),
    "cohere": ("llama", "attention and feed-forward stand side by side, and logits are scaled"),
    "cohere2": ("llama", "attention and feed-forward stand side by side, and logits are scaled"),
    "deepseek_v2": ("deepseek_v3", "experts are chosen by a softmax, without a balancing bias"),
    "distilbert": ("bert", "other names, no token types and no pooler"),
    "albert": ("bert", "all layers share one layer's parameters"),
    "falcon": ("gpt2", "attention and feed-forward stand side by side, with rotary or ALiBi positions"),
    "gemma3n": ("gemma3", "embeddings for each layer, and sparse activations"),
    "glm4": ("llama", "half of each head is turned, and norms stand on both sides"),
    "gpt_bigcode": ("gpt2", "all heads share one key and value"),
    "gpt_neo": ("gpt2", "every other layer has a window, and scores are not scaled"),
    "gpt_neox": ("gpt2", "attention and feed-forward stand side by side, and a part of each head is turned"),
    "gpt_oss": ("mixtral", "scores have a learned sink, and experts clamped activations and biases"),
    "gptj": ("gpt2", "attention and feed-forward stand side by side, and neighbouring dimensions are turned"),
    "granite": ("llama", "embeddings, scores, sums and logits have multipliers"),
    "internlm2": ("llama", "query, key and value lie interleaved in one tensor"),
    "jamba": (None, "most layers are state spaces instead of attention"),
    "llama4": ("llama", "experts, attention in chunks, layers without positions, and pictures"),
    "llama4_text": ("llama", "experts, attention in chunks, and layers without positions"),
    "llava": ("llama", "it sees pictures; its text model is a Llama under language_model"),
    "longformer": ("roberta", "attention is sparse"),
    "mamba": (None, "layers are state spaces instead of attention"),
    "mamba2": (None, "layers are state spaces instead of attention"),
    "minicpm": ("llama", "embeddings, sums and logits have multipliers"),
    "mistral3": ("mistral", "it sees pictures; its text model is a Mistral under text_config"),
    "mllama": ("llama", "it sees pictures, in layers of cross-attention"),
    "modernbert": ("bert", "rotary positions, a window in two of three layers, and gated feed-forward layers"),
    "mpt": ("gpt2", "ALiBi, and no biases"),
    "mt5": ("t5", "nothing but the name: set model_type to t5 in config.json"),
    "nemotron": ("llama", "layer norms of 1 + weight, a squared relu without a gate, and half of each head is turned"),
    "olmo": ("llama", "norms without weights"),
    "olmo2": ("llama", "norms after the sublayers, before the sums, and over all heads together"),
    "phi": ("gpt2", "attention and feed-forward stand side by side, and a part of each head is turned"),
    "phi3": ("llama", "query, key and value lie in one tensor, gate and up in another"),
    "qwen": ("qwen2", "query, key and value lie in one tensor, and other names"),
    "qwen2_vl": ("qwen2", "it sees pictures, and positions have three coordinates"),
    "qwen2_5_vl": ("qwen2", "it sees pictures, and positions have three coordinates"),
    "qwen3_next": ("qwen3_moe", "most layers have linear attention"),
    "rwkv": (None, "layers are recurrent instead of attention"),
    "smollm3": ("llama", "every fourth layer has no positions"),
    "stablelm": ("llama", "layer norms, and a part of each head is turned"),
    "starcoder2": ("llama", "layer norms, biases and a feed-forward layer without a gate"),
    "umt5": ("t5", "every layer has relative positions of its own"),
    "xlm-roberta": ("roberta", "nothing but the name: set model_type to roberta in config.json"),
    "xlnet": ("bert", "words are predicted in a random order"),
}


def nearest(model_type: str, supported: Iterable[str]) -> str:
    """Half a sentence about `model_type`, or nothing where nothing is known."""
    if model_type in DIFFERS:
        near, difference = DIFFERS[model_type]
        return f"; the nearest is {near}, but: {difference}" if near else f"; none is near: {difference}"
    close = difflib.get_close_matches(model_type, supported, n=1)
    return f"; did you mean {close[0]}?" if close else ""
