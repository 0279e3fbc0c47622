"""How a Hugging Face tensor lies in our parameters: the one mechanism under every family's map.

A family's map is a list of `Tensor`. Each says which pieces of our parameters it is made of, in which layout each lies
there, and how they are joined. A piece is a parameter's path (joined by dots) and an index along its leading axes
(layer, expert): Hugging Face has one tensor per layer where we have one stacked parameter.

    one("model.norm.weight", "norm.weight")
    layer = [one("self_attn.q_proj.weight", "attention.query.kernel", LINEAR)]
    repeated(layer, "model.layers.{}.", "layers.", range(num_layers))
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Layout:
    """Two forms of the same numbers. Where they can, the functions return views: nothing is read for them."""

    shape: Callable[[Shape], Shape]  # theirs, of ours
    to_theirs: Callable[[np.ndarray], np.ndarray]
    to_ours: Callable[[np.ndarray, Shape], np.ndarray]  # given our shape


SAME = Layout(lambda ours: ours, lambda array: array, lambda tensor, ours: tensor)
# A bias over (heads, head_dim): theirs is one axis.
FLAT = Layout(lambda ours: (math.prod(ours),), lambda array: array.reshape(-1), lambda t, ours: t.reshape(ours))


def linear(inputs: int = 1) -> Layout:
    """`torch.nn.Linear`'s `[out, in]`, for our kernel whose first `inputs` axes are inputs."""
    return Layout(
        lambda ours: (math.prod(ours[inputs:]), math.prod(ours[:inputs])),
        lambda array: array.reshape(math.prod(array.shape[:inputs]), -1).T,
        lambda tensor, ours: tensor.T.reshape(ours),
    )


def conv1d(inputs: int = 1) -> Layout:
    """transformers' `Conv1D` (GPT-1 and 2): `[in, out]`."""
    return Layout(
        lambda ours: (math.prod(ours[:inputs]), math.prod(ours[inputs:])),
        lambda array: array.reshape(math.prod(array.shape[:inputs]), -1),
        lambda tensor, ours: tensor.reshape(ours),
    )


LINEAR, OUTPUT = linear(), linear(2)  # OUTPUT: of attention, whose inputs are (heads, head_dim)


def changed(
    layout: Layout, to_theirs: Callable[[np.ndarray], np.ndarray], to_ours: Callable[[np.ndarray], np.ndarray]
) -> Layout:
    """`layout` of our array after `to_theirs`, a permutation within our shape; `to_ours` undoes it."""
    return Layout(
        layout.shape,
        lambda array: layout.to_theirs(to_theirs(array)),
        lambda tensor, ours: to_ours(layout.to_ours(tensor, ours)),
    )


class Piece(NamedTuple):
    """Part of one of our parameters: `parameter[index]`, in some layout."""

    path: str
    layout: Layout = SAME
    index: tuple[int, ...] = ()


@dataclass(frozen=True)
class Tensor:
    """One Hugging Face tensor: its pieces joined along `axis`, then reshaped to `shape` if that is given."""

    name: str
    pieces: tuple[Piece, ...]
    axis: int = 0
    shape: Shape | None = None


def one(name: str, path: str, layout: Layout = SAME) -> Tensor:
    """A tensor that is one piece."""
    return Tensor(name, (Piece(path, layout),))


def joined(name: str, pieces: Sequence[tuple[str, Layout]], *, axis: int = 0, shape: Shape | None = None) -> Tensor:
    """A tensor of several pieces (path, layout), one after the other along its `axis`."""
    return Tensor(name, tuple(Piece(path, layout) for path, layout in pieces), axis, shape)


def repeated(tensors: Iterable[Tensor], name: str, path: str, *ranges: range) -> list[Tensor]:
    """`tensors` once for each number in `ranges` (layers; layers and experts).

    `name`: what comes before each tensor's name, with a `{}` per range; `path`: before each piece's path. Our index
    counts from each range's start: layers 3 to 9 of theirs are 0 to 6 of ours, where ours begin there.
    """
    found = []
    for numbers in itertools.product(*ranges):
        index = tuple(number - numbers_.start for number, numbers_ in zip(numbers, ranges, strict=True))
        for tensor in tensors:
            pieces = tuple(Piece(path + p.path, p.layout, index + p.index) for p in tensor.pieces)
            found.append(replace(tensor, name=name.format(*numbers) + tensor.name, pieces=pieces))
    return found


class TensorMap:
    """A family's tensors for parameters of known shapes, both ways.

    Raises ValueError if they do not cover every parameter once: a mistake in the family's file, not the user's.
    """

    def __init__(self, tensors: Sequence[Tensor], shapes: Mapping[str, Shape]):
        self.tensors = {tensor.name: tensor for tensor in tensors}
        self.shapes = dict(shapes)
        # Of each parameter: where each of its indices lies, (tensor, number of the piece in it).
        self.homes: dict[str, dict[tuple[int, ...], tuple[Tensor, int]]] = {path: {} for path in shapes}
        for tensor in tensors:
            for number, piece in enumerate(tensor.pieces):
                if piece.path not in shapes:
                    raise ValueError(f"{tensor.name} is mapped to {piece.path}, which the model does not have")
                if piece.index in self.homes[piece.path]:
                    raise ValueError(f"{piece.path}{list(piece.index)} is mapped twice, to {tensor.name} too")
                self.homes[piece.path][piece.index] = (tensor, number)
        for path, homes in self.homes.items():
            if not homes:
                raise ValueError(f"{path} is mapped to no tensor")
            leading = self.leading(path)
            if set(homes) != set(itertools.product(*map(range, leading))):
                raise ValueError(
                    f"{path} {shapes[path]}: only {len(homes)} of its {math.prod(leading)} parts are mapped"
                )

    def leading(self, path: str) -> Shape:
        """The sizes of the axes that theirs counts in names: `(layers,)`, `(layers, experts)` or none."""
        return self.shapes[path][: len(next(iter(self.homes[path])))]

    def piece_shape(self, piece: Piece) -> Shape:
        """Of our part, without the leading axes."""
        return self.shapes[piece.path][len(piece.index) :]

    def shape(self, name: str) -> Shape:
        """Of their tensor."""
        tensor = self.tensors[name]
        return tensor.shape or self._joined(tensor)

    def _joined(self, tensor: Tensor) -> Shape:
        shapes = [piece.layout.shape(self.piece_shape(piece)) for piece in tensor.pieces]
        axis = tensor.axis
        return (*shapes[0][:axis], sum(shape[axis] for shape in shapes), *shapes[0][axis + 1 :]) if shapes[0] else ()

    def to_ours(self, tensor: np.ndarray, home: tuple[Tensor, int]) -> np.ndarray:
        """The part of our parameter that is piece `home[1]` of `tensor`; a view where the layout is one."""
        form, number = home
        piece = form.pieces[number]
        if len(form.pieces) > 1:
            sizes = [p.layout.shape(self.piece_shape(p))[form.axis] for p in form.pieces]
            before = sum(sizes[:number])
            cut = (slice(None),) * form.axis + (slice(before, before + sizes[number]),)
            tensor = tensor.reshape(self._joined(form))[cut]
        elif form.shape is not None:
            tensor = tensor.reshape(self._joined(form))
        return piece.layout.to_ours(tensor, self.piece_shape(piece))

    def to_theirs(self, name: str, part: Callable[[str, tuple[int, ...]], np.ndarray]) -> np.ndarray:
        """Their tensor, of `part(path, index)`: our parameter's part as a NumPy array."""
        tensor = self.tensors[name]
        pieces = [piece.layout.to_theirs(part(piece.path, piece.index)) for piece in tensor.pieces]
        whole = np.concatenate(pieces, axis=tensor.axis) if len(pieces) > 1 else pieces[0]
        return whole if tensor.shape is None else whole.reshape(tensor.shape)
