"""gin files and bindings as another spelling of the same settings.

gin supplies the syntax only: `optimizer.learning_rate = 1e-4`, macros (`LR = 1e-4`, `%LR`) and `include`. Nothing is
registered, imported or called.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from gin import config_parser

from maxllm.config.errors import UserError


class Binding(NamedTuple):
    path: tuple[str, ...]
    value: Any
    origin: str


class _Macro(NamedTuple):
    name: str


class _Delegate(config_parser.ParserDelegate):
    def configurable_reference(self, scoped_configurable_name: str, evaluate: bool) -> Any:
        raise UserError(f"@{scoped_configurable_name}: a gin binding here sets a plain value, not a reference")

    def macro(self, macro_name: str) -> Any:
        return _Macro(macro_name)


def read_file(path: Path) -> list[Binding]:
    """The bindings of a gin file, those of its includes first."""
    return list(_resolve(_statements(path, ())))


def read_binding(text: str) -> list[Binding]:
    """`section.key = value`, from `--gin-param`."""
    return list(_resolve(_parse(text, f"--gin-param {text!r}", None, ())))


def _statements(path: Path, including: tuple[Path, ...]) -> Iterator[Binding]:
    if path in including:
        raise UserError(f"{path}: includes itself")
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path}: cannot be read as a gin file ({error.strerror})") from None
    yield from _parse(text, str(path), path.parent, (*including, path))


def _parse(text: str, name: str, folder: Path | None, including: tuple[Path, ...]) -> Iterator[Binding]:
    try:
        for statement in config_parser.ConfigParser(text, _Delegate()):
            if isinstance(statement, config_parser.IncludeStatement):
                if folder is None:
                    raise UserError(f"{name}: include belongs in a file")
                yield from _statements(folder / statement.filename, including)
            elif isinstance(statement, config_parser.BindingStatement):
                if statement.scope:
                    raise UserError(f"{name}: gin scopes ({statement.scope}/) have no meaning here")
                steps = [*statement.selector.split("."), statement.arg_name]
                line = f":{statement.location.line_num}" if folder else ""
                yield Binding(tuple(step for step in steps if step), statement.value, f"{name}{line}")
            elif isinstance(statement, config_parser.ImportStatement):
                raise UserError(f"{name}: gin imports have no meaning here; a binding names a setting")
    except SyntaxError as error:
        line = f":{error.lineno}" if folder and error.lineno else ""
        raise UserError(f"{name}{line}: is not gin syntax ({error.msg.splitlines()[0]})") from None


def _resolve(bindings: Iterator[Binding]) -> Iterator[Binding]:
    """A binding of one bare name defines a macro; later values may refer to it."""
    macros: dict[str, Any] = {}
    for binding in bindings:
        value = _substitute(binding.value, macros, binding.origin)
        if len(binding.path) == 1:
            macros[binding.path[0]] = value
        else:
            yield Binding(binding.path, value, binding.origin)


def _substitute(value: Any, macros: dict[str, Any], origin: str) -> Any:
    if isinstance(value, _Macro):
        if value.name not in macros:
            raise UserError(f"{origin}: %{value.name} is not defined above")
        return macros[value.name]
    if isinstance(value, list | tuple) and not isinstance(value, str):
        return [_substitute(item, macros, origin) for item in value]
    if isinstance(value, dict):
        return {key: _substitute(item, macros, origin) for key, item in value.items()}
    return value
