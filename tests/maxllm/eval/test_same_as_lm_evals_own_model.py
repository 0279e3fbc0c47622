"""Our adapter against lm-eval's own Hugging Face model (`HFLM`, PyTorch) on the exported folder: the same answers."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest
from flax import nnx
from lm_eval.api.instance import Instance

from maxllm.convert import hf
from maxllm.eval.answers import Answers
from maxllm.eval.lm_eval_adapter import MaxllmLM
from maxllm.eval.scorer import Scorer
from maxllm.models import Decoder
from maxllm.tokenizer import Tokenizer

LENGTH = 128
PEER = """
import json, sys
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM

folder, length = sys.argv[1], int(sys.argv[2])
lm = HFLM(pretrained=folder, dtype="float32", device="cpu", batch_size=4, max_length=length)
answers = {}
for kind, arguments in json.load(sys.stdin).items():
    # Left to the tokenizer, HFLM puts the beginning token before rolling texts twice, and scores the second.
    lm.add_bos_token = False if kind == "loglikelihood_rolling" else None
    requests = [Instance(request_type=kind, doc={}, arguments=tuple(a), idx=i) for i, a in enumerate(arguments)]
    answers[kind] = getattr(lm, kind)(requests)
json.dump(answers, open(folder + "/answers.json", "w"))
"""


@pytest.mark.slow
@pytest.mark.peer
@pytest.mark.timeout(1800)
def test_the_answers_are_those_of_lm_evals_own_model(
    model: Decoder, tokenizer: Tokenizer, texts: list[str], torch_python: Path, tmp_path: Path
):
    folder = tmp_path / "export"
    model = nnx.clone(model)
    # Nothing that is not UTF-8: whether broken bytes are shown as one or more U+FFFD is not what is compared here.
    single = np.array([i for i in range(tokenizer.vocab_size) if len(tokenizer.token_bytes(i)) == 1])
    model.head.kernel[...] = model.head.kernel[...].at[:, single].set(0)
    hf.save(model, tokenizer, folder)
    text = "\n".join(texts)
    pieces = [
        text[start : start + size] for start, size in zip(range(0, 6000, 300), [7, 60, 200, 900] * 5, strict=True)
    ]
    settings = {"until": ["\n\n", "Question:"], "max_gen_toks": 24, "do_sample": False, "temperature": 0.0}
    requests = {
        "loglikelihood": [
            *((piece, f" {piece[:20]}") for piece in pieces),
            ("", "import jax"),
            ("trailing space ", "x"),
        ],
        "loglikelihood_rolling": [(piece,) for piece in pieces],
        "generate_until": [(piece, settings) for piece in pieces],
    }
    subprocess.run([torch_python, "-c", PEER, folder, str(LENGTH)], input=json.dumps(requests), text=True, check=True)
    theirs = json.loads((folder / "answers.json").read_text())
    with Answers(model, tokenizer, context=LENGTH, batch_tokens=512) as answers:
        lm = MaxllmLM(Scorer(model, context=LENGTH, batch_tokens=512), tokenizer, answers)
        ours = {
            kind: getattr(lm, kind)([Instance(kind, {}, arguments, i) for i, arguments in enumerate(listed)])
            for kind, listed in requests.items()
        }
    for (log_p, greedy), (their_log_p, their_greedy) in zip(
        ours["loglikelihood"], theirs["loglikelihood"], strict=True
    ):
        assert log_p == pytest.approx(their_log_p, rel=1e-5, abs=1e-3)
        assert greedy == their_greedy
    assert ours["loglikelihood_rolling"] == pytest.approx(theirs["loglikelihood_rolling"], rel=1e-5, abs=1e-3)
    assert ours["generate_until"] == theirs["generate_until"]
    assert lm.did_not_fit  # some of the prompts were longer than the context, and cut alike
