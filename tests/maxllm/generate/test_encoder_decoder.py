"""Encoder-decoders generate through the same engine, scheduler and command, what their training forward says."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import nnx

from maxllm.batch import EncoderDecoderBatch, empty_batch
from maxllm.config.model import ModelConfig
from maxllm.config.serve import EngineConfig, SchedulerConfig
from maxllm.convert import hf
from maxllm.generate.engine import Engine
from maxllm.generate.prompt import prompt_ids
from maxllm.generate.request import InvalidRequest, Request, SamplingParams
from maxllm.generate.scheduler import Scheduler
from maxllm.models.encoder_decoder import EncoderDecoder

READ, WRITTEN = 40, 24
GREEDY = SamplingParams(temperature=0)
SHAPE = {
    "architecture": "encoder_decoder",
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_layers": 2,
    "num_heads": 4,
    "num_kv_heads": 4,
    "tie_embeddings": True,
    "init_std": 0.3,
}
T5 = SHAPE | {
    "family": "t5",
    "max_positions": WRITTEN,
    "positions": "relative",
    "attention_scale": 1.0,
    "norm_eps": 1e-6,
    "gated": False,
    "activation": "relu",
    "encoder_decoder": {
        "num_encoder_layers": 2,
        "relative_buckets": 8,
        "relative_distance": 12,
        "head_scale": 32**-0.5,
        "start_id": 3,
    },
}
BART = SHAPE | {
    "family": "bart",
    "max_positions": READ,
    "positions": "learned",
    "norm": "layer",
    "norm_placement": "post",
    "embedding_norm": True,
    "gated": False,
    "activation": "gelu",
    "biases": ("query_key_value", "output", "mlp"),
    "encoder_decoder": {"num_encoder_layers": 2, "position_offset": 2, "start_id": 2, "forced_id": 1},
}


def made(shape, tokenizer) -> EncoderDecoder:
    return EncoderDecoder(ModelConfig(**shape, vocab_size=tokenizer.vocab_size), rngs=nnx.Rngs(0))


def greedy_of(model: EncoderDecoder):
    """The next `count` tokens: both whole texts through the model for each of them."""
    structure, parameters = nnx.split(model)
    run = jax.jit(lambda batch: nnx.merge(structure, parameters)(batch))

    def side(ids, length):
        batch = empty_batch(1, length)
        batch.tokens[0, : len(ids)] = ids
        batch.segment_ids[0, : len(ids)] = 1
        batch.positions[0, : len(ids)] = np.arange(len(ids))
        return batch

    def greedy(prompt, count: int) -> tuple[int, ...]:
        pair = model.config.encoder_decoder
        written = [pair.start_id, *([] if pair.forced_id is None else [pair.forced_id])]
        begin = len(written)
        for _ in range(count):
            logits = run(EncoderDecoderBatch(side(prompt, READ), side(written, WRITTEN)))
            written.append(int(logits[0, len(written) - 1].argmax()))
        return tuple(written[begin:])

    return greedy


@pytest.mark.parametrize("shape", [T5, pytest.param(BART, marks=pytest.mark.slow)], ids=["t5", "bart"])
def test_many_prompts_in_few_slots_get_what_the_uncached_model_says(shape, tokenizer, prompts, monkeypatch):
    """Prompts longer and shorter than their answers, and than the longest answer; slots are used again."""
    monkeypatch.setattr("maxllm.generate.engine.SMALLEST_WINDOW", 16)
    model = made(shape, tokenizer)
    greedy = greedy_of(model)
    engine = Engine(model, EngineConfig(slots=2, max_length=WRITTEN, prefill_buckets=[READ]))
    counts = [1, 12, 5, 20, 3]
    chosen = [prompts[number] for number in (8, 2, 6, 0, 7)]
    with Scheduler(engine, tokenizer, SchedulerConfig(queue=64)) as scheduler:
        asked = [Request(prompt, count, GREEDY, ignore_eos=True) for prompt, count in zip(chosen, counts, strict=True)]
        found = [handle.result() for handle in [scheduler.submit(request) for request in asked]]
        with pytest.raises(InvalidRequest, match="does not predict it"):
            scheduler.submit(Request(chosen[0], 4, GREEDY, echo=True, logprobs=0))
        # As many as the slot has room for after what every answer begins with.
        room = WRITTEN - engine.begins_at(1)
        longest = scheduler.submit(Request(chosen[2], 1000, GREEDY, ignore_eos=True)).result()
    for prompt, count, completion in zip(chosen, counts, found, strict=True):
        assert completion.error is None
        assert completion.token_ids == greedy(prompt, count)
        assert completion.usage == (len(prompt), count)
    assert longest.token_ids == greedy(chosen[2], room)


@pytest.fixture(scope="module", params=["t5", pytest.param("bart", marks=pytest.mark.slow)])
def exported(request, tokenizer, tmp_path_factory) -> tuple[Path, EncoderDecoder]:
    model = made({"t5": T5, "bart": BART}[request.param], tokenizer)
    folder = tmp_path_factory.mktemp("exported") / request.param
    hf.save(model, tokenizer, folder)
    return folder, model


def test_the_command_answers_a_prompt(exported, tokenizer, capsys):
    from maxllm.cli.main import main

    folder, model = exported
    text = "def greet(name)"
    assert main(["generate", str(folder), text, "--max-tokens", "6", "--temperature", "0"]) == 0
    ids = prompt_ids(tokenizer, text, model.config)
    assert ids[-1] == tokenizer.eos_id
    answer = greedy_of(model)(ids, 6)
    answer = answer[: answer.index(tokenizer.eos_id)] if tokenizer.eos_id in answer else answer
    assert capsys.readouterr().out == tokenizer.decode(answer) + "\n"


PEER = """
import json, sys, torch
from transformers import AutoModelForSeq2SeqLM
model = AutoModelForSeq2SeqLM.from_pretrained(sys.argv[1])
ids = torch.tensor([json.loads(sys.argv[2])])
print(json.dumps(model.generate(ids, max_new_tokens=12, do_sample=False, num_beams=1, eos_token_id=None)[0].tolist()))
"""


@pytest.mark.peer
@pytest.mark.parametrize("shape", [T5, BART], ids=["t5", "bart"])
def test_transformers_answers_an_exported_model_alike(shape, tokenizer, prompts, torch_python, tmp_path):
    model = made(shape, tokenizer)
    hf.save(model, tokenizer, tmp_path / "exported")
    command = [torch_python, "-c", PEER, tmp_path / "exported", json.dumps([int(token) for token in prompts[4]])]
    said = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    pair = model.config.encoder_decoder
    begin = [pair.start_id] + ([] if pair.forced_id is None else [pair.forced_id])
    assert said == [*begin, *greedy_of(model)(prompts[4], 13 - len(begin))]
