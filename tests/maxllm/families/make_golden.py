"""Makes the golden folders beside this file with PyTorch and transformers, once; the test suite needs neither.

    python -m venv /some/where && /some/where/bin/pip install torch transformers
    /some/where/bin/python tests/maxllm/families/make_golden.py [NAME ...]        (no name: every one)

`golden/NAME/` is what `save_pretrained` writes for a tiny random model of one entry of FAMILIES, at most 150 KB, and
`expected.npz`: what transformers computes from that folder, for two inputs `i` of different lengths, unpadded:

    tokens_i             int64 `[batch, length]`; types_i: token types, where the model has them
    decoder_i            int64 `[batch, length]`: what an encoder-decoder's decoder is given
    logits_i             fp32 `[batch, length, vocab]`; `[batch, length]` of a discriminator; or `[batch, classes]`
    next_sentence_i      fp32 `[batch, 2]`: BERT's other head
    bfloat16_kl_i        fp32 `[batch, length]`: KL(transformers in bfloat16 || transformers in fp32), nats; absent
                         where transformers itself cannot
    greedy_i             int64 `[8]`: the likeliest continuation of row 0 (of a decoder's start token), made without a
                         cache; the best token leads by 1e-3 at least, so that rounding decides nothing

Every parameter is random, norms, biases and positions too, so that a mapping which forgets one cannot pass.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
import transformers as hf

GOLDEN = Path(__file__).parent / "golden"
LARGEST = 150_000  # bytes of a folder's weights
LENGTHS = ((2, 24), (1, 13))
CONTINUED = 8
LEARNED_BUFFERS = ("e_score_correction_bias",)  # the others are computed, or zeros (BART's final_logits_bias)
NO_BFLOAT16 = ("deberta",)  # transformers' own raises: its positions' products stay in fp32
START = 0  # the token an encoder-decoder's decoder begins with

WORDS = dict(vocab_size=96, bos_token_id=1, eos_token_id=2, pad_token_id=3)
# The names that Llama's children share.
SMALL = WORDS | dict(
    hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
    max_position_embeddings=64, tie_word_embeddings=False,
)  # fmt: skip
GPT = WORDS | dict(n_positions=32, n_embd=32, n_layer=2, n_head=4)
EXPERTS = dict(num_experts=4, num_experts_per_tok=2, moe_intermediate_size=16)
ENCODER = dict(
    vocab_size=96, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
    max_position_embeddings=32, pad_token_id=3,
)  # fmt: skip
DEBERTA = ENCODER | dict(
    relative_attention=True, position_biased_input=False, type_vocab_size=0, layer_norm_eps=1e-7, legacy=False,
)  # fmt: skip
T5 = dict(
    vocab_size=96, d_model=32, d_kv=8, d_ff=40, num_layers=2, num_heads=2, relative_attention_num_buckets=8,
    relative_attention_max_distance=16, decoder_start_token_id=START, pad_token_id=START, eos_token_id=1,
)  # fmt: skip


def rope(kind: str, **settings: float) -> dict:
    return dict(rope_parameters=dict(rope_type=kind, rope_theta=10000.0, **settings))


LLAMA_3_1 = rope(
    "llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=16
) | dict(max_position_embeddings=128)
YARN = rope("yarn", factor=4.0, original_max_position_embeddings=16) | dict(max_position_embeddings=64)
LATENT = dict(
    num_key_value_heads=4, q_lora_rank=12, kv_lora_rank=16, qk_nope_head_dim=8, qk_rope_head_dim=4, v_head_dim=6,
    first_k_dense_replace=1, n_routed_experts=8, n_shared_experts=1, n_group=4, topk_group=2, num_experts_per_tok=2,
    intermediate_size=24, moe_intermediate_size=8, routed_scaling_factor=2.5, num_hidden_layers=3,
    num_nextn_predict_layers=0,
)  # fmt: skip

# name: (class of the model, its config). Layers are as many as show every alternation. New ones go last: seeds are
# the order's.
FAMILIES = {
    "gpt1": (hf.OpenAIGPTLMHeadModel, hf.OpenAIGPTConfig(**GPT)),
    "gpt2": (hf.GPT2LMHeadModel, hf.GPT2Config(**GPT)),
    "llama": (hf.LlamaForCausalLM, hf.LlamaConfig(**SMALL)),
    "llama_tied": (hf.LlamaForCausalLM, hf.LlamaConfig(**SMALL | dict(tie_word_embeddings=True))),
    "llama3_1": (hf.LlamaForCausalLM, hf.LlamaConfig(**SMALL | LLAMA_3_1)),
    "mistral": (hf.MistralForCausalLM, hf.MistralConfig(**SMALL, head_dim=16, sliding_window=8)),
    "mixtral": (hf.MixtralForCausalLM, hf.MixtralConfig(**SMALL | dict(intermediate_size=20), num_local_experts=4)),
    "qwen2": (hf.Qwen2ForCausalLM, hf.Qwen2Config(**SMALL)),
    "qwen2_moe": (
        hf.Qwen2MoeForCausalLM,
        hf.Qwen2MoeConfig(**SMALL | EXPERTS, shared_expert_intermediate_size=24, decoder_sparse_step=1),
    ),
    "qwen3": (hf.Qwen3ForCausalLM, hf.Qwen3Config(**SMALL | dict(tie_word_embeddings=True), head_dim=16)),
    "qwen3_yarn": (hf.Qwen3ForCausalLM, hf.Qwen3Config(**SMALL | YARN, head_dim=16)),
    "qwen3_moe": (
        hf.Qwen3MoeForCausalLM,
        hf.Qwen3MoeConfig(**SMALL | EXPERTS, head_dim=16, norm_topk_prob=True, decoder_sparse_step=1),
    ),
    "gemma": (
        hf.GemmaForCausalLM,
        hf.GemmaConfig(**SMALL | dict(num_key_value_heads=1, tie_word_embeddings=True), head_dim=16),
    ),
    "gemma2": (
        hf.Gemma2ForCausalLM,
        hf.Gemma2Config(
            **SMALL | dict(num_hidden_layers=4, tie_word_embeddings=True), head_dim=8, sliding_window=8,
            query_pre_attn_scalar=16, attn_logit_softcapping=2.0, final_logit_softcapping=3.0,
        ),
    ),
    "gemma3": (
        hf.Gemma3ForCausalLM,
        hf.Gemma3TextConfig(
            **SMALL | dict(num_hidden_layers=7, intermediate_size=24, num_attention_heads=2, num_key_value_heads=1)
            | dict(tie_word_embeddings=True), head_dim=8, sliding_window=6, query_pre_attn_scalar=16,
            rope_parameters={
                "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
                "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
            },
        ),
    ),
    "deepseek_v3": (hf.DeepseekV3ForCausalLM, hf.DeepseekV3Config(**SMALL | LATENT | rope("default"))),
    "deepseek_v3_yarn": (
        hf.DeepseekV3ForCausalLM,
        hf.DeepseekV3Config(
            **SMALL
            | LATENT
            | rope("yarn", factor=4.0, original_max_position_embeddings=16, mscale=1.0, mscale_all_dim=0.5,
                   beta_fast=32, beta_slow=1)
        ),
    ),
    "bert": (hf.BertForPreTraining, hf.BertConfig(**ENCODER, type_vocab_size=2)),
    "roberta": (hf.RobertaForMaskedLM, hf.RobertaConfig(**ENCODER | dict(pad_token_id=1), type_vocab_size=1)),
    "electra_generator": (
        hf.ElectraForMaskedLM,
        hf.ElectraConfig(**ENCODER, embedding_size=48, type_vocab_size=2),
    ),
    "electra_discriminator": (
        hf.ElectraForPreTraining,
        hf.ElectraConfig(**ENCODER, embedding_size=48, type_vocab_size=2),
    ),
    "deberta": (
        hf.DebertaForMaskedLM,
        hf.DebertaConfig(**DEBERTA, max_relative_positions=8, pos_att_type="c2p|p2c"),
    ),
    "deberta_v3": (
        hf.DebertaV2ForMaskedLM,
        hf.DebertaV2Config(
            **DEBERTA, max_relative_positions=-1, position_buckets=4, norm_rel_ebd="layer_norm", share_att_key=True,
            pos_att_type="p2c|c2p",
        ),
    ),
    "bert_sequence": (
        hf.BertForSequenceClassification,
        hf.BertConfig(**ENCODER, type_vocab_size=2, num_labels=3),
    ),
    "roberta_token": (
        hf.RobertaForTokenClassification,
        hf.RobertaConfig(**ENCODER | dict(pad_token_id=1), type_vocab_size=1, num_labels=5),
    ),
    "t5": (hf.T5ForConditionalGeneration, hf.T5Config(**T5, feed_forward_proj="relu", tie_word_embeddings=True)),
    "t5_v1_1": (
        hf.T5ForConditionalGeneration,
        hf.T5Config(**T5, feed_forward_proj="gated-gelu", tie_word_embeddings=False),
    ),
    "bart": (
        hf.BartForConditionalGeneration,
        hf.BartConfig(
            vocab_size=96, d_model=24, encoder_layers=2, decoder_layers=2, encoder_attention_heads=4,
            decoder_attention_heads=4, encoder_ffn_dim=32, decoder_ffn_dim=32, max_position_embeddings=32,
            pad_token_id=1, bos_token_id=0, eos_token_id=2, decoder_start_token_id=START, forced_eos_token_id=None,
        ),
    ),
    "electra_sequence": (
        hf.ElectraForSequenceClassification,
        hf.ElectraConfig(**ENCODER, embedding_size=32, type_vocab_size=2, num_labels=3),
    ),
    "deberta_v2_sequence": (
        hf.DebertaV2ForSequenceClassification,
        hf.DebertaV2Config(
            **DEBERTA | dict(num_labels=3), max_relative_positions=6, position_buckets=-1, norm_rel_ebd="none",
            share_att_key=False, pos_att_type="c2p|p2c",
        ),
    ),
    "transformer": (
        hf.OPTForCausalLM,
        hf.OPTConfig(
            **WORDS, hidden_size=32, ffn_dim=48, num_hidden_layers=2, num_attention_heads=4, word_embed_proj_dim=32,
            max_position_embeddings=32, do_layer_norm_before=False, activation_function="relu",
            tie_word_embeddings=False,
            maxllm=dict(biases=["mlp"], embedding_scale=32**0.5, tie_embeddings=True),
        ),
    ),
}  # fmt: skip


def randomise(model: torch.nn.Module, generator: torch.Generator) -> None:
    """Matrices of standard deviation 0.2, norms' weights around 1 (around 0 where 1 is added to them)."""
    around_one = {
        id(module.weight)
        for name, module in model.named_modules()
        if "norm" in type(module).__name__.lower() and "gemma" not in type(module).__name__.lower()
    }
    buffers = [(name, buffer) for name, buffer in model.named_buffers() if name.endswith(LEARNED_BUFFERS)]
    for _, tensor in [*model.named_parameters(), *buffers]:
        noise = 0.2 * torch.randn(tensor.shape, generator=generator)
        tensor.data.copy_(1 + noise if id(tensor) in around_one else noise)
    if model.config.model_type == "t5" and model.config.tie_word_embeddings:
        model.shared.weight.data *= 5  # logits are divided by sqrt(d_model)
    if model.config.model_type == "opt":
        to_transformer(model)


def to_transformer(model: torch.nn.Module) -> None:
    """An OPT that is the original Transformer's decoder (Vaswani et al. 2017): sinusoids, biases in its feed-forward
    layers only, the head's table times sqrt(d_model) for words."""
    decoder, size = model.model.decoder, model.config.hidden_size
    for position in range(model.config.max_position_embeddings):
        angles = position / 10000 ** (torch.arange(0, size, 2, dtype=torch.float64) / size)
        decoder.embed_positions.weight.data[position + 2, 0::2] = angles.sin().float()
        decoder.embed_positions.weight.data[position + 2, 1::2] = angles.cos().float()
    decoder.embed_positions.weight.data[:2] = 0
    decoder.embed_tokens.weight.data.copy_(model.lm_head.weight.data * size**0.5)
    for layer in decoder.layers:
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            getattr(layer.self_attn, name).bias.data.zero_()


class Reference:
    """A folder as transformers computes it."""

    def __init__(self, folder: Path, kind: type, dtype: torch.dtype):
        # Loaded afresh, not converted: rotary frequencies that went through bfloat16 would stay rounded.
        plain = dict(attn_implementation="eager", experts_implementation="eager")
        self.model = kind.from_pretrained(folder, dtype=dtype, **plain).eval()
        self.pair = self.model.config.is_encoder_decoder

    @torch.no_grad()
    def __call__(self, inputs: dict[str, torch.Tensor]) -> hf.utils.ModelOutput:
        return self.model(**inputs)

    def logits(self, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        output = self(inputs)
        return (output.prediction_logits if "prediction_logits" in output else output.logits).float()

    def greedy(self, tokens: torch.Tensor) -> torch.Tensor:
        """The likeliest tokens after `tokens` `[length]`. Raises ArithmeticError where two are almost as likely."""
        ids = torch.tensor([[START]]) if self.pair else tokens[None]
        for _ in range(CONTINUED):
            inputs = dict(input_ids=tokens[None], decoder_input_ids=ids) if self.pair else dict(input_ids=ids)
            best, second = self.logits(inputs)[0, -1].topk(2).values
            if best - second < 1e-3:
                raise ArithmeticError
            ids = torch.cat([ids, self.logits(inputs)[:, -1].argmax(-1, keepdim=True)], dim=1)
        return ids[0, -CONTINUED:]


def inputs_of(config: hf.PretrainedConfig, generator: torch.Generator) -> Iterator[dict[str, torch.Tensor]]:
    for batch, length in LENGTHS:
        # Past the special tokens: padding in the middle of a text means something to some models.
        inputs = dict(input_ids=torch.randint(5, config.vocab_size, (batch, length), generator=generator))
        if getattr(config, "type_vocab_size", 0) > 1:
            inputs["token_type_ids"] = (torch.arange(length) >= length // 2).long().expand(batch, length)
        if config.is_encoder_decoder:
            rest = torch.randint(5, config.vocab_size, (batch, length // 2), generator=generator)
            inputs["decoder_input_ids"] = torch.cat([torch.full((batch, 1), START), rest], dim=1)
        yield inputs


def divergence(logits: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    """KL(logits || reference) in nats over the last axis; of a discriminator's scores, between its two outcomes."""
    if logits.ndim == 2:
        logits, reference = (torch.stack([x, torch.zeros_like(x)], -1) for x in (logits, reference))
    ours, theirs = logits.log_softmax(-1), reference.log_softmax(-1)
    return (ours.exp() * (ours - theirs)).sum(-1)


def make(name: str, seed: int) -> str:
    kind, config = FAMILIES[name]
    folder = GOLDEN / name
    shutil.rmtree(folder, ignore_errors=True)
    generator = torch.Generator().manual_seed(seed)
    model = kind(config)
    if getattr(config, "scale_decoder_outputs", True) is False:  # T5 1.1: transformers 5 ties its head all the same
        model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.clone())
    randomise(model, generator)
    model.save_pretrained(folder)
    size = sum(path.stat().st_size for path in folder.iterdir())
    if size > LARGEST:
        raise SystemExit(f"{name}: {size} bytes; make it smaller")
    whole, half = (Reference(folder, kind, dtype) for dtype in (torch.float32, torch.bfloat16))
    generates = whole.pair or kind.__name__.endswith(("ForCausalLM", "LMHeadModel"))
    expected = {}
    for number, inputs in enumerate(inputs_of(config, generator)):
        logits = whole.logits(inputs)
        names = dict(input_ids="tokens", token_type_ids="types", decoder_input_ids="decoder")
        values = {names[key]: value for key, value in inputs.items()} | dict(logits=logits)
        if name not in NO_BFLOAT16:
            values["bfloat16_kl"] = divergence(half.logits(inputs), logits)
        if "seq_relationship_logits" in (output := whole(inputs)):
            values["next_sentence"] = output.seq_relationship_logits
        if generates:
            values["greedy"] = whole.greedy(inputs["input_ids"][0])
        expected |= {f"{key}_{number}": value.numpy() for key, value in values.items()}
    np.savez_compressed(folder / "expected.npz", **expected)
    (folder / "generation_config.json").unlink(missing_ok=True)
    kl = np.mean([np.mean(expected.get(f"bfloat16_kl_{i}", np.nan)) for i in range(len(LENGTHS))])
    spread = expected["logits_0"].std()
    return f"{name}: {size / 1000:.0f} KB, logits' standard deviation {spread:.2f}, bfloat16 KL {kl:.1e}"


def main(names: list[str]) -> None:
    hf.logging.set_verbosity_error()
    hf.logging.disable_progress_bar()
    for name in names or FAMILIES:
        seed = 1000 * list(FAMILIES).index(name)
        while True:
            try:
                print(make(name, seed), flush=True)
                break
            except ArithmeticError:
                seed += 1


if __name__ == "__main__":
    main(sys.argv[1:])
