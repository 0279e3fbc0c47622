"""Which devices exchange data in a collective, and along which mesh axes that is."""

from __future__ import annotations

import functools
import itertools
import math
import re
from collections.abc import Mapping

import numpy as np

Groups = tuple[tuple[int, ...], ...]

_IOTA = re.compile(r"\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?")
_MESH = re.compile(r"mesh\[(.*?)\](?:,\s*device_ids=\((.*?)\))?\s*\{(.*)\}")
_AXIS = re.compile(r"'?([\w.]+)'?(?::\((\d+)\)(\d+))?")  # a whole axis, or a:(before)size, a factor of one


def parse_groups(text: str, devices: int) -> Groups:
    """The groups of a `replica_groups` attribute, in each of the forms that XLA prints.

        {{0,1},{2,3}}            as they are; {} is one group of all
        [4,2]<=[2,4]T(1,0)       4 groups of 2: iota reshaped to [2,4], transposed, reshaped to [4,2]
        mesh['a'=2,'b'=4] {'b'}  devices laid out as a mesh, a group along 'b'; {'b':(1)2}: along b's first factor, 2

    Raises ValueError for anything else.
    """
    text = text.strip()
    if text.startswith("mesh["):
        return _from_mesh(text)
    if iota := _IOTA.fullmatch(text):
        return _groups(_from_iota(iota))
    if not re.fullmatch(r"\{(\{[\d,\s]*\},?\s*)*\}", text):
        raise ValueError(f"replica groups in a form that is not known: {text[:100]}")
    groups = tuple(tuple(int(n) for n in group.split(",")) for group in re.findall(r"\{([\d,\s]+)\}", text))
    return groups or (tuple(range(devices)),)


def parse_pairs(text: str) -> Groups:
    """The (source, target) pairs of a collective-permute."""
    return tuple((int(a), int(b)) for a, b in re.findall(r"\{(\d+),\s*(\d+)\}", text))


def _ints(text: str) -> list[int]:
    return [int(number) for number in text.split(",") if number.strip()]


def _groups(rows: np.ndarray) -> Groups:
    return tuple(tuple(int(device) for device in row) for row in rows)


def _from_iota(match: re.Match[str]) -> np.ndarray:
    shape, over, order = _ints(match[1]), _ints(match[2]), _ints(match[3] or "")
    devices = np.arange(math.prod(over)).reshape(over)
    return (devices.transpose(order) if order else devices).reshape(shape)


def _from_mesh(text: str) -> Groups:
    match = _MESH.fullmatch(text)
    if not match:
        raise ValueError(f"replica groups in a form that is not known: {text[:100]}")
    sizes = {name.strip().strip("'"): int(size) for name, size in (part.split("=") for part in match[1].split(","))}
    devices = np.arange(math.prod(sizes.values()))
    if match[2]:
        # [2,4]T(1,0): iota reshaped to [2,4], transposed.
        text = re.sub(r"^(\[[\d,]+\])(T.*)?$", r"\1<=\1\2", match[2].strip())
        iota = _IOTA.fullmatch(text)
        devices = _from_iota(iota).ravel() if iota else np.array(_ints(match[2]))
    # Every axis cut into (before, factor, after) where only a factor of it is asked for, then the asked ones last.
    names, shape, asked = list(sizes), [], []
    wanted = [(name, int(before or 1), int(size or 0)) for name, before, size in _AXIS.findall(match[3])]
    for name in names:
        cuts = [(before, size or sizes[name]) for at, before, size in wanted if at == name]
        left = 1
        for before, size in sorted(cuts):
            shape.append(before // left)
            asked.append(((name, before), len(shape)))
            shape.append(size)
            left = before * size
        shape.append(sizes[name] // left)
    place = dict(asked)
    grouped = [place[(name, before)] for name, before, _ in wanted]
    others = [axis for axis in range(len(shape)) if axis not in grouped]
    size = math.prod(shape[axis] for axis in grouped)
    return _groups(devices.reshape(shape).transpose(others + grouped).reshape(-1, size))


def mesh_axes_of(groups: Groups, mesh: Mapping[str, int]) -> str:
    """The axis, or product of axes ("data x fsdp"), of a mesh that groups of device numbers run along.

    Devices are numbered by their place in the mesh, its last axis varying fastest. Groups that stay within those of a
    product of axes without filling them are "part of" it (a collective-permute's pairs always are: ask `smallest`).
    """
    members = frozenset(frozenset(group) for group in groups if len(group) > 1)
    if not members:
        return "none"
    for names, along in _by_axes(tuple(mesh.items())):
        if members == along:
            return " x ".join(names)
    return "part of " + smallest(groups, mesh)


def smallest(groups: Groups, mesh: Mapping[str, int]) -> str:
    """The fewest axes along which the members of each group differ."""
    sizes = list(mesh.values())
    moved = set()
    for group in groups:
        places = np.array(np.unravel_index(group, sizes))
        moved |= {axis for axis, row in zip(mesh, places, strict=True) if (row != row[0]).any()}
    return " x ".join(axis for axis in mesh if axis in moved) or "none"


@functools.lru_cache(maxsize=8)
def _by_axes(mesh: tuple[tuple[str, int], ...]) -> list[tuple[tuple[str, ...], frozenset[frozenset[int]]]]:
    """For every product of axes longer than 1, the groups along it; the shortest products first."""
    names = [name for name, size in mesh if size > 1]
    sizes = [size for _, size in mesh]
    devices = np.arange(math.prod(sizes)).reshape(sizes)
    found = []
    for count in range(1, len(names) + 1):
        for chosen in itertools.combinations(names, count):
            last = [index for index, (name, _) in enumerate(mesh) if name in chosen]
            first = [index for index in range(len(mesh)) if index not in last]
            rows = devices.transpose(first + last).reshape(-1, math.prod(sizes[index] for index in last))
            found.append((chosen, frozenset(frozenset(int(n) for n in row) for row in rows)))
    return found
