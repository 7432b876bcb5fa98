"""What optimizers and layers ask of a Riemannian manifold whose points are tensors."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from nearly.core.errors import BadInput
from nearly.core.validate import as_floating, describe

if TYPE_CHECKING:
    from jaxtyping import Float


class Manifold(ABC):
    """A Riemannian manifold in a space of tensors, in batches: a point fills the last `dimensions` dimensions.

    Members are immutable and hold no tensors. Points and vectors are float32 or float64, of one dtype and device, which results
    keep; leading dimensions broadcast; everything is differentiable. Every method checks its points as `check` does. Of a
    vector at a point only the tangent part counts: what round-off or the caller left of a normal part is taken off first.

    Source: Absil, Mahony, Sepulchre 2008, "Optimization Algorithms on Matrix Manifolds", chapters 3, 4, 5 and 8.
    """

    dimensions: ClassVar[int]

    @abstractmethod
    def check(self, point: Float[Tensor, "*batch"], name: str = "point") -> None:
        """Raise unless this is a point of the manifold, to the tolerance that the member states.

        Args:
            point: any number of them.
            name: what the message calls it.

        Raises:
            BadInput: for what is no point.
        """

    @abstractmethod
    def gradient(self, point: Float[Tensor, "*batch"], euclidean_gradient: Float[Tensor, "*batch"]) -> Tensor:
        """The tangent vector whose inner product with each tangent vector v is the derivative `<euclidean_gradient, v>`."""

    @abstractmethod
    def inner(self, point: Float[Tensor, "*batch"], u: Float[Tensor, "*batch"], v: Float[Tensor, "*batch"]) -> Tensor:
        """The inner product of two tangent vectors at a point, one number for each point."""

    @abstractmethod
    def exponential(self, point: Float[Tensor, "*batch"], tangent: Float[Tensor, "*batch"]) -> Tensor:
        """The end of the geodesic that leaves a point along a tangent vector, whose length it has."""

    def retract(self, point: Float[Tensor, "*batch"], tangent: Float[Tensor, "*batch"]) -> Tensor:
        """A point that agrees with the exponential to first order at least; where nothing is cheaper, the exponential itself."""
        return self.exponential(point, tangent)

    @abstractmethod
    def carry(
        self, point: Float[Tensor, "*batch"], tangent: Float[Tensor, "*batch"], vector: Float[Tensor, "*batch"]
    ) -> tuple[Tensor, Tensor]:
        """`retract(point, tangent)`, and a tangent vector taken along, to one there: both for little more than the first."""

    def transport(
        self, point: Float[Tensor, "*batch"], tangent: Float[Tensor, "*batch"], vector: Float[Tensor, "*batch"]
    ) -> Tensor:
        """A tangent vector at a point taken along, to one at `retract(point, tangent)`."""
        return self.carry(point, tangent, vector)[1]

    def _given(self, **arguments: Tensor) -> list[Tensor]:
        """Arguments as finite tensors of one dtype and, by broadcasting, one shape.

        Raises:
            BadInput: naming the one that does not fit the first.
        """
        found: list[Tensor] = []
        for name, value in arguments.items():
            tensor = as_floating(name, value)
            if tensor.ndim < self.dimensions:
                raise BadInput(name, f"at least {self.dimensions}-dimensional", describe(tensor))
            if found:
                first = found[0]
                sides = first.shape[-self.dimensions :]
                if tensor.dtype != first.dtype or tensor.shape[-self.dimensions :] != sides:
                    kind = str(first.dtype).removeprefix("torch.")
                    raise BadInput(name, f"a {kind} tensor whose last sides are {tuple(sides)}", describe(tensor))
            found.append(tensor)
            try:
                torch.broadcast_shapes(*(each.shape for each in found))
            except RuntimeError as error:
                raise BadInput(name, f"broadcastable with {tuple(found[0].shape)}", describe(tensor)) from error
        return list(torch.broadcast_tensors(*found))
