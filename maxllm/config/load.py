"""Files, gin and the command line, resolved into one frozen config that knows who set each value.

Precedence: default < base < file < mesh_rules < gin file < gin param < key=value. Maps merge, lists replace.
"""

from __future__ import annotations

import difflib
import re
import types
import typing
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

import maxllm
from maxllm.config import gin_syntax, yaml_tree
from maxllm.config.errors import UserError
from maxllm.config.yaml_tree import Path_, Tree

Config = TypeVar("Config", bound=BaseModel)


class Resolved(NamedTuple, Generic[Config]):
    config: Config
    origins: dict[Path_, str]


def presets_folder() -> Path:
    """The shipped `configs/`: inside the installed package, or beside it in a checkout."""
    package = Path(maxllm.__file__).parent
    installed = package / "configs"
    return installed if installed.is_dir() else package.parent / "configs"


def find(name: str, beside: Path | None = None) -> Path:
    """The file `name` means: a path, a file beside the one that names it, or a preset such as `train/demo`."""
    presets = presets_folder()
    roots = [*([beside] if beside else []), Path(), presets]
    for root in roots:
        short = name.removeprefix("configs/") if root is presets else name
        for candidate in (root / short, root / f"{short}.yml"):
            if candidate.is_file():
                return candidate
    known = sorted(str(path.relative_to(presets).with_suffix("")) for path in presets.rglob("*.yml"))
    close = difflib.get_close_matches(name.removeprefix("configs/").removesuffix(".yml"), known, n=3, cutoff=0.4)
    raise UserError(f"{name}: no such config file or preset; {_did_you_mean(close or known[:8])}")


def read_file(path: Path, including: tuple[Path, ...] = ()) -> Tree:
    """A YAML file over the files its `base:` names (one, or a list in which the last wins)."""
    path_key = path.resolve()
    if path_key in including:
        raise UserError(f"{path}: is its own base")
    tree = yaml_tree.read(path)
    return _with_bases(tree, path, (*including, path_key))


def _with_bases(tree: Tree, path: Path, including: tuple[Path, ...] = ()) -> Tree:
    values = dict(tree.values)
    bases = values.pop("base", [])
    origins = {p: origin for p, origin in tree.origins.items() if p[:1] != ("base",)}
    under = Tree({}, {})
    for base in [bases] if isinstance(bases, str) else bases:
        under = yaml_tree.merge(under, read_file(find(str(base), path.parent), including))
    return yaml_tree.merge(under, Tree(values, origins))


def resolve(
    root: type[Config],
    file: str | Path | None = None,
    overrides: Sequence[str] = (),
    *,
    tree: dict[str, Any] | None = None,
    gin_files: Sequence[str] = (),
    gin_params: Sequence[str] = (),
    device_kind: str | None = None,
) -> Resolved[Config]:
    """Read `file` (and `tree`, plain values over it), apply `overrides`, validate as `root`.

    `device_kind` is JAX's name of the devices; without it no mesh rule applies. Raises UserError, one sentence.
    """
    name = str(file) if file else "the command line"
    merged = Tree({}, {})
    if file is not None:
        path = find(str(file))
        name = str(path)
        merged = read_file(path)
    if tree:
        name = name if file else "the recipe"
        inline = Tree(tree, yaml_tree.origins_of(tree, (), name))
        merged = yaml_tree.merge(merged, _with_bases(inline, Path(name)))
    kind = root.model_fields["kind"].default
    if merged.values.get("kind", kind) != kind:
        raise UserError(f"{name}: is a `{merged.values['kind']}` config; `{kind}` wants one that says `kind: {kind}`")
    _check_keys(root, merged, name)
    if device_kind is not None:
        merged = _apply_mesh_rules(merged, device_kind)
    for gin_file in gin_files:
        for binding in gin_syntax.read_file(Path(gin_file)):
            merged = yaml_tree.assign(merged, binding.path, binding.value, binding.origin)
    for param in gin_params:
        for binding in gin_syntax.read_binding(param):
            merged = yaml_tree.assign(merged, binding.path, binding.value, binding.origin)
    for override in overrides:
        key, equals, value = override.partition("=")
        if not equals or not key:
            raise UserError(f"{override!r}: an override is key=value, e.g. {example_key(root)}=...")
        path_ = tuple(key.strip().split("."))
        merged = yaml_tree.assign(merged, path_, yaml_tree.parse_value(value), f"{key}= on the command line")
    _check_keys(root, merged, name)
    try:
        return Resolved(root.model_validate(merged.values), merged.origins)
    except ValidationError as error:
        raise UserError(_sentence(error, merged, name)) from None


def _apply_mesh_rules(tree: Tree, device_kind: str) -> Tree:
    """The first rule whose pattern is found in the device kind."""
    rules = tree.values.get("mesh_rules")
    for index, rule in enumerate(rules if isinstance(rules, list) else ()):
        if not isinstance(rule, dict) or not re.search(str(rule.get("device", "")), device_kind, re.IGNORECASE):
            continue
        origin = f"mesh_rules.{index} ({rule['device']})"
        settings = rule.get("set", {})
        return yaml_tree.merge(tree, Tree(settings, yaml_tree.origins_of(settings, (), origin)))
    return tree


def example_key(root: type[BaseModel]) -> str:
    return next(".".join(path) for path, _ in leaves(root) if len(path) > 1)


# Keys -------------------------------------------------------------------------------------------


def leaves(root: type[BaseModel], prefix: Path_ = ()) -> Iterator[tuple[Path_, Any]]:
    """(path, annotation) of every setting; the elements of a list or map of sections appear as `*`."""
    for name, field in root.model_fields.items():
        section, many = _section(field.annotation)
        path = (*prefix, name)
        if section is None:
            yield path, field.annotation
        else:
            yield from leaves(section, (*path, "*") if many else path)


def _section(annotation: Any) -> tuple[type[BaseModel] | None, bool]:
    """The section an annotation holds, and whether it holds many (list or map)."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation, False
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (list, dict) and arguments:
        return _section(arguments[-1])[0], True
    if origin in (types.UnionType, typing.Union):
        for argument in arguments:
            section, many = _section(argument)
            if section is not None:
                return section, many
    return None, False


def _check_keys(root: type[BaseModel], tree: Tree, name: str) -> None:
    """Raise for the first key that is not a setting, naming the nearest that are."""

    def walk(section: type[BaseModel], values: Any, path: Path_) -> None:
        if not isinstance(values, dict):
            return  # pydantic says what it wanted instead
        for key, value in values.items():
            field = section.model_fields.get(str(key))
            here = (*path, str(key))
            if field is None:
                known = [".".join((*path, field_name)) for field_name in section.model_fields]
                everywhere = [".".join(p) for p, _ in leaves(root)]
                wanted = ".".join(here)
                close = difflib.get_close_matches(wanted, known, n=3, cutoff=0.7)
                close += [k for k in everywhere if k.split(".")[-1] == str(key)]
                close = close or difflib.get_close_matches(wanted, [*known, *everywhere], n=3, cutoff=0.5) or known[:6]
                origin = tree.origins.get(here, name)
                raise UserError(f"{origin}: {wanted} is not a setting; {_did_you_mean(list(dict.fromkeys(close))[:3])}")
            inner, many = _section(field.annotation)
            if inner is None:
                continue
            children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
            if many:
                for child_key, child in children:
                    walk(inner, child, (*here, str(child_key)))
            else:
                walk(inner, value, here)

    walk(root, tree.values, ())


def _did_you_mean(names: Sequence[str]) -> str:
    return f"did you mean {' or '.join(names)}?" if names else "see `maxllm config --help`"


def _sentence(error: ValidationError, tree: Tree, name: str) -> str:
    first = error.errors(include_url=False)[0]
    path = tuple(str(step) for step in first["loc"])
    while path and path not in tree.origins:
        path = path[:-1]
    origin = tree.origins.get(path, name) if path else name
    setting = ".".join(str(step) for step in first["loc"])
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "value_error":
        return f"{origin}: {f'{setting}: ' if setting else ''}{message}"
    given = first.get("input")
    return f"{origin}: {setting} is {given!r}, but {message[0].lower()}{message[1:]}"


# Printing ---------------------------------------------------------------------------------------


def to_yaml(config: BaseModel, origins: dict[Path_, str] | None = None) -> str:
    """The resolved tree as YAML that can be read back; with `origins`, each leaf's as a comment."""
    values = config.model_dump(mode="json")
    if origins is None:
        return yaml.safe_dump(values, sort_keys=False, allow_unicode=True)
    lines: list[tuple[str, str]] = []

    def walk(value: Any, path: Path_, indent: int) -> None:
        for key, child in value.items():
            here = (*path, str(key))
            if isinstance(child, dict) and child:
                lines.append((f"{'  ' * indent}{key}:", ""))
                walk(child, here, indent + 1)
            else:
                text = yaml.safe_dump(child, default_flow_style=True, allow_unicode=True, width=10**6)
                text = f"{key}: {text.removesuffix('...' + chr(10)).strip()}"
                lines.append((f"{'  ' * indent}{text}", _origin(here, origins)))

    walk(values, (), 0)
    width = min(64, max(len(text) for text, _ in lines) + 2)
    return "\n".join(f"{text:<{width}} # {origin}" if origin else text for text, origin in lines) + "\n"


def _origin(path: Path_, origins: dict[Path_, str]) -> str:
    inside = [origin for p, origin in origins.items() if p[: len(path)] == path]
    return origins.get(path) or (inside[0] if inside else "default")
