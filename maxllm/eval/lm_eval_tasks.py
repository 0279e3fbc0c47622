"""lm-eval's tasks on local files: its own prompts and metrics where the file has upstream's fields, ours beside.

A bundled task is `include:`d unchanged and only told to read JSON lines from here, so its number can be compared
with what others report for it. Our own tasks (`maxllm_...`, in `tasks/`) read other fields; theirs can not.
"""

from __future__ import annotations

import gzip
import json
import logging
import os
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from maxllm.config.errors import UserError

OURS = Path(__file__).parent / "tasks"
SUFFIXES = (".jsonl", ".jsonl.gz")
SPLITS = ("test_split", "validation_split", "training_split", "fewshot_split")


class Task(NamedTuple):
    name: str
    upstream: bool  # lm-eval's own prompts and metrics
    yaml_path: Path
    files: dict[str, str]  # split: file
    overrides: dict[str, Any]  # over the file at yaml_path


def prepare(name: str, data: str | None) -> Task:
    """Finds the task and its files. Raises UserError where the files cannot be this task's.

    `data`: a JSON lines file, which becomes the split that is evaluated, or a folder of files named after splits.
    """
    upstream = not name.startswith("maxllm_")
    yaml_path = _bundled(name) if upstream else OURS / f"{name}.yaml"
    if not yaml_path.is_file():
        ours = ", ".join(sorted(path.stem for path in OURS.glob("*.yaml")))
        raise UserError(f"{name} is not a task of ours; ours are {ours}")
    if data is None:
        raise UserError(
            f"task {name} has no data: name a local JSON lines file, --data {name}=FILE (nothing is downloaded)"
        )
    config = _read(yaml_path)
    splits = {key: config[key] for key in SPLITS if config.get(key)}
    evaluated = splits.get("test_split") or splits.get("validation_split")
    if evaluated is None:
        raise UserError(f"task {name} has neither a test nor a validation split, so local files cannot be given to it")
    files = _files(name, Path(data), evaluated)
    shots = splits.get("fewshot_split") or splits.get("training_split")
    if config.get("num_fewshot") and config["num_fewshot"] > 0 and shots and shots not in files:
        raise UserError(
            f"task {name} shows {config['num_fewshot']} examples of its {shots} split: give --data {name}=FOLDER, "
            f"a folder with {evaluated}.jsonl and {shots}.jsonl (.gz as well)"
        )
    for file in files.values():
        _check_fields(name, config, Path(file))
    overrides: dict[str, Any] = {"dataset_path": "json", "dataset_name": None}
    overrides |= {key: None for key, split in splits.items() if split not in files}
    return Task(name, upstream, yaml_path, files, overrides)


def run(lm: Any, task: Task, *, limit: int | None, scratch: Path) -> dict[str, Any]:
    """What lm-eval found: `metrics` (name: value), `items`, `version`, `samples`, `did_not_fit`, ...

    `scratch`: a folder for its files, to be removed afterwards.
    """
    configure_offline()
    import datasets
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    datasets.disable_progress_bars()
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    cache = {"dataset_kwargs": {"data_files": task.files, "cache_dir": str(scratch / "datasets")}}
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        path = Path(folder) / f"{task.name}.yaml"
        # JSON is YAML: no quoting rules to get wrong.
        path.write_text(json.dumps({"include": str(task.yaml_path), "task": task.name} | task.overrides | cache))
        manager = TaskManager(include_path=folder, include_defaults=False)
        before = lm.did_not_fit
        try:
            manager.load([task.name])
        except Exception as error:  # datasets wraps what went wrong in errors of its own
            raise UserError(
                f"task {task.name} cannot be made of {', '.join(task.files.values())} ({_cause(error)}); "
                "give files with the task's own fields"
            ) from error
        found = simple_evaluate(lm, tasks=[task.name], task_manager=manager, limit=limit, log_samples=True)
    raw = found["results"][task.name]
    metrics = {
        key.removesuffix(",none"): float(value)
        for key, value in raw.items()
        if "," in key and isinstance(value, int | float)
    }
    return {
        "comparable": task.upstream and limit is None and lm.did_not_fit == before,
        "upstream": task.upstream,
        "metrics": metrics,
        "items": found["n-samples"][task.name]["effective"],
        "of_items": found["n-samples"][task.name]["original"],
        "shots": found["n-shot"][task.name],
        "version": found["versions"][task.name],
        "did_not_fit": lm.did_not_fit - before,
        "files": task.files,
        "samples": [_plain(sample) for sample in found["samples"][task.name]],
    }


def configure_offline() -> None:
    """No network and no progress bars but ours. Before lm-eval is first imported."""
    os.environ["HF_HUB_OFFLINE"] = os.environ["HF_DATASETS_OFFLINE"] = "1"
    os.environ.setdefault("TQDM_DISABLE", "1")


def _bundled(name: str) -> Path:
    """The YAML file in lm-eval that defines task `name`. Its own index takes eight seconds; reading names, half."""
    import lm_eval

    root = Path(lm_eval.__file__).parent / "tasks"
    defines = re.compile(rb"""^["']?task["']?:\s*["']?%s["']?\s*$""" % re.escape(name.encode()), re.MULTILINE)
    for path in [root / name / f"{name}.yaml", *root.rglob("*.yaml")]:
        if path.is_file() and defines.search(path.read_bytes()):
            return path
    raise UserError(
        f"{name} is not a task of the installed lm-eval (groups have to be named task by task); "
        f"ours start with maxllm_: {', '.join(sorted(path.stem for path in OURS.glob('*.yaml')))}"
    )


def _read(path: Path) -> dict[str, Any]:
    """A task's YAML over the file it includes; functions stay text."""

    class Loader(yaml.SafeLoader):
        pass

    Loader.add_constructor("!function", lambda loader, node: f"!function {loader.construct_scalar(node)}")
    values = yaml.load(path.read_text(), Loader)  # a SafeLoader
    included = values.pop("include", None)
    for parent in [included] if isinstance(included, str) else included or []:
        values = _read(path.parent / parent) | values
    return values


def _files(name: str, data: Path, evaluated: str) -> dict[str, str]:
    if data.is_file():
        return {evaluated: str(data.resolve())}
    if not data.is_dir():
        raise UserError(f"--data {name}={data}: there is no such file or folder")
    files = {}
    for path in sorted(data.iterdir()):
        if path.name.endswith(SUFFIXES):
            files[path.name.split(".")[0]] = str(path.resolve())
    if evaluated not in files:
        raise UserError(f"--data {name}={data}: no {evaluated}.jsonl (or .gz) there, the split that {name} evaluates")
    return files


def _check_fields(name: str, config: Mapping[str, Any], file: Path) -> None:
    """Refuses a file without the fields the task's templates name: lm-eval would fill them with nothing."""
    from jinja2 import Environment, meta

    try:
        row = next(_rows(file))
    except StopIteration:
        raise UserError(f"{file} holds no items") from None
    except (OSError, ValueError, EOFError):
        raise UserError(f"{file} does not read as JSON lines; mend or replace it") from None
    if not isinstance(row, dict):
        raise UserError(f"{file}: its first line is not a JSON object; task {name} needs one item a line")
    if config.get("process_docs"):
        return  # the task makes its own fields; it says itself what it misses
    for key in ("doc_to_text", "doc_to_target", "doc_to_choice"):
        template = config.get(key)
        if not isinstance(template, str) or template.startswith("!function"):
            continue
        wanted = {template} if re.fullmatch(r"\w+", template) else set()
        wanted = wanted or meta.find_undeclared_variables(Environment().parse(template))
        missing = sorted(wanted - row.keys())
        if missing:
            raise UserError(
                f"{file} lacks {', '.join(missing)}, which task {name} reads (the file has {', '.join(row)}); "
                "give a file with the task's own fields, or one of our tasks (maxllm_...) made for this one"
            )


def _rows(file: Path) -> Iterator[Any]:
    opened = gzip.open(file, "rt", encoding="utf-8") if file.suffix == ".gz" else open(file, encoding="utf-8")
    with opened as lines:
        for line in lines:
            if line.strip():
                yield json.loads(line)


def _cause(error: BaseException) -> str:
    while error.__cause__ or error.__context__:
        error = error.__cause__ or error.__context__
    return f"{type(error).__name__}: {error}".splitlines()[0]


def _plain(sample: Mapping[str, Any]) -> dict[str, Any]:
    """What a reader wants to see of one item: the item, what was asked, what came, how it was judged."""
    keys: Sequence[str] = ("doc_id", "doc", "arguments", "target", "filtered_resps", "filter")
    metrics = sample.get("metrics", [])
    return {key: sample[key] for key in keys if key in sample} | {key: sample[key] for key in metrics if key in sample}
