"""The training loop: batch, step, and now and then numbers, an evaluation, a checkpoint.

    train(config)      # starts, or goes on from the newest whole checkpoint in train.run_dir

Batch k is a function of the config and k alone, and so is the update it makes to given parameters. What a run needs
to go on bit for bit is therefore its parameters, its optimizer's moments and one integer, the number of steps done.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from maxllm import summary
from maxllm.batch import Batch, EncoderDecoderBatch
from maxllm.config.devices import peak_flops
from maxllm.config.errors import UserError
from maxllm.config.model import ModelConfig
from maxllm.config.train import TrainConfig
from maxllm.data import composition
from maxllm.data.corruption import make_corruption
from maxllm.data.labelled import Labelled
from maxllm.data.loader import Loader, check_present
from maxllm.data.phases import Phase
from maxllm.models.create import create
from maxllm.models.decoder import Decoder
from maxllm.objectives import doremi as objective_doremi
from maxllm.optim import make_schedule
from maxllm.parallel import compilation_cache, distributed
from maxllm.parallel.mesh import feed_of, make_mesh, place_batch
from maxllm.parallel.rules import check_layout
from maxllm.tokenizer import Tokenizer
from maxllm.train import doremi
from maxllm.train import run_dir as run_folder
from maxllm.train.assembly import assemble, state_shapes, train_step
from maxllm.train.checkpoint import CHECKPOINTS, Checkpoints, SaveFailed, load_any, pack_tokenizer, tokenizer_of
from maxllm.train.flops import flops_per_data_token
from maxllm.train.guard import Diverged, Interrupted, Signals, check_finite
from maxllm.train.metrics import METRICS, Display, Pace, Record, Writer, read, resident_bytes
from maxllm.train.state import TrainState, create_state, zeros_like_abstract
from maxllm.train.step import Step, make_eval_step

# Called with the model and the step; the numbers it returns join that step's record.
Evaluation = Callable[[Decoder, int], dict[str, float]]


def train(config: TrainConfig, *, evaluate: Evaluation | None = None) -> Record:
    """Train to `config.train.steps` and return the last step's record: loss, held_out_loss, learning_rate, ...

    In a job of many processes every one of them calls this. `evaluate` runs beside the held-out loss, every
    `train.eval_every` steps and at the end.

    Raises UserError for what a user can mend, Diverged among them, and Interrupted once a signalled run is saved.
    """
    distributed.initialize()
    compilation_cache.enable()
    folder = Path(config.train.run_dir)
    held = run_folder.lock(folder) if jax.process_index() == 0 else None
    try:
        return _Run(config, folder, evaluate).go()
    except OSError as error:
        raise UserError(f"{folder}: {error.strerror or error} ({error.filename or 'no file named'})") from error
    finally:
        if held:
            held.close()


class _Run:
    """What the loop's parts share. Built in the order in which a mistake is cheapest to find."""

    def __init__(self, config: TrainConfig, folder: Path, evaluate: Evaluation | None):
        self.config, self.loop, self.folder = config, config.train, folder
        self.first = jax.process_index() == 0
        self.evaluate = evaluate
        self.tokenizer = _tokenizer_of(config)
        self.prints = run_folder.fingerprints(config, self.tokenizer)
        self.display = Display(self.loop.steps, quiet=not self.first)
        self.mesh = make_mesh(config.mesh)
        longest = config.data.sequence_length
        for length in {longest, *(phase.sequence_length or longest for phase in config.data.phases)}:
            check_layout(config.model, self.mesh, config.data.batch_size // self.loop.accumulation_steps, length)
        if why := config.pipeline.refusal(self.mesh.shape["stage"], config.model, self.loop.accumulation_steps):
            raise UserError(why)  # mesh.stage=-1 is known only now
        self.data = doremi.uniform(config.data) if config.objective.name == "doremi" else config.data
        self.loader = self._loader("train")
        self.reference = None
        if config.objective.name == "doremi":
            self.reference = doremi.Reference(config, self.tokenizer, self.mesh)
            self.prints["reference"] = self.reference.fingerprint
        self.checkpoints = Checkpoints(str(folder / CHECKPOINTS), keep=self.loop.keep_checkpoints, say=self.display.say)
        if meta := self.checkpoints.newest_meta():
            run_folder.check_same_run(str(folder), meta, config, self.prints, self.loader.phases)
        self.described = composition.describe(self.data, self.loader)
        if self.first:
            run_folder.write(folder, config, self.prints, self.tokenizer, self.described)

        self.schedule = jax.jit(make_schedule(config.schedule, config.optimizer.learning_rate, self.loop.steps))
        self.parts = assemble(config)
        self.structure = self.parts.structure
        self.state = self._begin()
        self.step = int(self.state.step)
        self.train_step = self._make_train_step()
        self.eval_step = make_eval_step(self.structure, self.parts.objective, self.mesh)
        self.waiting: list[tuple[int, dict[str, jax.Array]]] = []  # metrics still on the devices
        self.newest_saved = self.step or None
        tokens = config.data.batch_size * config.data.sequence_length
        peak = peak_flops(jax.devices()[0].device_kind)
        self.pace = Pace(tokens, peak_flops=peak and peak * self.mesh.size)
        self.last: Record = {}

    def _loader(self, split: str) -> Loader:
        index, count = feed_of(self.mesh, self.config.data.batch_size)
        objective, model = self.config.objective.name, self.config.model
        return Loader(
            self.data,
            tokenizer_fingerprint=self.tokenizer.fingerprint,
            host_index=index,
            host_count=count,
            split=split,
            steps=self.loop.steps,
            corruption=make_corruption(self.config, self.tokenizer),
            labelled=Labelled(objective, model, self.tokenizer) if model.labels else None,
        )

    def _make_train_step(self) -> Step:
        if not self.reference:
            return train_step(self.config, self.parts, self.mesh)
        adapt = doremi.make_adapt(
            self.structure,
            self.reference.structure,
            self.loader.names,
            self.config.objective,
            self.loop.accumulation_steps,
        )
        return train_step(self.config, self.parts, self.mesh, adapt=adapt, frozen=self.reference.parameters)

    def _begin(self) -> TrainState:
        """The state to go on from, made or restored where it will live."""
        own = objective_doremi.initial(len(self.loader.names)) if self.reference else ()
        target = state_shapes(self.config, self.parts, self.mesh, own)
        scaling, compress = self.parts.scaling, self.config.mesh.compress
        wanted = _trees(target)
        if scaling and not self.checkpoints.newest_holds("scaling"):
            del wanted["scaling"]  # a run that goes on in another precision begins to remember now
        copies = self.mesh.shape["data"]
        meta = self.checkpoints.newest_meta() or {}
        if "waiting" in wanted and not (self.checkpoints.newest_holds("waiting") and meta.get("copies") == copies):
            del wanted["waiting"]
            if meta:
                self.display.say(
                    f"mesh.compress: what the {meta.get('copies', 1)} copies before had not sent yet (a "
                    f"rounding of one step's gradients) is not shared out among {copies}; they begin with nothing"
                )
        restored = self.checkpoints.restore(wanted)
        if restored is None:
            if self.loop.init_from:
                model = nnx.merge(self.structure, self._given_parameters(self.loop.init_from))
            else:
                model = create(self.config.model, self.config.compute, self.mesh, self.loop.seed)
            optimizer = self.parts.optimizer
            return create_state(model, optimizer, self.mesh, own, scaling=scaling, compress=compress)[1]
        step = jax.device_put(np.int32(restored.step), target.step.sharding)
        self.display.say(f"going on from the checkpoint of step {restored.step} in {self.checkpoints.folder}")
        fresh = jax.device_put(scaling, jax.tree.map(lambda leaf: leaf.sharding, target.scaling))
        begun = {"scaling": fresh}
        if "waiting" not in wanted and compress != "none":
            begun["waiting"] = zeros_like_abstract(target.waiting)
        return TrainState(step, **begun | restored.trees)

    def _given_parameters(self, path: str) -> nnx.State:
        """Another model's parameters; a head for labels that it lacks is made anew.

        Raises UserError unless shape and tokenizer are this run's.
        """
        model, tokenizer, shape = load_any(path, mesh=self.mesh)
        both = (self.config.model, shape)
        ours, theirs = ((_body(each) if both[0].labels else each).model_dump() for each in both)
        if ours != theirs:
            differing = [f"model.{k}={theirs[k]}" for k in ours if ours[k] != theirs[k]]
            raise UserError(f"train.init_from {path} is of another shape; to begin with it, set {' '.join(differing)}")
        if tokenizer.fingerprint != self.tokenizer.fingerprint:
            raise UserError(
                f"train.init_from {path} has another tokenizer than the data; tokenize with tokenizer.path={path}"
            )
        given = nnx.split(model)[1]
        if shape == self.config.model:
            self.display.say(f"beginning with the parameters of {path}")
            return given
        fresh = nnx.split(create(self.config.model, self.config.compute, self.mesh, self.loop.seed))[1]
        known, flat = dict(nnx.to_flat_state(given)), dict(nnx.to_flat_state(fresh))
        new = [place for place in flat if place not in known]
        self.display.say(
            f"beginning with the parameters of {path}, and new ones: {', '.join('.'.join(map(str, p)) for p in new)}"
        )
        return nnx.from_flat_state([(place, known.get(place, leaf)) for place, leaf in flat.items()])

    # The loop -----------------------------------------------------------------------------------

    def go(self) -> Record:
        if self.step >= self.loop.steps:
            return self._finished_before()
        self._introduce()
        self.writer = self._open_writer()
        began, start, patient = time.perf_counter(), self.step, True
        try:
            with Signals(self.display.say) as signals, self.display:
                self._steps(signals)
        except SaveFailed as failure:
            raise UserError(str(failure)) from failure
        except KeyboardInterrupt:  # the second Ctrl-C
            patient = False
            raise
        finally:
            if self.writer:
                self.writer.close()
            if patient:  # a save under way is not lost to what went wrong after it
                with contextlib.suppress(SaveFailed):
                    self.checkpoints.close()
        self._write_mixture()
        if self.first:
            seconds = time.perf_counter() - began
            summary.say(
                f"trained {self.loop.steps - start} steps in {seconds:.0f} s to {_described(self.last)}; {self.folder}"
            )
        return self.last

    def _steps(self, signals: Signals) -> None:
        loop, compiled = self.loop, set()
        batches = self._batches()
        while self.step < loop.steps:
            phase = self.loader.phase(self.step)
            first = phase.sequence_length not in compiled  # other shapes are another program
            if first and self.waiting:
                self._report(evaluate=False)
            if self.step == phase.first and len(self.loader.phases) > 1:
                self.display.say(self._phase_in_words(phase))
            self.state, metrics = self.train_step(self.state, place_batch(next(batches), self.mesh))
            self.step += 1
            self.pace.step()
            self.waiting.append((self.step, metrics))
            if first:
                compiled.add(phase.sequence_length)
                self.pace.flops_per_token = flops_per_data_token(self.config, phase.sequence_length)
                self._first_step_done(metrics)
            stop, last = signals.stop(self.step), self.step == loop.steps
            evaluate = not stop and (last or (loop.eval_every and self.step % loop.eval_every == 0))
            save = stop or last or self.step % loop.checkpoint_every == 0
            if first or evaluate or save or self.step % loop.log_every == 0:
                self._report(evaluate=bool(evaluate))
            if save:
                self._save(must=bool(stop or last))
            if evaluate or save:
                self.pace.restart()
            if stop:
                self.display.say(f"saved step {self.step}; run the same command to go on")
                raise Interrupted(stop)

    def _batches(self) -> Iterator[Batch | EncoderDecoderBatch]:
        """Batches from this step on, made ahead; made here if whoever makes them ahead is gone.

        A signal to the whole process group (Ctrl-C, SLURM) ends the prefetching processes at once, and the steps to
        the common stop still need their batches.
        """
        ahead = self.loader.iterate(self.step)
        for k in itertools.count(self.step):
            try:
                batch = next(ahead)
            except Exception as error:
                batch = self.loader.batch(k)  # raises the true reason if it is one of the data's
                self.display.say(f"prefetching ended ({type(error).__name__}); the trainer makes its batches itself")
                ahead = map(self.loader.batch, itertools.count(k + 1))
            yield batch

    def _report(self, *, evaluate: bool) -> None:
        """Fetch what has gathered on the devices, refuse NaN, write a line a step, show the newest."""
        fetched = jax.device_get(self.waiting)  # waits for the devices, once a block
        self.waiting = []
        rates = self.pace.block()
        records: list[Record] = []
        for step, metrics in fetched:
            numbers = {name: float(value) for name, value in metrics.items()}
            try:
                check_finite(step, numbers, self.loader.document_ids, self.newest_saved)
            except Diverged:
                self._write(records)  # the curve up to the cliff
                raise
            records.append({"step": step, **numbers, "learning_rate": self._learning_rate(step), **rates})
        self.last = records[-1]
        self.last["host_memory_bytes"] = resident_bytes()
        if evaluate:
            self.last |= self._held_out()
        self._write(records)
        self.display.show(self.last)
        try:
            self.checkpoints.poll()
        except SaveFailed as failure:
            self.display.say(f"{failure}; training goes on")

    def _write(self, records: list[Record]) -> None:
        if self.writer:
            self.writer.write(records)

    def _learning_rate(self, step: int) -> float:
        """Of the update that made step `step`, which counts the updates before it."""
        return float(self.schedule(step - 1))

    def _first_step_done(self, metrics: dict[str, jax.Array]) -> None:
        began = self.pace.since
        jax.block_until_ready(metrics)
        self._learning_rate(self.step)  # compiles too
        self.display.say(f"first step after {time.perf_counter() - began:.1f} s, compiling included")
        self.pace.restart()

    def _save(self, *, must: bool) -> None:
        """`must`: there is no later step at which to try again."""
        if self.writer:
            self.writer.sync()
        meta = {
            "next_batch": self.step,
            "random": {"seed": self.loop.seed, "step": self.step},  # keys are folded from these two
            "config": self.config.model_dump(mode="json"),
            "fingerprints_of_inputs": self.prints,
            "phases": self.loader.phases,
            "copies": self.mesh.shape["data"],
        }
        data = self.described | {"progress": composition.progress(self.data, self.loader, self.step)}
        documents = {"tokenizer": pack_tokenizer(self.tokenizer), "data": data}
        try:
            self.checkpoints.save(self.step, _trees(self.state), meta, documents)
            if must:
                self.checkpoints.wait()
            self.newest_saved = self.step
        except SaveFailed as failure:
            if must:
                raise
            self.display.say(f"{failure}; training goes on")

    # Evaluation ---------------------------------------------------------------------------------

    def _held_out(self) -> Record:
        """Mean held-out loss in nats per token, and what `evaluate` adds."""
        found: Record = {}
        if self._held_out_loader:
            total = None
            for index in range(self.loop.eval_batches):
                batch = place_batch(self._held_out_loader.batch(index), self.mesh)
                terms = self.eval_step(self.state.parameters, batch)
                total = terms if total is None else jax.tree.map(jnp.add, total, terms)
            # Without what is added to it for training: routers' losses, further predictions.
            found["held_out_loss"] = float(total.get("cross_entropy", total["loss"]).mean())
            if self.config.model.labels:
                found["held_out_accuracy"] = float(total["accuracy"].mean())
        if self.evaluate:
            found |= self.evaluate(nnx.merge(self.structure, self.state.parameters), self.step)
        return found

    @functools.cached_property
    def _held_out_loader(self) -> Loader | None:
        try:
            return self._loader("held_out")
        except UserError as error:
            self.display.say(f"no held-out loss: {error}")
            return None

    # Words --------------------------------------------------------------------------------------

    def _introduce(self) -> None:
        self.display.console.print(distributed.device_table(self.mesh))
        count = sum(leaf.size for leaf in jax.tree.leaves(self.state.parameters))
        data = self.config.data
        self.display.say(
            f"{count:,} parameters in {self.config.compute.dtype}; {data.batch_size} x {data.sequence_length} = "
            f"{data.batch_size * data.sequence_length:,} tokens a step; {self.loop.steps} steps, from {self.step}"
        )
        if (stages := self.mesh.shape["stage"]) > 1:
            self.display.say(f"pipeline: {self.config.pipeline.described(stages, self.loop.accumulation_steps)}")
        if self.reference:
            names = self.loader.names
            self.display.say(f"DoReMi against {self.config.objective.reference}; rows from {', '.join(names)} alike")

    def _phase_in_words(self, phase: Phase) -> str:
        number = self.loader.phases.index(phase)
        shares = self.described["phases"][number]["shares"]
        mixture = ", ".join(f"{name} {share:.1%}" for name, share in shares.items() if share)
        return (
            f"phase {number + 1} of {len(self.loader.phases)} from step {phase.first}: {phase.batch_size} x "
            f"{phase.sequence_length}; {mixture}"
        )

    def _open_writer(self) -> Writer | None:
        if not self.first:
            return None
        return Writer(
            self.folder,
            resume_step=self.step,
            wandb_project=self.loop.wandb_project,
            config=self.config.model_dump(mode="json"),
        )

    def _write_mixture(self) -> None:
        """What DoReMi found; also when the run was killed between its last save and this."""
        if not self.reference or not self.first:
            return
        records = read(self.folder / METRICS) if (self.folder / METRICS).exists() else []
        found = doremi.write(self.folder, self.config, self.loader.names, self.state.objective, records)
        mixture = ", ".join(f"{name} {weight:.1%}" for name, weight in found.items())
        self.display.say(f"{self.folder / doremi.MIXTURE}: {mixture}")

    def _finished_before(self) -> Record:
        records = read(self.folder / METRICS) if (self.folder / METRICS).exists() else []
        self.last = records[-1] if records else {"step": self.step}
        self.checkpoints.close()
        self._write_mixture()
        if self.first:
            summary.say(
                f"step {self.step} of {self.loop.steps} was reached before: {_described(self.last)}; {self.folder}"
            )
        return self.last


def _body(config: ModelConfig) -> ModelConfig:
    """What a model is but for its head."""
    return config.model_copy(update={"labels": None, "encoder": config.encoder.model_copy(update={"head": "words"})})


def _trees(state: TrainState) -> dict[str, Any]:
    """The parts of a state that a checkpoint keeps; an objective without a memory has none."""
    return {name: tree for name, tree in state._asdict().items() if name != "step" and tree != ()}


def _tokenizer_of(config: TrainConfig) -> Tokenizer:
    """The data's; of files with labels that of the model to begin with, or one beside them."""
    check_present(config.data, labelled=config.model.labels is not None)
    path = Path(config.data.sources[config.data.drawn[0]].path) / "tokenizer"
    if config.model.labels and config.train.init_from:
        path, tokenizer = Path(config.train.init_from), tokenizer_of(config.train.init_from)
    elif config.model.labels and not path.is_dir():
        raise UserError(
            f"there is no tokenizer for files with labels: name a model to begin with (train.init_from), or put the "
            f"tokenizer's files into {path}"
        )
    else:
        tokenizer = Tokenizer.load(path)
    if tokenizer.vocab_size > config.model.vocab_size:
        raise UserError(
            f"model.vocab_size {config.model.vocab_size} is less than the {tokenizer.vocab_size} tokens of {path}; "
            f"set model.vocab_size={-(-tokenizer.vocab_size // 64) * 64}"
        )
    return tokenizer


def _described(record: Record) -> str:
    shown = {
        "loss": ".4f",
        "held_out_loss": ".4f",
        "held_out_accuracy": ".3f",
        "tokens_per_second": ",.0f",
        "mfu": ".1%",
    }
    parts = [f"{name} {record[name]:{form}}" for name, form in shown.items() if name in record]
    return ", ".join(parts) or f"step {record['step']}"
