"""Probability measures: smooth test functions in, their expectations out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from nearly.core.domain import Anywhere
from nearly.core.errors import BadInput
from nearly.core.target import Target
from nearly.core.validate import as_floating, describe, require_float
from nearly.linalg.scaling import binary_scale

if TYPE_CHECKING:
    from jaxtyping import Float


def waves(functions: Float[Tensor, "n k"], points: Float[Tensor, "m d"]) -> Float[Tensor, "n m"]:
    """Values of test functions `a cos(w . x + b)` at points; a function is the row (w, b, a), k = d + 2."""
    frequency, phase, amplitude = functions[:, :-2], functions[:, -2], functions[:, -1]
    return amplitude[:, None] * torch.cos(torch.addmm(phase[:, None], frequency, points.T))


class Measure(Target):
    """The empirical measure of weighted samples, asked for expectations of random smooth test functions.

    A test function is `f(x) = a cos(w . x + b)` with `w ~ N(0, I / scale^2)`, b uniform, and a such that f has standard
    deviation 1 under the measure. So the error `|E f - prediction|` is in units of the function's spread, and its mean square
    over the functions (before scaling by a) is half the squared maximum mean discrepancy with the Gaussian kernel of that
    scale (Rahimi and Recht 2007, Random features for large-scale kernel machines).

    Args:
        samples: shape (m, d), at least two distinct rows.
        weights: shape (m,), positive; equal by default. They are scaled to sum 1.
        scale: length over which test functions vary; by default the median distance of sample pairs that differ.
        name: for reports.

    Raises:
        BadInput: for samples or weights that are not as above.

    Example:
        >>> m = Measure(torch.randn(500, 2, generator=torch.Generator().manual_seed(0)))
        >>> m(m.sample(4, 1)).shape
        torch.Size([4, 1])
    """

    noun: ClassVar[str] = "measure"
    unit = "in units of the test function's standard deviation"

    def __init__(self, samples: Any, *, weights: Any = None, scale: float | None = None, name: str = "measure") -> None:
        self.samples = as_floating("samples", samples, dimensions=2)
        count = len(self.samples)
        if weights is None:
            self.weights = self.samples.new_full((count,), 1 / count)
        else:
            self.weights = as_floating("weights", weights, dimensions=1).to(self.samples)
            if len(self.weights) != count or not bool((self.weights > 0).all()):
                raise BadInput("weights", f"{count} positive numbers", describe(weights))
            self.weights = self.weights / binary_scale(self.weights, 0)  # their sum stays in range
            self.weights = self.weights / self.weights.sum()
        if not bool((self.samples != self.samples[0]).any()):
            raise BadInput("samples", "at least two distinct rows", f"{count} equal ones")
        if scale is None:
            some = self.samples[:: max(1, count // 500)]
            unit = binary_scale(some, (0, 1))
            distances = torch.pdist(some / unit)
            apart = distances[distances > 0]
            if not apart.numel():
                raise BadInput("scale", "given, where nearly all samples are equal", None)
            scale = float(apart.median() * unit)
        self.scale, self.name, self.domain = (
            require_float("scale", scale, above=0.0),
            name,
            Anywhere([self.samples.shape[1] + 2]),
        )

    @property
    def source(self) -> str:
        """The distribution of test functions, in words."""
        return f"random waves of length scale {self.scale:.3g}"

    @property
    def bytes(self) -> int | None:
        """Memory of samples and weights."""
        return (self.samples.numel() + self.weights.numel()) * self.samples.element_size()

    def _draw_inputs(self, n: int, generator: torch.Generator) -> Tensor:
        d = self.samples.shape[1]
        frequency = torch.randn(n, d, dtype=torch.float64, generator=generator) / self.scale
        phase = 2 * torch.pi * torch.rand(n, 1, dtype=torch.float64, generator=generator)
        functions = torch.cat([frequency, phase, torch.ones(n, 1, dtype=torch.float64)], dim=1).to(self.samples)
        values = waves(functions, self.samples)
        mean = values @ self.weights
        spread = ((values - mean[:, None]).square() @ self.weights).sqrt()
        functions[:, -1] = 1 / spread.clamp(min=1e-6)  # a wave that is constant on all samples stays bounded
        return functions

    def _evaluate(self, inputs: Tensor) -> tuple[Tensor, list[str | None]]:
        d = self.samples.shape[1]
        if inputs.ndim != 2 or inputs.shape[1] != d + 2:
            raise BadInput("inputs", f"test functions of shape (n, {d + 2})", describe(inputs))
        return (waves(inputs, self.samples) @ self.weights)[:, None], [None] * len(inputs)

    def error(self, outputs: Float[Tensor, "n 1"], predictions: Float[Tensor, "n 1"]) -> Float[Tensor, " n"]:
        """Absolute difference of expectations per test function."""
        return (outputs - predictions).abs().reshape(len(outputs), -1).amax(dim=1)
