"""Steps in pieces that stay in a core's cache, so that memory is read and written once rather than once a transform."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from nearly.optim.step import Step, Transform

# Numbers; measured for Adam on 4 million in single precision: 2^13 13.6 ms, 2^15 7.5, 2^16 6.7, 2^17 8.8, whole 10.7.
PIECE = 2**16
SOME = 2**20  # numbers of matrices worked on together: 4 MiB in single precision, about what a core's caches hold


def chunks(step: Step, recipe: Sequence[Transform]) -> Iterator[Step]:
    """The step itself, or pieces of it: some parameters, where transforms treat each by itself, or some entries."""
    plain = all(
        type(tensor) in (Tensor, torch.nn.Parameter) and tensor.is_contiguous()
        for tensor in (*step.parameters, *step.gradients)
    )
    total = sum(parameter.numel() for parameter in step.parameters)
    # Ranks share out equal shapes, the more at a time the better.
    if not plain or total <= PIECE or step.process_group is not None:
        yield step
    elif all(transform.elementwise for transform in recipe) and step.parameters[0].device.type == "cpu":
        yield from _entries(step)
    elif all(transform.elementwise or transform.separate for transform in recipe):
        yield from _parameters(step)
    else:
        yield step


def _parameters(step: Step) -> Iterator[Step]:
    """Equal shapes together, as they are worked on in one batch."""
    order = sorted(range(len(step.parameters)), key=lambda i: tuple(step.parameters[i].shape))
    piece: list[int] = []
    held = 0
    for i in order:
        size = step.parameters[i].numel()
        if piece and held + size > SOME:
            yield step.subset(piece)
            piece, held = [], 0
        piece.append(i)
        held += size
    yield step.subset(piece)


def _entries(step: Step) -> Iterator[Step]:
    piece: list[tuple[int, int, int]] = []
    room = PIECE
    for i, parameter in enumerate(step.parameters):
        start, size = 0, parameter.numel()
        while start < size:
            taken = min(room, size - start)
            piece.append((i, start, start + taken))
            start, room = start + taken, room - taken
            if room == 0:
                yield _Piece(step, piece)
                piece, room = [], PIECE
    if piece:
        yield _Piece(step, piece)


class _Piece(Step):
    """Some entries of some of a step's parameters, flattened."""

    def __init__(self, whole: Step, places: list[tuple[int, int, int]]) -> None:
        self.__dict__.update(whole.__dict__)
        self._whole, self._places = whole, places
        self.parameters = self._part(whole.parameters)
        self.gradients = self._part(whole.gradients)

    def state(self, name: str, make: Callable[[Tensor], Any] = torch.zeros_like) -> list[Any]:
        """The same entries of the state."""
        return self._part(self._whole.state(name, make))

    def _part(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        return [tensors[i].view(-1)[start:stop] for i, start, stop in self._places]
