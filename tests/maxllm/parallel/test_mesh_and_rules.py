"""A mesh is what was asked for or a sentence; a layout that cannot work is refused before anything is compiled."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from maxllm.batch import empty_batch
from maxllm.config.errors import UserError
from maxllm.config.model import ModelConfig
from maxllm.config.parallel import MeshConfig
from maxllm.parallel.mesh import make_mesh, place_batch
from maxllm.parallel.rules import check_layout, constrain, layout


def mesh(**axes):
    return make_mesh(MeshConfig(**{"data": 1, "fsdp": 1, "tensor": 1} | axes))


def test_minus_one_takes_what_is_left():
    assert dict(mesh(data=2, fsdp=-1).shape) == {
        "data": 2,
        "stage": 1,
        "fsdp": 4,
        "expert": 1,
        "context": 1,
        "tensor": 1,
    }


@pytest.mark.parametrize("axes", [{"data": 3, "fsdp": -1}, {"data": 2}, {"tensor": 16}])
def test_a_mesh_that_does_not_match_the_devices_is_one_sentence(axes):
    with pytest.raises(UserError, match=r"(data|tensor)=\d.* does not cover the 8 devices.*; set one axis to -1"):
        mesh(**axes)


def test_each_device_gets_its_own_rows_of_a_batch():
    rows = np.arange(32, dtype=np.int32).reshape(8, 4)
    placed = place_batch(empty_batch(8, 4)._replace(tokens=rows), mesh(data=2, fsdp=2, tensor=2))
    assert placed.tokens.sharding.spec == PartitionSpec(("data", "fsdp", "expert"), "context")
    assert {shard.data.shape for shard in placed.tokens.addressable_shards} == {(2, 4)}
    np.testing.assert_array_equal(placed.tokens, rows)


@pytest.mark.parametrize(
    "model, axes, message",
    [
        ({"num_heads": 6, "num_kv_heads": 6, "hidden_size": 96}, {"tensor": 4, "fsdp": 2}, "num_heads 6 is not"),
        ({"num_kv_heads": 2}, {"tensor": 8}, r"num_kv_heads 2 is not divisible by mesh.tensor = 8"),
        ({"intermediate_size": 100}, {"tensor": 8}, "intermediate_size 100"),
        ({"vocab_size": 1001}, {"tensor": 8}, "vocab_size 1001"),
        ({"hidden_size": 20, "head_dim": 8, "vocab_size": 8}, {"fsdp": 8}, "hidden_size 20"),
        ({}, {"data": 4, "fsdp": 2}, r"accumulation_steps 4 is not divisible by mesh.data x mesh.fsdp = 8"),
    ],
)
def test_a_layout_that_cannot_work_is_refused_in_a_sentence(model, axes, message):
    for where in (mesh(**axes), MeshConfig(**{"data": 1, "fsdp": 1, "tensor": 1} | axes)):
        with pytest.raises(UserError, match=message):
            check_layout(ModelConfig(**model), where, micro_batch_size=4)


def test_a_layout_that_works_is_not_refused():
    check_layout(ModelConfig(), mesh(data=2, fsdp=2, tensor=2), micro_batch_size=4)
    check_layout(ModelConfig(), MeshConfig(data=2, fsdp=-1, tensor=2), micro_batch_size=1)


def test_constrain_leaves_whole_what_its_axes_do_not_divide():
    the_mesh = mesh(data=4, tensor=2)
    assert layout(the_mesh, (1, 5, 8), ("batch", "length", "heads")) == PartitionSpec(None, "context", "tensor")
    with jax.set_mesh(the_mesh):
        jax.jit(lambda x: constrain(x, "batch", "heads"))(np.ones((3, 3)))
    np.testing.assert_array_equal(constrain(np.ones((3, 3)), "batch", "heads"), np.ones((3, 3)))
