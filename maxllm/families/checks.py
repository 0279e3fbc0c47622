"""The checks of one model in the Hugging Face layout: each is a cell of the table, with what was measured.

With another program's values for some texts (`expected.npz`) a model is compared with them; without, with itself:
packed with unpacked, cached with uncached, eight devices with one, what was written with what was read.
"""

from __future__ import annotations

import itertools
import math
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from maxllm.batch import Batch, EncoderDecoderBatch
from maxllm.config.errors import UserError
from maxllm.config.model import ModelConfig
from maxllm.config.parallel import MeshConfig
from maxllm.config.serve import EngineConfig
from maxllm.convert import families, hf
from maxllm.convert.safetensors_io import TensorFolder
from maxllm.families.texts import (
    Expected,
    Rows,
    Scores,
    Text,
    batch_of,
    compiled,
    cut,
    divergence,
    random_texts,
    read_expected,
    scores,
)
from maxllm.generate.engine import Engine
from maxllm.generate.prompt import begins_with
from maxllm.parallel.mesh import make_mesh, place_batch
from maxllm.parallel.rules import check_layout

FORWARD = 1e-4  # of logits of order 1 against another program, float32
OURSELVES = 2e-5  # ... against ourselves, computed in another order
GRADIENTS = 1e-4  # relative, of a parameter's gradient on eight devices to that on one
# Nats, of bfloat16 to float32: twice the reference's own, and at least FLOOR; without one, DIVERGENCE. So with experts:
# rounding sends a token between two of them to the other one, and each program other tokens.
FLOOR, DIVERGENCE = 1e-3, 1e-2
GENERATED = 8
DEVICES = 8


@dataclass(frozen=True)
class Cell:
    """`shown`: what was measured. `failure`: empty, or why the check does not hold."""

    shown: str
    failure: str = ""

    def __str__(self) -> str:
        return f"FAIL: {self.failure}" if self.failure else self.shown


def within(error: float, bound: float, what: str = "largest difference") -> Cell:
    shown = f"{error:.1e}"
    return Cell(shown, "" if error <= bound else f"{what} {shown}, and {bound:.0e} is allowed")


NOT_ASKED = Cell("--")


class Subject:
    """One folder, with the texts it is tried on. `values`: a file as `expected.npz`, if there is one."""

    def __init__(self, folder: str | Path, values: str | Path | None = None):
        self.folder = Path(folder)
        self.values = values

    @cached_property
    def config(self) -> ModelConfig:
        return hf.load_config(self.folder)

    @cached_property
    def model(self) -> nnx.Module:
        """In float32, on one device."""
        return hf.load_decoder(self.folder)

    @cached_property
    def _given(self) -> tuple[list[Text], list[Expected]]:
        return read_expected(self.values) if self.values else (random_texts(self.config), [])

    @property
    def texts(self) -> list[Text]:
        return self._given[0]

    @property
    def expected(self) -> list[Expected]:
        """Of each text; empty without a reference."""
        return self._given[1]

    @cached_property
    def rows(self) -> list[list[Text]]:
        """Each text in a row of its own, and as many more as eight devices can share evenly."""
        rows = [[text] for text in self.texts]
        filler = (text for seed in itertools.count(1) for text in random_texts(self.config, seed))
        return rows + [[next(filler)] for _ in range(-len(rows) % DEVICES)]

    @cached_property
    def on_one_device(self) -> tuple[dict[str, jax.Array], nnx.State]:
        """Scores of `rows`, and gradients."""
        return compiled(scores_and_gradients, self.model)(batch_of(self.rows))

    @cached_property
    def alone(self) -> list[Scores]:
        """Of each text in a row of its own, in float32."""
        return cut(self.on_one_device[0], self.rows, self.config)[: len(self.texts)]

    @property
    def reference(self) -> list[Scores]:
        return [one.scores for one in self.expected] or self.alone


def scored(model: nnx.Module, rows: Rows) -> list[Scores]:
    return cut(compiled(scores, model)(batch_of(rows)), rows, model.config)


def difference(ours: list[Scores], theirs: list[Scores]) -> float:
    """The largest absolute one between any two scores; infinite where one is not a number or has no partner."""
    largest = 0.0
    for one, other in zip(ours, theirs, strict=True):
        if one.keys() != other.keys():
            return math.inf
        for head in one:
            if one[head].shape != other[head].shape or not np.isfinite(one[head]).all():
                return math.inf
            largest = max(largest, float(np.abs(one[head] - other[head]).max()))
    return largest


# The checks, in the order of the table.


def imports(subject: Subject) -> Cell:
    """Every tensor of the folder has its parameter, and every parameter its numbers."""
    leaves = jax.tree.leaves(nnx.split(subject.model)[1])
    broken = sum(not bool(jnp.isfinite(leaf).all()) for leaf in leaves)
    count = sum(leaf.size for leaf in leaves)
    return Cell(f"{count:,}", f"{broken} parameters hold values that are not finite" if broken else "")


def forward(subject: Subject) -> Cell:
    """Float32 scores of texts of two lengths against the reference's."""
    if not subject.expected:
        finite = all(np.isfinite(array).all() for one in subject.alone for array in one.values())
        return Cell("finite", "" if finite else "scores are not finite")
    return within(difference(subject.alone, subject.reference), FORWARD)


def in_bfloat16(subject: Subject) -> Cell:
    """Mean KL of our bfloat16 scores to the reference's in float32."""
    model = hf.load_decoder(subject.folder, "bfloat16")
    ours = scored(model, [[text] for text in subject.texts])
    kl = [divergence(one["logits"], other["logits"]) for one, other in zip(ours, subject.reference, strict=True)]
    mean = float(np.mean([part.mean() for part in kl]))
    theirs = [one.divergence for one in subject.expected if one.divergence is not None]
    least = FLOOR if theirs and not subject.config.num_experts else DIVERGENCE
    bound = max(least, 2 * float(np.mean(theirs))) if theirs else least
    return within(mean, bound, "mean KL") if math.isfinite(mean) else Cell("nan", "scores are not finite")


def gradients(subject: Subject) -> Cell:
    """Finite, and no parameter without one: shown is the norm of all."""
    flat = nnx.to_flat_state(subject.on_one_device[1])
    norms = {".".join(map(str, path)): float(jnp.linalg.norm(leaf[...].ravel())) for path, leaf in flat}
    bad = [name for name, norm in norms.items() if not math.isfinite(norm)]
    # The bias that chooses experts moves by their load, not by a gradient.
    idle = [name for name, norm in norms.items() if norm == 0 and not name.endswith(CHOOSING)]
    failure = f"not finite: {', '.join(bad)}" if bad else f"exactly zero: {', '.join(idle)}" if idle else ""
    return Cell(f"{math.sqrt(sum(norm**2 for norm in norms.values())):.3g}", failure)


CHOOSING = ("router.bias",)


def scores_and_gradients(
    model: nnx.Module, batch: Batch | EncoderDecoderBatch
) -> tuple[dict[str, jax.Array], nnx.State]:
    """The gradients are of the mean surprise at the following tokens (for heads of classes, at class 0) in nats."""
    structure, parameters = nnx.split(model)
    target = batch.decoder if isinstance(batch, EncoderDecoderBatch) else batch

    def loss(parameters: nnx.State) -> tuple[jax.Array, dict[str, jax.Array]]:
        total, found = jnp.float32(0), scores(nnx.merge(structure, parameters), batch)
        for values in found.values():
            if values.ndim == 2:
                values = jnp.stack([values, jnp.zeros_like(values)], axis=-1)
            of_words = values.shape[-1] == model.config.vocab_size
            classes = target.targets[..., None] if of_words else jnp.zeros_like(target.targets[..., None])
            surprise = -jnp.take_along_axis(jax.nn.log_softmax(values), classes, axis=-1)[..., 0]
            total += jnp.where(target.weights > 0, surprise, 0).sum()
        return total / target.weights.sum(), found

    gradients, found = jax.grad(loss, has_aux=True)(parameters)
    return found, gradients


def packed(subject: Subject) -> Cell:
    """Texts that share a row score as in rows of their own (as the reference does, where there is one)."""
    first, *others = subject.texts
    rows = [[first, *others[1:]], others[:1]]
    found = scored(subject.model, rows)
    own = [found[0], found[-1], *found[1:-1]]  # back in the texts' order
    return within(difference(own, subject.reference), FORWARD if subject.expected else OURSELVES)


def exports(subject: Subject) -> Cell:
    """What we write of the model: the folder's tensors, bit for bit, and a config.json that means the same."""
    with tempfile.TemporaryDirectory(prefix="maxllm-families-") as temporary:
        hf.write_model(subject.model, Path(temporary))
        if hf.load_config(temporary) != subject.config:
            return Cell("config", "config.json reads as another model")
        ours, theirs = TensorFolder(temporary), TensorFolder(subject.folder)
        names = {name: name in theirs for name in ours}
        # Those hold no parameter but what a family computes (a table of sinusoids): import has compared them.
        computed = families.by_name(subject.config.family).computed(subject.config)
        strange = [name for name, there in names.items() if not there]
        learnt = [name for name, there in names.items() if there and name not in computed]
        differing = [name for name in learnt if not same_tensor(ours, theirs, name)]
    if strange or differing:
        return Cell("", f"not in the folder: {strange[:3]}" if strange else f"other numbers in {differing[:3]}")
    return Cell(f"{len(learnt)} equal")


def same_tensor(ours: TensorFolder, theirs: TensorFolder, name: str) -> bool:
    one, other = (np.asarray(folder.files[name].read(name), np.float32) for folder in (ours, theirs))
    return one.shape == other.shape and one.tobytes() == other.tobytes()


def round_trip(subject: Subject) -> Cell:
    """Read back from what we write, no bit of any parameter has changed."""
    with tempfile.TemporaryDirectory(prefix="maxllm-families-") as temporary:
        hf.write_model(subject.model, Path(temporary))
        again = hf.load_decoder(temporary)
        states = [dict(nnx.to_flat_state(nnx.split(model)[1])) for model in (subject.model, again)]
        if states[0].keys() != states[1].keys():
            return Cell("", "other parameters came back")
        error = max(float(jnp.abs(states[0][path][...] - states[1][path][...]).max()) for path in states[0])
    return within(error, 0.0)


def generates(subject: Subject) -> Cell:
    """Greedy tokens from the engine, with its cache, against the reference's or those of whole passes without one."""
    if subject.config.architecture == "encoder":
        return NOT_ASKED
    prompts = [text.tokens for text in subject.texts]
    wanted: dict[int, np.ndarray] = {n: one.greedy for n, one in enumerate(subject.expected) if one.greedy is not None}
    if not wanted:
        wanted = {0: uncached(subject, subject.texts[0]), len(prompts) - 1: uncached(subject, subject.texts[-1])}
    written = continued(subject.model, [prompts[number] for number in wanted])
    equal = sum(int((one == other).sum()) for one, other in zip(written, wanted.values(), strict=True))
    total = sum(map(len, wanted.values()))
    return Cell(f"{equal}/{total}", "" if equal == total else f"{equal} of {total} tokens are equal")


def continued(model: nnx.Module, prompts: list[np.ndarray]) -> list[np.ndarray]:
    """The engine's likeliest GENERATED tokens after each prompt, side by side in its slots."""
    longest = max(map(len, prompts))
    config = EngineConfig(slots=len(prompts), max_length=longest + GENERATED, prefill_buckets=[longest])
    engine = Engine(model, config)
    state, tokens = engine.init_decode_state(), []
    for slot, prompt in enumerate(prompts):
        prefix, first = engine.prefill(
            params=engine.params, padded_tokens=engine.pad(prompt), true_length=len(prompt), max_tokens=GENERATED
        )
        state = engine.insert(prefix, state, slot)
        tokens.append([first.convert_to_numpy().get_result_at_slot(0).token])
    for _ in range(GENERATED - 1):
        state, result = engine.generate(engine.params, state)
        result = result.convert_to_numpy()
        for slot, own in enumerate(tokens):
            own.append(result.get_result_at_slot(slot).token)
    return [np.array(own, np.int32) for own in tokens]


def uncached(subject: Subject, text: Text) -> np.ndarray:
    """The likeliest tokens after `text`, each from a whole pass over all before it."""
    pair = subject.config.architecture == "encoder_decoder"
    begin = np.array(begins_with(subject.config), np.int32) if pair else text.tokens
    run, own = compiled(scores, subject.model), begin
    filler = np.zeros(GENERATED, np.int32)  # causal: what comes later changes nothing, and one length is one program
    for _ in range(GENERATED):
        whole = np.concatenate([own, filler])[: len(begin) + GENERATED]
        given = text._replace(decoder=whole) if pair else Text(whole)
        logits = np.asarray(run(batch_of([[given]]))["logits"])[0, len(own) - 1]
        own = np.append(own, np.int32(logits.argmax()))
    return own[len(begin) :]


def sharded(subject: Subject) -> Cell:
    """Scores and gradients on a mesh of eight devices against those on one."""
    if len(jax.devices()) < DEVICES:
        raise UserError(f"JAX sees {len(jax.devices())} devices; the check needs {DEVICES}, simulated or not")
    mesh = mesh_for(subject.config)
    with jax.set_mesh(mesh):
        model = hf.load_decoder(subject.folder, mesh=mesh)
        on_mesh = compiled(scores_and_gradients, model)(place_batch(batch_of(subject.rows), mesh))
    found, wanted = ([*map(np.asarray, jax.tree.leaves(part))] for part in (on_mesh, subject.on_one_device))
    heads = len(on_mesh[0])
    scores_off = max(float(np.abs(one - other).max()) for one, other in zip(found[:heads], wanted[:heads], strict=True))
    largest = max(float(np.abs(other).max()) for other in wanted[heads:])
    off = (np.abs(one - other).max() for one, other in zip(found[heads:], wanted[heads:], strict=True))
    gradients_off = float(max(off)) / largest
    if not (scores_off <= OURSELVES and gradients_off <= GRADIENTS):
        return Cell("", f"scores {scores_off:.1e}, gradients {gradients_off:.1e} (relative) away from one device's")
    return Cell(f"{max(scores_off, gradients_off):.1e}")


def mesh_for(config: ModelConfig) -> Mesh:
    """Eight devices along as many axes as the model's sizes can be split over. Raises UserError if none goes."""
    choices = [dict(data=2, fsdp=2, tensor=2), dict(data=2, fsdp=4), dict(data=4, fsdp=2), dict(data=8, fsdp=1)]
    if config.num_experts:
        choices = [dict(fsdp=2, expert=2, tensor=2), dict(data=2, fsdp=2, expert=2), *choices]
    for number, sizes in enumerate(choices):
        mesh = MeshConfig(**sizes)
        try:
            check_layout(config, mesh)
        except UserError:
            if number == len(choices) - 1:
                raise
            continue
        return make_mesh(mesh, jax.devices()[:DEVICES])
    raise AssertionError


CHECKS: dict[str, Callable[[Subject], Cell]] = {
    "import": imports,
    "forward": forward,
    "bfloat16": in_bfloat16,
    "gradients": gradients,
    "packed": packed,
    "export": exports,
    "round trip": round_trip,
    "generate": generates,
    "sharded on 8": sharded,
}


def check(subject: Subject, names: Iterable[str] = CHECKS) -> dict[str, Cell]:
    """The named cells of a model. A check that raises fails with the reason; of what cannot be read, all do."""
    cells = {}
    for name in names:
        try:
            cells[name] = CHECKS[name](subject)
        except Exception as error:  # whatever it is, the table shows it
            lines = str(error).strip().splitlines() or [""]
            kind = "" if isinstance(error, UserError) else f"{type(error).__name__}: "
            cells[name] = Cell("", f"{kind}{lines[0]}")
    return cells
