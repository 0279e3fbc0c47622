"""Known good source files, the same damaged, and what the syntax check says of both."""

from __future__ import annotations

import os
import random
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

from data_beam.child import ChildError
from data_beam.code.languages import _BY_EXTENSION
from data_beam.document import Document, Drop
from data_beam.stages.code import CodeSyntax
from maxllm.config.code import CodeConfig, CodeQuality

PROSE = "The quick brown fox isn't jumping; it's raining (again, as so often: see below).\nThey said: \"No!\"\n" * 3
MIN_BYTES, MAX_BYTES = 400, 60_000
PYTHON_FILES = 4000


def truncated(text: str, draw: random.Random) -> str:
    return text[: draw.randint(len(text) // 4, len(text) * 3 // 4)]


def without_bracket(text: str, draw: random.Random) -> str:
    places = [place for place, character in enumerate(text) if character in ")}]"]
    if not places:
        return text
    place = draw.choice(places)
    return text[:place] + text[place + 1 :]


def conflict(text: str, draw: random.Random) -> str:
    lines = text.split("\n")
    start = draw.randrange(len(lines))
    part = lines[start : start + draw.randint(1, 10)]
    marked = ["<<<<<<< HEAD", *part, "=======", *part, ">>>>>>> branch"]
    return "\n".join(lines[:start] + marked + lines[start + len(part) :])


def with_prose(text: str, draw: random.Random) -> str:
    lines = text.split("\n")
    place = draw.randrange(len(lines))
    return "\n".join(lines[:place]) + "\n" + PROSE + "\n".join(lines[place:])


DAMAGES: dict[str, Callable[[str, random.Random], str]] = {
    "as it is": lambda text, draw: text,
    "truncated": truncated,
    "a bracket gone": without_bracket,
    "merge conflict": conflict,
    "prose pasted in": with_prose,
}


def source_files(roots: list[str]) -> dict[str, list[str]]:
    """Paths by language; scripts without an extension by their #! line."""
    found: dict[str, list[str]] = defaultdict(list)
    for root in roots:
        for folder, folders, names in os.walk(root):
            folders[:] = sorted(set(folders) - {"neg", "__pycache__"})  # scalac's tests of what must not compile
            for name in sorted(names):
                path = os.path.join(folder, name)
                language = _BY_EXTENSION.get(name.rpartition(".")[2].lower()) if "." in name else _by_first_line(path)
                if language:
                    found[language].append(path)
    return found


def _by_first_line(path: str) -> str | None:
    if os.path.islink(path) or not os.path.isfile(path):
        return None
    with open(path, "rb") as stream:
        first = stream.readline(80).strip()
    return "bash" if first.startswith(b"#!") and first.endswith((b"/sh", b"/bash", b" bash")) else None


def rates(roots: list[str], languages: list[str], count: int, seed: int) -> dict[str, dict[str, tuple[int, int]]]:
    """language -> damage -> (rejected, files). A file whose parser hangs counts as rejected."""
    stage = CodeSyntax(CodeConfig(timeout_seconds=5))
    files = source_files(roots)
    result: dict[str, dict[str, tuple[int, int]]] = {}
    for language in languages:
        draw = random.Random(seed)
        paths = files.get(language, [])
        draw.shuffle(paths)
        counts = {damage: [0, 0] for damage in DAMAGES}
        for path in paths:
            data = Path(path).read_bytes()
            if not MIN_BYTES <= len(data) <= MAX_BYTES:
                continue
            try:
                text = data.decode()
            except UnicodeDecodeError:
                continue
            for damage, damaged in DAMAGES.items():
                counts[damage][0] += _rejected(stage, language, damaged(text, draw))
                counts[damage][1] += 1
            if counts["as it is"][1] >= count:
                break
        result[language] = {damage: (rejected, total) for damage, (rejected, total) in counts.items()}
    stage.close()
    return result


def _rejected(stage: CodeSyntax, language: str, text: str) -> bool:
    metadata = {"content_type": "code", "programming_language": language}
    try:
        return isinstance(stage(Document("1", text, "s", "", metadata=metadata)), Drop)
    except ChildError:
        return True


def reasons_on_python() -> dict[str, dict[str, int]]:
    """What becomes of a sample of the default corpus' files, by default and with the preset's quality rules."""
    from data_beam.io.python_source import source_files
    from data_beam.io.sample import by_hash

    stages = {
        "default": CodeSyntax(CodeConfig()),
        "curate/code's rules": CodeSyntax(CodeConfig(quality=CodeQuality(enabled=True))),
    }
    counts: dict[str, dict[str, int]] = {name: defaultdict(int) for name in stages}
    for location, path in by_hash(source_files(), PYTHON_FILES, key=lambda pair: pair[0]):
        data = Path(path).read_bytes()
        if len(data) > 200_000:  # as curate/python-docs has it
            continue
        try:
            text = data.decode()
        except UnicodeDecodeError:
            continue
        if not text.strip():
            continue
        metadata = {"content_type": "code", "programming_language": "python", "path": location}
        for name, stage in stages.items():
            outcome = stage(Document("1", text, "s", "", metadata=metadata))
            counts[name][outcome.reason if isinstance(outcome, Drop) else "kept"] += 1
    for stage in stages.values():
        stage.close()
    return {name: dict(sorted(found.items())) for name, found in counts.items()}
