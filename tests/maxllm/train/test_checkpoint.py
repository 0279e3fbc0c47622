"""What is restored is what was saved, wherever it lands; what is not whole is not used, and said so."""

from __future__ import annotations

import json
import os
import resource
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from maxllm.config.errors import UserError
from maxllm.train.checkpoint import Checkpoints, SaveFailed
from maxllm.train.trees import abstract, fingerprints


def mesh_of(**axes: int) -> jax.sharding.Mesh:
    return jax.make_mesh(tuple(axes.values()), tuple(axes), axis_types=(AxisType.Auto,) * len(axes))


def trees_of(step: int, mesh: jax.sharding.Mesh | None = None) -> dict[str, Any]:
    """Parameters and moments that differ from step to step, of several dtypes and ranks."""
    mesh = mesh or mesh_of(fsdp=8)
    first, last = mesh.axis_names[0], mesh.axis_names[-1]

    def put(array: jax.Array, *axes: str | None) -> jax.Array:
        return jax.device_put(array, NamedSharding(mesh, PartitionSpec(*axes)))

    kernel = jax.random.normal(jax.random.key(step), (64, 48))
    return {
        "parameters": {"layers": {"kernel": put(kernel, first, None)}, "norm": put(jnp.arange(8.0) + step, last)},
        "optimizer": (put(jnp.int32(step)), {"mu": put(kernel.astype(jnp.bfloat16), None, first)}),
    }


def same(left: Any, right: Any) -> bool:
    pairs = zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True)
    return all(np.asarray(a).tobytes() == np.asarray(b).tobytes() for a, b in pairs)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoints of steps 10 and 20."""
    folder = tmp_path_factory.mktemp("saved") / "checkpoints"
    checkpoints = Checkpoints(str(folder))
    for step in (10, 20):
        checkpoints.save(step, trees_of(step), {"next_batch": step}, {"tokenizer": {"a": "b"}})
    checkpoints.close()
    return folder


@pytest.fixture
def copy(saved: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "checkpoints"))


def files_of(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("axes", [{"fsdp": 8}, {"data": 2, "tensor": 4}, {"one": 1}], ids=str)
def test_restores_bit_for_bit_on_another_mesh(saved: Path, axes: dict[str, int]) -> None:
    devices = jax.devices()[: int(np.prod(list(axes.values())))]
    mesh = jax.make_mesh(tuple(axes.values()), tuple(axes), axis_types=(AxisType.Auto,) * len(axes), devices=devices)
    target = abstract(trees_of(0, mesh))
    restored = Checkpoints(str(saved), read_only=True).restore(target)
    assert (restored.step, restored.meta["next_batch"]) == (20, 20)
    assert same(restored.trees, trees_of(20))
    for leaf, wanted in zip(jax.tree.leaves(restored.trees), jax.tree.leaves(target), strict=True):
        assert leaf.sharding.is_equivalent_to(wanted.sharding, leaf.ndim)


def test_keeps_the_newest(tmp_path: Path) -> None:
    checkpoints = Checkpoints(str(tmp_path / "checkpoints"), keep=2)
    for step in (1, 2, 3, 4):
        checkpoints.save(step, trees_of(step), {})
    checkpoints.close()
    assert checkpoints.steps() == [3, 4]
    assert sorted(os.listdir(tmp_path / "checkpoints")) == ["3", "4"]


def test_no_checkpoint_is_none(tmp_path: Path) -> None:
    assert Checkpoints(str(tmp_path / "none")).restore(abstract(trees_of(0))) is None


# Orbax names array data by hash: the largest file is array data, whatever its name.
DAMAGED = {
    "array data": lambda folder: max(folder.glob("parameters/**/d/*"), key=lambda path: path.stat().st_size),
    "array index": lambda folder: folder / "optimizer" / "manifest.ocdbt",
    "tree metadata": lambda folder: folder / "parameters" / "_METADATA",
    "array metadata": lambda folder: folder / "optimizer" / "array_metadatas" / "process_0",
    "meta": lambda folder: folder / "meta" / "metadata",
    "tokenizer": lambda folder: folder / "tokenizer" / "metadata",
    "list of files": lambda folder: folder / "files.json",
}


def damage(path: Path, how: str) -> None:
    content = path.read_bytes()
    if how == "missing":
        path.unlink()
    elif how == "one bit":
        middle = len(content) // 2
        path.write_bytes(content[:middle] + bytes([content[middle] ^ 0x10]) + content[middle + 1 :])
    else:
        path.write_bytes(content[: len(content) // 2] if how == "truncated" else b"")


@pytest.mark.parametrize("how", ["truncated", "empty", "missing", "one bit"])
@pytest.mark.parametrize("what", DAMAGED)
def test_a_damaged_newest_falls_back_and_says_so(copy: Path, what: str, how: str) -> None:
    damage(DAMAGED[what](copy / "20"), how)
    said: list[str] = []
    checkpoints = Checkpoints(str(copy), say=said.append)
    restored = checkpoints.restore(abstract(trees_of(0)))
    assert restored.step == 10
    assert same(restored.trees, trees_of(10))
    assert "checkpoint of step 20 is damaged" in said[0]
    # The damaged one is kept for a person to look at, and the run can save that step again.
    assert (copy.parent / "damaged" / "20").is_dir()
    checkpoints.save(20, trees_of(20), {})
    checkpoints.close()
    assert same(Checkpoints(str(copy)).restore(abstract(trees_of(0))).trees, trees_of(20))


@pytest.mark.slow
def test_no_damaged_file_ever_changes_what_is_restored(saved: Path, tmp_path: Path) -> None:
    """Every file of a checkpoint, damaged in four ways: either it did not matter or the previous one is used."""
    for name in files_of(saved / "20"):
        for how in ("truncated", "empty", "missing", "one bit"):
            folder = Path(shutil.copytree(saved, tmp_path / "checkpoints"))
            damage(folder / "20" / name, how)
            restored = Checkpoints(str(folder), say=lambda _: None).restore(abstract(trees_of(0)))
            assert same(restored.trees, trees_of(restored.step)), (name, how)
            assert restored.meta["next_batch"] == restored.step, (name, how)
            shutil.rmtree(tmp_path / "checkpoints")
            shutil.rmtree(tmp_path / "damaged", ignore_errors=True)


def test_nothing_whole_is_an_error_and_nothing_is_moved(copy: Path) -> None:
    for step in ("10", "20"):
        damage(DAMAGED["meta"](copy / step), "truncated")
    with pytest.raises(UserError, match="no checkpoint is whole.*step 20.*step 10"):
        Checkpoints(str(copy), say=lambda _: None).restore(abstract(trees_of(0)))
    assert sorted(os.listdir(copy)) == ["10", "20"]


def test_a_half_written_save_is_never_seen(copy: Path) -> None:
    # What a kill during a save leaves: the folder under its temporary name.
    os.rename(copy / "20", copy / "20.orbax-checkpoint-tmp")
    assert Checkpoints(str(copy), say=lambda _: None).restore(abstract(trees_of(0))).step == 10
    checkpoints = Checkpoints(str(copy))
    checkpoints.save(20, trees_of(20), {})
    checkpoints.close()
    assert sorted(os.listdir(copy)) == ["10", "20"]


def test_a_full_disk_costs_only_that_save(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """A limit on file size stands in for the full disk: the system refuses the write in the same place."""
    checkpoints = Checkpoints(str(tmp_path / "checkpoints"))
    big = {"parameters": jax.random.normal(jax.random.key(0), (300, 500))}
    checkpoints.save(1, big, {})
    checkpoints.wait()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(SaveFailed, match=r"saving step 2 .*File too large.*step 1 is still good"):
            checkpoints.save(2, big, {})
            checkpoints.wait()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert capfd.readouterr().err == ""  # one sentence, not Orbax's pages
    assert same(checkpoints.restore(abstract(big)).trees, big)
    checkpoints.save(3, big, {})
    checkpoints.close()
    assert checkpoints.steps() == [1, 3]


def test_too_little_space_is_seen_before_writing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoints = Checkpoints(str(tmp_path / "checkpoints"))
    checkpoints.save(1, trees_of(1), {})
    checkpoints.wait()
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=10))
    with pytest.raises(SaveFailed, match=r"saving step 2 .*0.00 GB free.*step 1 is still good"):
        checkpoints.save(2, trees_of(2), {})
    monkeypatch.undo()
    checkpoints.save(3, trees_of(3), {})
    checkpoints.close()
    assert checkpoints.steps() == [1, 3]


def test_fingerprints_do_not_depend_on_layout_and_see_one_bit() -> None:
    one, other = trees_of(3), trees_of(3, mesh_of(data=2, tensor=4))
    assert fingerprints(one) == fingerprints(other)
    for bit in (0, 13, 31):
        kernel = np.array(one["parameters"]["layers"]["kernel"]).view(np.uint32)
        kernel[17, 5] ^= np.uint32(1 << bit)
        flipped = {"parameters": {"layers": {"kernel": jnp.asarray(kernel.view(np.float32))}}}
        name = "parameters/layers/kernel"
        assert fingerprints(flipped)[name] != fingerprints(one)[name]


def test_sizes_and_checksums_of_all_items_are_listed(saved: Path) -> None:
    listed = json.loads((saved / "20" / "files.json").read_text())
    on_disk = {name for name in files_of(saved / "20") if "/" in name}
    assert on_disk == set(listed)
