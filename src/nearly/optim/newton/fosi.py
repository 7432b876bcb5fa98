"""First-order steps, with Newton's in the directions of the Hessian's extreme eigenvalues."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Unpack

import torch

from nearly.linalg.lanczos import ritz_pairs
from nearly.optim._vectors import flat, parts
from nearly.optim.optimizer import Optimizer, Options
from nearly.optim.step import Transform
from nearly.optim.transforms import Moments, Momentum

if TYPE_CHECKING:
    from torch import Tensor

    from nearly.optim.step import Step

CARD = {
    "name": "FOSI",
    "rows": [225],
    "replaces": "heavy ball and Adam on ill-conditioned losses",
    "cost": "the base rule's and four products with N x (largest + smallest) numbers; Hessian products in each `every` steps, four "
    "times largest + smallest or more",
    "needs": ["curvature"],
    "state": {"matrix": {"mn": 8}, "vector": {"n": 8}, "shared": {"N": 24, "1": 24}},
    "parameters": {
        "lr": ["at least", 0, None],
        "base": ["choice", "adam", "heavy_ball"],
        "base_lr": ["at least", 0, None],
        "newton_lr": ["at least", 0, None],
        "momentum": ["at least", 0, 1],
        "betas": ["pair", 0, 1],
        "eps": ["real", 0, None],
        "largest": ["integer", 1, None],
        "smallest": ["integer", 0, None],
        "every": ["integer", 1, None],
        "warmup": ["integer", 0, None],
        "most_scale": ["real", 0, None],
    },
    "settings": {"base_lr": 0.1, "every": 20},
    "skips": {},
}


@dataclass(frozen=True)
class _Split(Transform):
    """Newton's step on the extreme eigenspace, and another rule's on its complement."""

    base: Transform
    base_lr: float
    newton_lr: float
    momentum: float
    average: bool
    largest: int
    smallest: int
    every: int
    warmup: int
    most_scale: float
    needs: ClassVar[tuple[str, ...]] = ("curvature",)

    def wants(self, number: int) -> tuple[str, ...]:
        """Curvature where eigenvectors are taken anew."""
        since = number - 1 - self.warmup
        return self.needs if since >= 0 and since % self.every == 0 else ()

    def __call__(self, updates: list[Tensor], step: Step) -> list[Tensor]:
        """The step."""
        kept = step.shared
        if self.wants(step.number):
            self._spectrum(step)
        if not kept:
            return list(torch._foreach_mul(self.base(updates, step), self.base_lr))
        vectors, gradient = kept["vectors"], flat(updates)
        inside = vectors.T @ (vectors @ gradient)
        # The velocity is a whole vector, as the subspace turns.
        velocity = kept["velocity"].mul_(self.momentum).add_(inside, alpha=1 - self.momentum if self.average else 1.0)
        newton = vectors.T @ (kept["rates"] * (vectors @ velocity))
        other = flat(self.base(parts(gradient - inside, updates), step))
        other = other - vectors.T @ (vectors @ other)
        return parts(self.newton_lr * newton + self.base_lr * kept["scale"] * other, updates)

    def _spectrum(self, step: Step) -> None:
        kept, like = step.shared, flat(step.parameters)
        size = len(like)
        count = min(self.largest + self.smallest, size)
        # The author's code: enough for the outermost pairs, https://github.com/hsivan/fosi.
        steps = max(4 * count, 2 * math.ceil(math.log(size)))
        start = torch.randn(size, generator=step.generator()).to(like)
        values, vectors = ritz_pairs(lambda x: flat(step.product(parts(x, step.parameters))), start, steps)
        few = min(self.smallest, count)
        chosen = torch.cat([torch.arange(few), torch.arange(len(values) - (count - few), len(values))])
        values, vectors = values[chosen.to(values.device)], vectors[:, chosen.to(values.device)].T
        # What is zero but for rounding has no Newton step: it is left to the base rule.
        live = values.abs() > size * torch.finfo(values.dtype).eps * values.abs().amax()
        kept["vectors"] = torch.where(live[:, None], vectors, 0.0)
        kept["rates"] = torch.where(live, 1 / values.abs(), 0.0)
        spread = torch.where(live[few] & live[-1], values[-1] / values[few], 1.0)
        kept["scale"] = spread.clamp(1.0, max(1.0, self.most_scale))
        kept.setdefault("velocity", torch.zeros_like(like))


class FOSI(Optimizer):
    r"""$p \leftarrow p - lr\,(\alpha V |\Lambda|^{-1} V^T m + \eta (I - V V^T) b)$: Newton in few directions, a rule elsewhere.

    V and $\Lambda$ are the eigenpairs of the Hessian that belong to its `largest` and `smallest` eigenvalues, found by Lanczos
    iterations every so often; m is a running mean or sum of the gradients' parts in V, and b the base rule's step for their other
    parts, $(I - V V^T) g$. For quadratics the base rule then works on the remaining spectrum, and its rate may grow with what that
    leaves: heavy ball's does by $\lambda_1 / \lambda_k$, the largest eigenvalue over the least of the `largest`, if within 1 and
    `most_scale`.

    Departures: (1) the Hessian is that of the step's own batch; (2) eigenvalues that are zero but for rounding are left to the base
    rule; (3) `lr` is times the whole step, so that schedules act on both parts.

    Source: Sivan, Gabel, Schuster 2024, "FOSI: Hybrid First and Second Order Optimization", arXiv:2302.08484, algorithms 1 and 2.

    Args:
        params: tensors, named tensors or one parameter group, of N numbers in all.
        lr: times the whole step.
        base: "adam", with m a mean; or "heavy_ball", with m a sum.
        base_lr: $\eta$, the base rule's rate.
        newton_lr: $\alpha$.
        momentum: of m, and of heavy ball.
        betas: Adam's.
        eps: Adam's.
        largest: how many of the largest eigenvalues.
        smallest: how many of the smallest.
        every: steps with the same eigenvectors; only the first of them costs more than one gradient.
        warmup: steps of the base rule alone at the start.
        most_scale: see above.
        options: see `Options`.

    Raises:
        BadInput: for values out of range, by name; where `step` gets no closure, or one that calls `backward`.

    Example:
        >>> x = torch.nn.Parameter(torch.ones(4))
        >>> optimizer = FOSI([x], base="heavy_ball", base_lr=0.4, newton_lr=1.0, momentum=0.0, largest=1)
        >>> losses = [float(optimizer.step(lambda: 500 * x[0] ** 2 + x[1:].square().sum()).detach()) for _ in range(9)]
        >>> losses[-1] < 1e-6
        True
    """

    joint: ClassVar[bool] = True

    def __init__(
        self,
        params: Iterable[Any],
        *,
        lr: float = 1.0,
        base: str = "adam",
        base_lr: float = 1e-3,
        newton_lr: float = 0.1,
        momentum: float = 0.9,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        largest: int = 5,
        smallest: int = 0,
        every: int = 100,
        warmup: int = 0,
        most_scale: float = 3.0,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(params, locals(), **options)

    def recipe(self, group: dict[str, Any]) -> Sequence[Transform]:
        """The base rule within the split."""
        adam = group["base"] == "adam"
        base = Moments(group["betas"], group["eps"]) if adam else Momentum(group["momentum"])
        names = ("base_lr", "newton_lr", "momentum", "largest", "smallest", "every", "warmup", "most_scale")
        settings = {name: group[name] for name in names}
        # Adam's steps are of one size in any case.
        return (_Split(base, average=adam, **{**settings, "most_scale": 1.0 if adam else settings["most_scale"]}),)
