"""Several steps of a first-order rule at once, ahead along gradients that a kernel predicts from those seen."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Unpack

import torch
from torch import Tensor

from nearly.optim._vectors import flat, parts, put
from nearly.optim.optimizer import Optimizer, Options
from nearly.optim.step import Step, Transform
from nearly.optim.transforms import Moments, Momentum

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

CARD = {
    "name": "OptEx",
    "rows": [194],
    "replaces": "steps of Adam or SGD one after the other, where ranks can take gradients of the same loss at once",
    "cost": "`parallel` gradients a step, as many steps of the rule, and products with `history` points",
    "needs": ["closure"],
    "state": {"matrix": {"mn": 8}, "vector": {"n": 8}, "shared": {"N": 160}},
    "parameters": {
        "lr": ["at least", 0, None],
        "rule": ["choice", "adam", "sgd"],
        "parallel": ["integer", 1, None],
        "history": ["integer", 1, None],
        "betas": ["pair", 0, 1],
        "eps": ["real", 0, None],
        "noise": ["real", 0, None],
    },
    "settings": {"lr": 0.03, "history": 20},
    "skips": {},
}
WIDTH = (
    3.0  # of the kernel, over the largest distance of two points seen; flat enough to be a polynomial's continuation
)


class _Substep(Step):
    """A step of the rule within a step: of a later number; with `apart`, on copies of the rule's state."""

    def __init__(self, whole: Step, number: int, apart: dict[str, list[Tensor]] | None = None) -> None:
        self.__dict__.update(whole.__dict__)
        self.number, self._whole, self._apart = number, whole, apart

    def state(self, name: str, make: Callable[[Tensor], Tensor] = torch.zeros_like) -> list[Tensor]:
        """The state, or its copy."""
        if self._apart is None:
            return self._whole.state(name, make)
        if name not in self._apart:
            self._apart[name] = [one.clone() for one in self._whole.state(name, make)]
        return self._apart[name]


@dataclass(frozen=True)
class _Ahead(Transform):
    """The displacement of `parallel` steps of the rule."""

    rule: Transform
    lr: float
    parallel: int
    history: int
    noise: float
    needs: ClassVar[tuple[str, ...]] = ("closure",)

    def __call__(self, updates: list[Tensor], step: Step) -> list[Tensor]:
        """The displacement."""
        start = flat(step.parameters)
        shape = (self.history, len(start))
        points, slopes = (step.shared.setdefault(name, start.new_zeros(shape)) for name in ("points", "slopes"))
        seen = min((step.number - 1) * self.parallel, self.history)
        predict = predictor(points[self.history - seen :], slopes[self.history - seen :], self.noise)
        first = (step.number - 1) * self.parallel + 1
        apart: dict[str, list[Tensor]] = {}
        ahead = [start]
        for s in range(self.parallel - 1):
            guess = parts(predict(ahead[-1]), updates)
            ahead.append(ahead[-1] - self.lr * flat(self.rule(guess, _Substep(step, first + s, apart))))
        found = torch.stack([flat(updates), *self._slopes(ahead[1:], updates, step)])
        # The rule's state sees the true gradients in turn; the last step starts at the last point ahead.
        for s, gradient in enumerate(found):
            moved = self.rule(parts(gradient, updates), _Substep(step, first + s))
        step.shared["points"] = torch.cat([points, torch.stack(ahead)])[-self.history :]
        step.shared["slopes"] = torch.cat([slopes, found])[-self.history :]
        return parts(start - ahead[-1] + self.lr * flat(moved), updates)

    def _slopes(self, ahead: list[Tensor], like: list[Tensor], step: Step) -> list[Tensor]:
        """The true gradients at these points, shared out over the ranks."""
        group: ProcessGroup | None = step.process_group
        ranks, mine = (1, 0) if group is None else (group.size(), group.rank())
        saved = [parameter.clone() for parameter in step.parameters]
        found = [torch.zeros_like(point) for point in ahead]
        for s in range(mine, len(ahead), ranks):
            put(step.parameters, parts(ahead[s], like))
            found[s] = flat(step.evaluate(alone=True)[1])
        put(step.parameters, saved)
        if group is not None and found:
            every = torch.stack(found)
            torch.distributed.all_reduce(every, group=group)
            found = list(every)
        return found


def predictor(points: Tensor, slopes: Tensor, noise: float) -> Callable[[Tensor], Tensor]:
    """The mean of a Gaussian process of gradients with a Gaussian kernel, given those at some points; zero given none.

    Args:
        points: shape (seen, N).
        slopes: gradients there, of the same shape.
        noise: variance of the gradients' noise, over that of the process.

    Returns:
        A function of a point.
    """
    if not len(points):
        return torch.zeros_like
    distances = torch.cdist(points, points)
    width = WIDTH * distances.amax()
    width = torch.where(width > 0, width, 1.0)

    def kernel(distance: Tensor) -> Tensor:
        return torch.exp(-((distance / width) ** 2) / 2)

    eye = torch.eye(len(points), dtype=points.dtype, device=points.device)
    # Nor is the kernel's matrix known to more than rounding.
    noise = max(noise, len(points) * torch.finfo(points.dtype).eps)
    weights = torch.linalg.solve(kernel(distances) + noise * eye, slopes)
    return lambda point: kernel((points - point).norm(dim=1)) @ weights


class OptEx(Optimizer):
    r"""OptEx: `parallel` steps of a rule at once, whose gradients are taken where a kernel's predictions lead.

    From the last `history` points and gradients the mean $\mu$ of a Gaussian process predicts gradients:

        $$\mu(x) = k(x)' (K + \sigma^2 I)^{-1} G, \qquad K_{ij} = \exp(-|x_i - x_j|^2 / (2 w^2)).$$

    With it N - 1 steps of the rule lead from x to N points, x with them; the true gradients there may be taken at the same time,
    as none needs another: over the ranks of `process_group` they are, whose closures must be of the same rows and of the module
    itself, not of one that sums gradients over ranks. The rule's state then sees these gradients in turn, and its last step goes
    from the last point. Where predictions are good this is N steps of the rule for one round of gradients; one after the other,
    without ranks, there is nothing to gain.

    Departures: (1) the rule's state sees the true gradients of all N points, not predicted ones; (2) w is 3 times the largest
    distance of two points in the history.

    Source: Shu, Fang, He, Yu 2024, "OptEx: Expediting First-Order Optimization with Approximately Parallelized Iterations",
    arXiv:2402.11427, algorithm 1 and proposition 1.

    Args:
        params: tensors, named tensors or one parameter group.
        lr: of the rule.
        rule: "adam", or "sgd" with momentum.
        parallel: N.
        history: points kept; each holds as many numbers as the parameters, twice.
        betas: of Adam; the first is SGD's momentum.
        eps: of Adam.
        noise: $\sigma^2$.
        options: see `Options`.

    Raises:
        BadInput: for values out of range, by name; where `step` gets no closure.

    Example:
        >>> x = torch.nn.Parameter(torch.ones(3))
        >>> optimizer = OptEx([x], lr=0.1, parallel=4)
        >>> losses = [float(optimizer.step(lambda: x.square().sum()).detach()) for _ in range(5)]
        >>> losses[4] < 0.3
        True
    """

    joint: ClassVar[bool] = True

    def __init__(
        self,
        params: Iterable[Any],
        *,
        lr: float = 1e-3,
        rule: str = "adam",
        parallel: int = 4,
        history: int = 20,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        noise: float = 1e-6,
        **options: Unpack[Options],
    ) -> None:
        given = {"lr": lr, "rule": rule, "parallel": parallel, "history": history, "betas": betas, "eps": eps}
        super().__init__(params, locals(), **options)

    def recipe(self, group: dict[str, Any]) -> Sequence[Transform]:
        """The rule, ahead."""
        rule = Moments(group["betas"], group["eps"]) if group["rule"] == "adam" else Momentum(group["betas"][0])
        return (_Ahead(rule, group["lr"], group["parallel"], group["history"], group["noise"]),)

    def move(self, step: Step, updates: list[Tensor]) -> None:
        """Subtract the displacement, in which the rate is."""
        torch._foreach_sub_(step.parameters, updates)
