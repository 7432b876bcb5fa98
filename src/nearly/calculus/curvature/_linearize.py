"""Products with derivatives of outputs that autograd has recorded, for columns of vectors over several parameters."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from nearly.calculus._evaluations import same_draws
from nearly.core.errors import BadInput
from nearly.core.validate import describe
from nearly.linalg.operator import Operator, on_parts

if TYPE_CHECKING:
    from jaxtyping import Float

Columns = Callable[[list[Tensor]], list[Tensor]]  # products with k vectors, each part of shape (k, *parameter)

# Below this many numbers per vector one call for all vectors is faster than one each (multilayer perceptrons on one core, 20
# vectors: 3 times faster at 700 parameters, 1.1 at 13,000, 0.9 at 30,000); it also holds all of them in memory at once.
TOGETHER = 2**14


def pull(
    outputs: Sequence[Tensor], inputs: Sequence[Tensor], weights: Sequence[Tensor], *, together: bool = True
) -> list[Tensor]:
    """`sum_i weights_i . d outputs_i / d inputs` for k sets of weights of shape (k, *output); the graph is kept.

    Args:
        outputs: recorded by autograd.
        inputs: what they are made of.
        weights: as many as outputs.
        together: whether torch may be asked for all k at once.

    Returns:
        Per input, shape (k, *input); zeros for inputs that the outputs do not depend on.
    """
    count = len(weights[0])
    live = [i for i, output in enumerate(outputs) if output.requires_grad]
    if not live:
        return [one.new_zeros(count, *one.shape) for one in inputs]
    chosen, given = [outputs[i] for i in live], [weights[i] for i in live]

    def derivatives(weights: Sequence[Tensor], lead: Sequence[int] = ()) -> list[Tensor]:
        flags: dict[str, Any] = {"retain_graph": True, "allow_unused": True, "is_grads_batched": bool(lead)}
        found = torch.autograd.grad(chosen, inputs, weights, **flags)
        pairs = zip(inputs, found, strict=True)
        return [one.new_zeros(*lead, *one.shape) if part is None else part for one, part in pairs]

    if together and count > 1 and sum(one.numel() for one in inputs) <= TOGETHER:
        with suppress(RuntimeError):  # an operation that knows no batches
            return derivatives(given, (count,))
    each = [derivatives([part[k] for part in given]) for k in range(count)]
    return [torch.stack(parts) for parts in zip(*each, strict=True)]


class Summed:
    """The product of a sum of linear maps, one per mini-batch, with columns of flat vectors."""

    def __init__(
        self,
        maps: Callable[..., Columns],
        parameters: Sequence[Tensor],
        batches: Sequence[tuple[Any, ...]],
        weights: Sequence[float],
        keep_graph: bool,
    ) -> None:
        self.maps, self.parameters, self.batches, self.weights = maps, parameters, batches, weights
        self.kept: list[Columns] | None = list(map(self._record, range(len(batches)))) if keep_graph else None

    def _record(self, place: int) -> Columns:
        with torch.enable_grad(), same_draws(place):  # all products are of one matrix, whatever the maps draw
            return self.maps(*self.batches[place])

    def __call__(self, vectors: Float[Tensor, "d k"]) -> Float[Tensor, "d k"]:
        size = sum(one.numel() for one in self.parameters)
        if vectors.ndim not in (1, 2) or len(vectors) != size:
            raise BadInput("vectors", f"of shape ({size},) or ({size}, k)", describe(vectors))
        if vectors.numel() == 0:
            return vectors.clone()
        return like_vectors(on_parts(self._product)(vectors.reshape(size, -1)), vectors)

    def _product(self, vectors: Tensor) -> Tensor:
        columns = vectors.to(self.parameters[0])
        parts = unflatten(columns, self.parameters)
        total = torch.zeros_like(columns)
        for i, weight in enumerate(self.weights):
            product = self._record(i) if self.kept is None else self.kept[i]
            total.add_(flatten(product(parts)), alpha=weight)
        return total


def like_vectors(product: Tensor, vectors: Tensor) -> Tensor:
    """A product in the shape, the precision and on the device of the vectors; integers have no precision of their own."""
    found = product.reshape(vectors.shape).to(vectors.device)
    return found.to(vectors.dtype) if vectors.is_floating_point() or vectors.is_complex() else found


def flatten(parts: Sequence[Float[Tensor, k * shape]]) -> Float[Tensor, "d k"]:
    """Columns of flat vectors."""
    return torch.cat([part.reshape(len(part), -1) for part in parts], dim=1).T


def unflatten(columns: Float[Tensor, "d k"], like: Sequence[Tensor]) -> list[Tensor]:
    """The parts of every column, each of shape (k, *parameter)."""
    rows = columns.T.contiguous()
    parts = rows.split([one.numel() for one in like], dim=1)
    return [part.reshape(len(rows), *one.shape) for part, one in zip(parts, like, strict=True)]


def symmetric_operator(
    maps: Callable[..., Columns],
    parameters: Sequence[Tensor],
    batches: Sequence[tuple[Any, ...]],
    weights: Sequence[float],
    keep_graph: bool,
) -> Operator:
    """The operator of a sum over mini-batches of symmetric maps."""
    product = Summed(maps, parameters, batches, weights, keep_graph)
    size, first = sum(one.numel() for one in parameters), parameters[0]
    return Operator((size, size), product, product, first.dtype, first.device, symmetric=True)


def checked_parameters(parameters: Iterable[Tensor]) -> list[Tensor]:
    """Different tensors of one floating dtype and device that require gradients.

    Raises:
        BadInput: otherwise.
    """
    asked = "different tensors of one floating dtype and device that require gradients"
    if isinstance(parameters, Tensor):
        raise BadInput("parameters", f"a list of {asked}", describe(parameters))
    try:
        found = list(parameters)
    except TypeError as error:
        raise BadInput("parameters", asked, describe(parameters)) from error
    for one in found:
        fine = isinstance(one, Tensor) and one.is_floating_point() and one.requires_grad and one.numel() > 0
        if not fine or one.dtype != found[0].dtype or one.device != found[0].device:
            raise BadInput("parameters", asked, describe(one))
    if not found:
        raise BadInput("parameters", asked, "none")
    if len(set(map(id, found))) < len(found):
        raise BadInput("parameters", asked, "one of them twice")
    return found


def recorded(
    name: str, of: str, outputs: Tensor, parameters: Sequence[Tensor], weights: Tensor | None = None
) -> list[Tensor]:
    """The derivatives of outputs for parameters, themselves recorded; zeros for those that they do not depend on.

    Raises:
        BadInput: where they depend on none.
    """
    slopes = torch.autograd.grad(outputs, parameters, weights, create_graph=True, allow_unused=True)
    if all(slope is None for slope in slopes):
        raise BadInput(name, f"one {of} on the parameters", "one that depends on other tensors alone")
    return [torch.zeros_like(one) if slope is None else slope for one, slope in zip(parameters, slopes, strict=True)]


def checked_batches(batches: Iterable[Any]) -> list[tuple[Any, ...]]:
    """Tuples of arguments, one per mini-batch.

    Raises:
        BadInput: for anything else.
    """
    asked = "a sequence of tuples, one per mini-batch"
    try:
        found = list(batches)
    except TypeError as error:
        raise BadInput("batches", asked, describe(batches)) from error
    if not found or not all(isinstance(batch, tuple | list) for batch in found):
        raise BadInput("batches", asked, describe(found[0]) if found else "none")
    return [tuple(batch) for batch in found]


def batch_weights(batches: Sequence[tuple[Any, ...]], reduction: str) -> list[float]:
    """What each mini-batch counts for: 1, or its share of the rows.

    Raises:
        BadInput: for another reduction, and batches without rows where their shares are asked for.
    """
    if reduction not in ("mean", "sum"):
        raise BadInput("reduction", "one of mean, sum", reduction)
    if reduction == "sum" or len(batches) == 1:
        return [1.0] * len(batches)
    if not all(batch and isinstance(batch[0], Tensor) and batch[0].ndim and len(batch[0]) for batch in batches):
        raise BadInput("batches", "of tensors with rows first, for a mean over rows", describe(batches[0]))
    rows = [len(batch[0]) for batch in batches]
    return [count / sum(rows) for count in rows]
