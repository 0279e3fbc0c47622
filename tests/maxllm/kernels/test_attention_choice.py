"""Which backend is taken, what is said about it, and that none is taken that is wrong."""

from __future__ import annotations

import logging

import jax
import jax.numpy as jnp
import pytest

from maxllm.config.compute import ComputeConfig
from maxllm.config.errors import UserError
from maxllm.kernels import attention_choice
from maxllm.kernels.attention import attention
from maxllm.kernels.attention_choice import BACKENDS, Asked, disagreement
from maxllm.kernels.attention_reference import reference
from maxllm.kernels.masking import CAUSAL, Masking

HOPPER = Asked("gpu", "NVIDIA H100 80GB HBM3", 4096, 4, 128, "bfloat16", True, CAUSAL)
TPU = HOPPER._replace(platform="tpu", kind="TPU v5 lite")
CPU = HOPPER._replace(platform="cpu", kind="cpu")


@pytest.fixture(autouse=True)
def forget_choices():
    attention_choice._chosen.cache_clear()
    yield
    attention_choice._chosen.cache_clear()


def chosen(asked: Asked) -> str:
    return attention_choice._chosen("auto", asked)


@pytest.mark.parametrize(
    "asked, name",
    [
        (CPU, "mapped"),
        (CPU._replace(length=65536), "blockwise"),
        (TPU, "splash"),
        (TPU._replace(masking=Masking(window=512, softcap=50.0), head_dim=96, dtype="float32"), "splash"),
        (HOPPER, "cudnn"),
        (HOPPER._replace(segments=False), "cudnn"),
        (HOPPER._replace(dtype="float32"), "blockwise"),
        (HOPPER._replace(kind="NVIDIA A100-SXM4-80GB"), "blockwise"),  # packed: from Hopper on
        (HOPPER._replace(kind="NVIDIA A100-SXM4-80GB", segments=False), "cudnn"),
        (HOPPER._replace(masking=Masking(softcap=50.0), length=1000), "blockwise"),
    ],
    ids=lambda value: value if isinstance(value, str) else f"{value.kind}-{value.dtype}",
)
def test_the_first_that_can_is_taken(asked, name):
    assert chosen(asked) == name


def test_the_choice_and_every_refusal_are_said_once_in_one_line(caplog):
    with caplog.at_level(logging.INFO):
        chosen(HOPPER._replace(dtype="float32"))
        chosen(HOPPER._replace(dtype="float32"))
    (line,) = [record.message for record in caplog.records if "attention" in record.message]
    assert line.startswith("attention: blockwise on NVIDIA H100 80GB HBM3 at length 4096 (memory linear in length")
    assert "; cudnn refused: it has no float32; mosaic refused: " in line


@pytest.mark.parametrize("backend", ["cudnn", "splash", "mosaic"])
def test_a_backend_that_cannot_says_why_and_what_to_use(backend):
    query = jnp.zeros((1, 8, 2, 8))
    with pytest.raises(UserError, match=rf"compute.attention={backend}: it is a kernel for .*; use .*=mapped"):
        attention(query, query, query, backend=backend)


def test_the_config_names_the_backends_there_are():
    options = ComputeConfig.model_fields["attention"].annotation.__args__
    assert set(options) == {"auto", *BACKENDS}


def test_a_kernel_that_ignores_segments_or_fails_is_found_out_before_it_is_used():
    asked = CPU._replace(head_dim=8, group=2, masking=Masking(window=9))

    def forgetful(query, key, value, segment_ids, masking):
        return reference(query, key, value, None, masking)

    def absent(query, key, value, segment_ids, masking):
        raise NotImplementedError("no kernel image is available\nfor this device")

    assert disagreement(BACKENDS["mapped"].run, asked) is None
    assert "its output is off by" in disagreement(forgetful, asked)
    assert "NotImplementedError: no kernel image is available)" in disagreement(absent, asked)


def test_another_librarys_kernel_is_tried_on_this_machine_also_while_tracing(monkeypatch):
    """A stand-in for a kernel that is wrong on this machine's device."""
    wrong = attention_choice.Backend(lambda q, k, v, s, m: q, "wrong", proved=False)
    monkeypatch.setitem(attention_choice.BACKENDS, "wrong", wrong)
    monkeypatch.setitem(attention_choice.ORDER, "cpu", ("wrong", "mapped"))
    query = jnp.zeros((1, 8, 2, 8))
    with jax.checking_leaks():
        jax.eval_shape(lambda x: attention(x, x, x), query)
    with pytest.raises(UserError, match="compute.attention=wrong: its output is off by .* on this machine; use "):
        attention(query, query, query, backend="wrong")
