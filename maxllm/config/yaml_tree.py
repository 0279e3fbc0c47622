"""YAML files as trees whose every leaf remembers where it was written."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from maxllm.config.errors import UserError

Path_ = tuple[str, ...]


class Tree(NamedTuple):
    """Nested plain values and, for each path in them, `file:line` or the flag that set it."""

    values: dict[str, Any]
    origins: dict[Path_, str]


class _Loader(yaml.SafeLoader):
    """Safe YAML that reads 1e-4 as a number, as YAML 1.2 does and PyYAML does not."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(?:[0-9][0-9_]*\.?[0-9_]*|\.[0-9][0-9_]*)(?:[eE][-+]?[0-9]+)$|^[-+]?\.(?:inf|Inf|INF)$"),
    list("-+0123456789."),
)


def parse_value(text: str) -> Any:
    """A command-line value: `3`, `1e-4`, `true`, `null`, `[en, de]`, or a string."""
    try:
        return yaml.load(text, _Loader)
    except yaml.YAMLError:
        return text


def read(path: Path) -> Tree:
    """The tree in a YAML file. Raises UserError for a missing file, broken YAML, a repeated key."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read as a config file ({error})") from None
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        origins: dict[Path_, str] = {}
        if node is None:
            return Tree({}, origins)
        if not isinstance(node, yaml.MappingNode):
            raise UserError(f"{path}: is not a mapping of sections")
        _record(node, (), path, origins)
        return Tree(loader.construct_document(node), origins)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}:{mark.line + 1}" if mark else str(path)
        raise UserError(f"{where}: is not YAML: {getattr(error, 'problem', error)}") from None
    finally:
        loader.dispose()


def _record(node: yaml.Node, prefix: Path_, path: Path, origins: dict[Path_, str]) -> None:
    origins[prefix] = f"{path}:{node.start_mark.line + 1}"
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            name = str(key.value)
            if name in seen and name != "<<":
                raise UserError(f"{path}:{key.start_mark.line + 1}: {'.'.join((*prefix, name))} is given twice")
            seen.add(name)
            _record(value, (*prefix, name), path, origins)
            origins[(*prefix, name)] = f"{path}:{key.start_mark.line + 1}"
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            _record(value, (*prefix, str(index)), path, origins)


def merge(under: Tree, over: Tree) -> Tree:
    """`over` wins; maps merge, lists and leaves replace."""
    origins = dict(under.origins)
    values = _merge(under.values, over.values, (), origins, over.origins)
    return Tree(values, origins)


def _merge(under: Any, over: Any, path: Path_, origins: dict[Path_, str], new: dict[Path_, str]) -> Any:
    if isinstance(under, dict) and isinstance(over, dict):
        merged = dict(under)
        for key, value in over.items():
            merged[key] = _merge(under.get(key), value, (*path, str(key)), origins, new)
        return merged
    for old in [p for p in origins if p[: len(path)] == path]:
        del origins[old]
    origins.update({p: origin for p, origin in new.items() if p[: len(path)] == path})
    return over


def assign(tree: Tree, path: Path_, value: Any, origin: str) -> Tree:
    """`tree` with the setting at `path` given; an integer step addresses an element of a list that is there."""
    values = copy.deepcopy(tree.values)
    node: Any = values
    for depth, step in enumerate(path[:-1]):
        if isinstance(node, list):
            node = node[_index(node, path, depth)]
        else:
            if not isinstance(node.get(step), dict | list):
                node[step] = {}
            node = node[step]
    last: Any = _index(node, path, len(path) - 1) if isinstance(node, list) else path[-1]
    old = node[last] if isinstance(node, list) else node.get(last)
    if isinstance(value, dict) and isinstance(old, dict):  # maps merge
        for key, child in value.items():
            tree = assign(tree, (*path, str(key)), child, origin)
        return tree
    node[last] = value
    origins = {p: known for p, known in tree.origins.items() if p[: len(path)] != path}
    return Tree(values, origins | origins_of(value, path, origin))


def _index(values: list[Any], path: Path_, depth: int) -> int:
    if path[depth].isdigit() and int(path[depth]) < len(values):
        return int(path[depth])
    raise UserError(f"{'.'.join(path)}: the list has {len(values)} elements and {path[depth]} is none of them")


def origins_of(value: Any, path: Path_, origin: str) -> dict[Path_, str]:
    """Every path in `value`, which stands at `path`, with one origin."""
    found = {path: origin}
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in children:
        found |= origins_of(child, (*path, str(key)), origin)
    return found
