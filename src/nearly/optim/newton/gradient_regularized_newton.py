"""Newton steps regularized by the gradient's norm, with the Hessian or the Gauss-Newton matrix, and nothing to tune."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Unpack

import torch

from nearly.optim._targets import Targets
from nearly.optim._vectors import elsewhere, flat, parts
from nearly.optim.newton._newton import hessian, solved
from nearly.optim.optimizer import Optimizer, Options
from nearly.optim.step import Transform

if TYPE_CHECKING:
    from torch import Tensor

    from nearly.optim.step import Step

CARD = {
    "name": "GradientRegularizedNewton",
    "rows": [248],
    "replaces": "Newton's method and Gauss-Newton with a tuned damping",
    "cost": "N curvature products, and for each trial N^3 / 3 multiplications and a gradient; about two trials a step",
    "needs": ["closure", "curvature"],
    "state": {"matrix": {}, "vector": {}},
    "largest": 5000,
    "parameters": {
        "lr": ["at least", 0, None],
        "curvature": ["choice", "hessian", "gauss-newton"],
        "start": ["real", 0, None],
    },
    "settings": {},
    "skips": {},
}
TRIALS = 60  # of a step: 2^60 ends any search
ROUNDING = 4.0  # of two losses and their difference, in units of the loss's own


@dataclass(frozen=True)
class _Regularized(Transform):
    """The step with the largest radius that keeps its promise."""

    targets: Targets | None
    start: float
    needs: ClassVar[tuple[str, ...]] = ("closure", "curvature")

    def __call__(self, updates: list[Tensor], step: Step) -> list[Tensor]:
        """The step."""
        gradient, loss = flat(updates), step.loss
        size = gradient.norm()
        if not bool(size > 0):
            return updates
        matrix = hessian(step, None if self.targets is None else self.targets.gauss_newton)
        eye = torch.eye(len(matrix), dtype=matrix.dtype, device=matrix.device)
        slack = ROUNDING * torch.finfo(loss.dtype).eps * loss.abs()
        radius = step.shared.get("radius", self.start)
        for _ in range(TRIALS):
            shift = size / radius
            factor, failed = torch.linalg.cholesky_ex(matrix + shift * eye)
            if not bool(failed):
                found = parts(solved(factor, gradient), updates)
                there, slopes = elsewhere(step, found)
                if bool(loss - there + slack >= flat(slopes).square().sum() / (8 * shift)):
                    step.shared["radius"] = 2 * radius
                    return found
            radius /= 2
        return [torch.zeros_like(update) for update in updates]  # the loss is at its rounding: stay


class GradientRegularizedNewton(Optimizer):
    r"""Newton's $x \leftarrow x - (H + \lambda I)^{-1} g$ with $\lambda = |g| / \gamma$ and an exact or approximate Hessian H.

    $\gamma$ is the radius of the ball in which H predicts the gradients well relative to their size (the gradient-normalized
    smoothness); it is doubled after each step and halved until $f(x) - f(x^+) \ge |\nabla f(x^+)|^2 / (8 \lambda)$. By this rule
    alone the steps have the best known rates of each class that the loss is in: with Hölder-continuous Hessians or third
    derivatives, quasi-self-concordant (logistic losses: linear from any start) and others. An error of H that is bounded by the
    gradient's size keeps them.

    With "gauss-newton" H = J' D J of the model's outputs, positive semidefinite for convex losses of them, and the Fisher matrix
    of cross-entropies and squares. The closure then returns the outputs and a function of them in the loss's place:

        def closure(): return model(inputs), lambda outputs: loss_function(outputs, targets)

    Departure: a decrease that is lost in the loss's rounding counts as made.

    Source: Semenov, Jaggi, Doikov 2025, "Gradient-Normalized Smoothness for Optimization with Approximate Hessians",
    arXiv:2506.13710, algorithm 1.

    Args:
        params: tensors, named tensors or one parameter group, of N numbers in all; N^2 numbers must fit into memory.
        lr: times the step; 1 is the paper's.
        curvature: "hessian" or "gauss-newton".
        start: the first $\gamma$.
        options: see `Options`.

    Raises:
        BadInput: for values out of range, by name; where `step` gets no closure, or one that does not return what is said above.

    Example:
        >>> x = torch.nn.Parameter(torch.tensor([3.0, -2.0]))
        >>> optimizer = GradientRegularizedNewton([x])
        >>> losses = [float(optimizer.step(lambda: (x.square() + 1).sqrt().sum()).detach()) for _ in range(12)]
        >>> bool(x.norm() < 1e-3)
        True
    """

    joint: ClassVar[bool] = True

    def __init__(
        self,
        params: Iterable[Any],
        *,
        lr: float = 1.0,
        curvature: str = "hessian",
        start: float = 1.0,
        **options: Unpack[Options],
    ) -> None:
        self._targets: Targets | None = None
        super().__init__(params, locals(), **options)

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step; `closure` returns the loss, or with "gauss-newton" the outputs and a function of them.

        Raises:
            BadInput: without it.
        """
        if closure is None or self.param_groups[0]["curvature"] == "hessian":
            return super().step(closure)
        self._targets = Targets(closure, type(self).__name__)
        try:
            return super().step(self._targets)
        finally:
            self._targets = None

    def recipe(self, group: dict[str, Any]) -> Sequence[Transform]:
        """The regularized step."""
        return (_Regularized(self._targets, group["start"]),)
