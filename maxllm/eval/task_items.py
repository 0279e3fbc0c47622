"""The test records of an lm-eval task, as lm-eval itself loads them."""

from __future__ import annotations

import functools
import json
from typing import Any

from maxllm.config.errors import UserError


def task_records(name: str) -> list[dict[str, Any]]:
    """The split that `name` evaluates, as its data set has it: prompts and processing not applied. JSON's types.

    Raises UserError.
    """
    try:
        import lm_eval.tasks  # noqa: F401
    except ImportError as error:
        raise UserError(f"tasks: {name} needs lm-eval: pip install 'maxllm[eval]'; or give items as files") from error
    try:
        task = _manager().load_task_or_group([name])[name]
        split = task.config.test_split or task.config.validation_split
        return [json.loads(json.dumps(record, default=str)) for record in task.dataset[split]]
    except Exception as error:  # whatever lm-eval and datasets say of a task, or of one without data here
        cause = f"{type(error).__name__}: {error}".splitlines()[0][:200]
        raise UserError(
            f"tasks: lm-eval cannot load {name} ({cause}); name tasks one by one, and give the data of one that is not "
            f"in reach as data_files: {{{name}: FILE.jsonl}}"
        ) from error


@functools.cache
def _manager() -> Any:
    """lm-eval's registry; reading it takes eight seconds."""
    from lm_eval.tasks import TaskManager

    return TaskManager()
