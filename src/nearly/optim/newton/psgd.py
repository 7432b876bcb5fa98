"""Steps preconditioned by a factor on a Lie group, fitted online to Hessian products."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Unpack

import torch

from nearly.optim._vectors import flat, parts, safe_ratio
from nearly.optim.newton._lie_groups import fit_low_rank, fit_xmat, times_low_rank, times_xmat
from nearly.optim.optimizer import Optimizer, Options
from nearly.optim.step import Transform
from nearly.optim.transforms import ClipNorm, Momentum

if TYPE_CHECKING:
    from torch import Tensor

    from nearly.optim.step import Step

CARD = {
    "name": "PSGD",
    "rows": [155],
    "replaces": "tuned first-order steps on ill-conditioned losses",
    "cost": "one Hessian product and about 10 passes over N x rank numbers in each `every` steps, four such passes at others",
    "needs": ["curvature"],
    "state": {"matrix": {"mn": 4}, "vector": {"n": 4}, "shared": {"N": 84}},
    "parameters": {
        "lr": ["at least", 0, None],
        "preconditioner": ["choice", "low_rank", "xmat"],
        "rank": ["integer", 0, None],
        "fit_rate": ["at least", 0, 1],
        "momentum": ["at least", 0, 1],
        "every": ["integer", 1, None],
        "clip": ["optional real", 0, None],
    },
    "settings": {"lr": 0.5},
    "skips": {},
}
BALANCE = 100  # fits between two, as often as in the author's code


@dataclass(frozen=True)
class _Preconditioned(Transform):
    """Updates times P = Q' Q, after Q has been fitted to a product."""

    low_rank: bool
    rank: int
    rate: float
    every: int
    needs: ClassVar[tuple[str, ...]] = ("curvature",)

    def wants(self, number: int) -> tuple[str, ...]:
        """Curvature at the first of each `every` steps."""
        return self.needs if (number - 1) % self.every == 0 else ()

    def __call__(self, updates: list[Tensor], step: Step) -> list[Tensor]:
        """The updates, preconditioned."""
        if self.wants(step.number):
            self._fit(step)
        if not step.shared:
            return updates
        kept, vector = step.shared, flat(updates)
        if self.low_rank:
            return parts(times_low_rank(kept["one"], kept["other"], kept["scale"], vector), updates)
        return parts(times_xmat(kept["scale"], kept["one"], vector), updates)

    def _fit(self, step: Step) -> None:
        kept, draw, count = step.shared, step.generator(), (step.number - 1) // self.every
        like = flat(step.parameters)
        vector = torch.randn(len(like), generator=draw).to(like)
        product = flat(step.product(parts(vector, step.parameters)))
        if not bool(product.any()):
            return
        if not kept:
            # P h is about as long as v, and large products count for more than by their mean square.
            size = product.abs().amax()
            mean = safe_ratio(product, size).square().square().mean().sqrt().sqrt() * size
            kept["scale"] = mean.rsqrt() * torch.ones_like(like)
            if self.low_rank:
                spread = (len(like) * (self.rank + 10)) ** -0.5
                start = spread * torch.randn(2, len(like), self.rank, generator=draw).to(like)
                kept["one"], kept["other"] = start[0].clone(), start[1].clone()
            else:
                kept["one"] = torch.zeros_like(like)
        if self.low_rank:
            if count % BALANCE == BALANCE - 1:
                ratio = (kept["one"].norm() / kept["other"].norm()).sqrt()
                ratio = torch.where(torch.isfinite(ratio) & (ratio > 0), ratio, 1.0)
                kept["one"].div_(ratio)
                kept["other"].mul_(ratio)
            fit_low_rank(kept["one"], kept["other"], kept["scale"], vector, product, self.rate, first=count % 2 == 0)
        else:
            fit_xmat(kept["scale"], kept["one"], vector, product, self.rate)


class PSGD(Optimizer):
    r"""$p \leftarrow p - lr\, Q^T Q m$, Q fitted online so that $Q^T Q$ tends to the inverse of the Hessian H, or of its size.

    m is the gradients' running mean. Q belongs to a Lie group of matrices that take O(N) numbers: "low_rank",
    $(I + U V^T)\, \mathrm{diag}(d)$ with U and V of `rank` columns (0 for a diagonal alone), or "xmat", a diagonal and an
    antidiagonal. From products h = H v with normal v each fit descends on

        $$E[h^T P h + v^T P^{-1} v], \qquad P = Q^T Q,$$

    by a step $Q \leftarrow (I - \mu G) Q$ or $Q (I - \mu G)$ that stays in the group, where $\mu$ is `fit_rate` over a bound of
    G's norm; the minimum is $(E[h h^T])^{-1/2}$, without noise $|H|^{-1}$. Both rates are thereby free of the loss's scale, and
    noise of the products damps P by itself. `nearly.calculus.curvature.HessianFit` is the same on dense groups.

    Departures: (1) Q is fitted at each `every`-th step, and U and V in turn, where the paper draws; (2) all is in single precision
    at least; (3) while all products are zero, updates are those of momentum alone.

    Source: Pooladzandi, Li 2024, "Curvature-Informed SGD via General Purpose Lie-Group Preconditioners", arXiv:2402.04553,
    algorithms 1 to 3; formulas also as in https://github.com/lixilinx/psgd_torch.

    Args:
        params: tensors, named tensors or one parameter group, of N numbers in all.
        lr: rate; 1 is Newton's step where Q is fitted.
        preconditioner: see above.
        rank: of U and V.
        fit_rate: of Q, below 1.
        momentum: of m; 0 keeps none.
        every: steps to a fit; the others cost what first-order ones do.
        clip: most 2-norm of the preconditioned update, all parameters together.
        options: see `Options`.

    Raises:
        BadInput: for values out of range, by name; where `step` gets no closure, or one that calls `backward`.

    Example:
        >>> x = torch.nn.Parameter(torch.tensor([1.0, 1.0]))
        >>> optimizer = PSGD([x], lr=0.3, momentum=0.0)
        >>> losses = [float(optimizer.step(lambda: 500 * x[0] ** 2 + x[1] ** 2).detach()) for _ in range(100)]
        >>> losses[-1] < 1e-6
        True
    """

    joint: ClassVar[bool] = True

    def __init__(
        self,
        params: Iterable[Any],
        *,
        lr: float = 0.4,
        preconditioner: str = "low_rank",
        rank: int = 10,
        fit_rate: float = 0.3,
        momentum: float = 0.9,
        every: int = 1,
        clip: float | None = None,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(params, locals(), **options)

    def recipe(self, group: dict[str, Any]) -> Sequence[Transform]:
        """Momentum, preconditioned and clipped."""
        low_rank = group["preconditioner"] == "low_rank"
        fitted = _Preconditioned(low_rank, group["rank"], group["fit_rate"], group["every"])
        clip = () if group["clip"] is None else (ClipNorm(group["clip"]),)
        return (Momentum(group["momentum"], average=True), fitted, *clip)
