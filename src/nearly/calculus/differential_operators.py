"""Linear differential operators of any order, exactly and by random directions, through jets."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from nearly.calculus.curvature import Estimated
from nearly.calculus.jets import Jet, line
from nearly.core.errors import BadInput
from nearly.core.validate import as_floating, generator_from, require_float, require_int

if TYPE_CHECKING:
    from jaxtyping import Float

Function = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class DifferentialOperator:
    r"""$L f = \sum_\alpha c_\alpha \partial_{\alpha_1} \cdots \partial_{\alpha_k} f$, for functions of rows of d variables.

    Replaces nested differentiation, whose cost grows like $d^k 2^k$. Every partial derivative is a sum of derivatives of the
    same order along straight lines, $\partial^\alpha = \sum_v w_v D^k[v, \dots, v]$ (polarization: Kan 2008, "From moments of sum
    to moments of product", doi:10.1016/j.jmva.2007.01.013), and one jet carries all lines of an order, their highest coefficients
    already summed. `estimate` draws lines at random: the stochastic Taylor derivative estimator of Shi, Hu, Lin, Kawaguchi 2024,
    arXiv:2412.00088. Departure: mixed partials by polarized lines where they read them off one jet of higher order.

    Attributes:
        terms: variables to differentiate by, each as often as it is differentiated -> coefficient: `{(0, 0): 1.0, (1, 1): 1.0}` is
            the Laplacian in the plane, `{(0, 1): 2.0}` is $2 \partial_0 \partial_1$, `{(): 3.0}` is three times the function.

    Example:
        >>> mixed = DifferentialOperator({(0, 1): 2.0})
        >>> x = torch.tensor([[3.0, 5.0]], dtype=torch.float64)
        >>> mixed(lambda x: (x[:, 0] * x[:, 1]) ** 2, x).round(decimals=9).tolist()
        [120.0]
    """

    terms: Mapping[tuple[int, ...], float]

    def __post_init__(self) -> None:
        if not self.terms:
            raise BadInput("terms", "of at least one derivative", "none")
        for variables, coefficient in self.terms.items():
            require_float("terms", coefficient)
            for variable in variables:
                require_int("terms", variable, least=0)

    def lines(self, like: Float[Tensor, "*batch d"]) -> dict[int, tuple[Tensor, Tensor]]:
        """Per order: directions (one per row) and weights whose derivatives along them sum to the operator.

        Args:
            like: gives d, dtype and device.

        Returns:
            Order -> directions and weights.

        Raises:
            BadInput: for a variable beyond d.
        """
        found: dict[int, dict[tuple[tuple[int, int], ...], float]] = {}
        for variables, coefficient in self.terms.items():
            if variables and max(variables) >= like.shape[-1]:
                raise BadInput("terms", f"of variables below {like.shape[-1]}", max(variables))
            for direction, weight in _polarized(variables):
                some = found.setdefault(len(variables), {})
                some[direction] = some.get(direction, 0.0) + coefficient * weight
        result = {}
        for order, some in found.items():
            kept = {direction: weight for direction, weight in some.items() if weight}
            directions = like.new_zeros(len(kept), like.shape[-1])
            for i, direction in enumerate(kept):
                for variable, entry in direction:
                    directions[i, variable] = entry
            result[order] = directions, like.new_tensor(list(kept.values()))
        return result

    def __call__(self, function: Function, x: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch *out"]:
        """L f at every row of x, exactly. `function` maps rows to rows, each by itself; gradients flow.

        Raises:
            BadInput: for rows with fewer variables, or a function without a Taylor rule.
        """
        x = as_floating("x", x, least_dimensions=1)
        total: Tensor | None = None
        for order, (directions, weights) in self.lines(x).items():
            if order == 0:
                part = weights[0] * function(x)
            elif not len(weights):
                continue
            else:
                part = _top(function, x, directions, order, weights)[0]
            total = part if total is None else total + part
        return torch.zeros_like(function(x)) if total is None else total

    def estimate(
        self, function: Function, x: Float[Tensor, "*batch d"], *, samples: int, seed: int | torch.Generator = 0
    ) -> Estimated:
        """An unbiased estimate by lines drawn with probability as their weights, the same at every row.

        Args:
            function: as for a call.
            x: rows.
            samples: lines drawn for each order of the operator.
            seed: or a generator.

        Returns:
            Estimate and standard error.

        Raises:
            BadInput: as a call does.
        """
        x = as_floating("x", x, least_dimensions=1)
        require_int("samples", samples, least=2)
        generator = generator_from(seed)
        value, variance = torch.zeros(()), torch.zeros(())
        for order, (directions, weights) in self.lines(x).items():
            if order == 0 or not len(weights):
                part = weights.sum() * function(x)
                value, variance = value.to(x) + part, variance.to(x) + torch.zeros_like(part)
                continue
            share = weights.abs().double().cpu()
            drawn = torch.multinomial(share, samples, replacement=True, generator=generator).to(x.device)
            sizes = weights.sign() * weights.abs().sum()
            each = _top(function, x, directions[drawn], order)
            each = each * sizes[drawn].reshape(-1, *[1] * (each.ndim - 1))
            value, variance = value.to(x) + each.mean(0), variance.to(x) + each.var(0) / samples
        return Estimated(value, variance.sqrt())


def laplacian(function: Function) -> Function:
    r"""$x \mapsto \sum_i \partial_i^2 f(x)$ for rows x, exactly, by d + 2 rows of a jet.

    Example:
        >>> laplacian(lambda x: (x**3).sum(-1))(torch.tensor([[1.0, 2.0]])).tolist()
        [18.0]
    """

    def applied(x: Tensor) -> Tensor:
        eye = torch.eye(x.shape[-1], dtype=x.dtype, device=x.device)
        return _top(function, x, eye, 2, torch.ones_like(eye[0]))[0]

    return applied


def biharmonic(function: Function) -> Function:
    r"""$x \mapsto \sum_{ij} \partial_i^2 \partial_j^2 f(x)$ for rows x, exactly, by $d^2$ lines of order four.

    Example:
        >>> biharmonic(lambda x: (x**4).sum(-1) + (x[:, 0] * x[:, 1]) ** 2)(torch.ones(1, 2)).round(decimals=3).tolist()
        [56.0]
    """

    def applied(x: Tensor) -> Tensor:
        d = x.shape[-1]
        eye = torch.eye(d, dtype=x.dtype, device=x.device)
        first, second = torch.triu_indices(d, d, 1, device=x.device)
        directions = torch.cat([eye, eye[first] + eye[second], eye[first] - eye[second]])
        # f_iijj = (D^4[e_i + e_j] + D^4[e_i - e_j] - 2 f_iiii - 2 f_jjjj) / 12, twice for every pair
        weights = torch.cat([eye.new_full((d,), 1 - (d - 1) / 3), eye.new_full((2 * len(first),), 1 / 6)])
        return _top(function, x, directions, 4, weights)[0]

    return applied


def estimate_laplacian(
    function: Function, x: Float[Tensor, "*batch d"], *, samples: int, seed: int | torch.Generator = 0
) -> Estimated:
    r"""$\mathrm{E}\, D^2 f(x)[v, v]$ over random signs v: unbiased for the Laplacian (Hutchinson's estimator through jets).

    Args:
        function: maps rows to rows, each by itself.
        x: rows.
        samples: directions, the same at every row.
        seed: or a generator.

    Returns:
        Estimate and standard error.

    Raises:
        BadInput: for fewer than two samples, or a function without a Taylor rule.

    Example:
        >>> estimate_laplacian(lambda x: (x**2).sum(-1), torch.zeros(1, 3), samples=4).value.tolist()
        [6.0]
    """
    x, generator = _prepared(x, samples, seed)
    signs = torch.randint(0, 2, (samples, x.shape[-1]), generator=generator).to(x) * 2 - 1
    return _mean(_top(function, x, signs, 2))


def estimate_biharmonic(
    function: Function, x: Float[Tensor, "*batch d"], *, samples: int, seed: int | torch.Generator = 0
) -> Estimated:
    r"""$\mathrm{E}\, D^4 f(x)[v, v, v, v] / 3$ over Gaussian v: unbiased for $\Delta^2 f$.

    $\mathrm{E}\, v_i v_j v_k v_l$ is the sum over the three pairings (Shi et al. 2024).

    Args:
        function: maps rows to rows, each by itself.
        x: rows.
        samples: directions, the same at every row.
        seed: or a generator.

    Returns:
        Estimate and standard error.

    Raises:
        BadInput: for fewer than two samples, or a function without a Taylor rule.

    Example:
        >>> found = estimate_biharmonic(lambda x: (x**2).sum(-1) ** 2, torch.zeros(1, 2), samples=4000)
        >>> bool((found.value - 64).abs() < 4 * found.error)
        True
    """
    x, generator = _prepared(x, samples, seed)
    v = torch.randn(samples, x.shape[-1], generator=generator, dtype=torch.float64).to(x)
    return _mean(_top(function, x, v, 4) / 3)


def _prepared(x: Tensor, samples: int, seed: int | torch.Generator) -> tuple[Tensor, torch.Generator]:
    require_int("samples", samples, least=2)
    return as_floating("x", x, least_dimensions=1), generator_from(seed)


def _mean(each: Tensor) -> Estimated:
    return Estimated(each.mean(0), each.std(0) / math.sqrt(len(each)))


def _top(function: Function, x: Tensor, directions: Tensor, order: int, weights: Tensor | None = None) -> Tensor:
    """Derivatives of an order along directions (one per row), or their weighted sum (one row).

    Raises:
        BadInput: for a function whose value is no tensor.
    """
    spread = directions.reshape(len(directions), *[1] * (x.ndim - 1), x.shape[-1])
    image: Any = function(line(x, spread, order=order, weights=weights))  # type: ignore[arg-type]
    rows = len(directions) if weights is None else 1
    if not isinstance(image, Jet | Tensor):
        raise BadInput("function", "one that returns one tensor", type(image).__name__)
    if isinstance(image, Tensor):
        return torch.zeros_like(image).expand(rows, *image.shape)
    return image.derivative(order)


def _polarized(variables: tuple[int, ...]) -> list[tuple[tuple[tuple[int, int], ...], float]]:
    r"""Directions (entries by variable, without common factor) and weights of one partial derivative.

    $\partial^\alpha = \frac{1}{k!} \sum_{j \le \alpha} (-1)^{|j|} \binom{\alpha}{j} D^k[\alpha / 2 - j]$.
    """
    k, names = len(variables), sorted(set(variables))
    if k == 0:
        return [((), 1.0)]
    powers = [variables.count(name) for name in names]
    found: dict[tuple[tuple[int, int], ...], float] = {}
    for j in itertools.product(*(range(power + 1) for power in powers)):
        doubled = [power - 2 * i for power, i in zip(powers, j, strict=True)]
        common = math.gcd(*doubled)
        if common == 0:
            continue
        if next(entry for entry in doubled if entry) < 0:
            common = -common
        weight = (-1.0) ** sum(j) * math.prod(map(math.comb, powers, j)) * (common / 2) ** k / math.factorial(k)
        direction = tuple((name, entry // common) for name, entry in zip(names, doubled, strict=True) if entry)
        found[direction] = found.get(direction, 0.0) + weight
    return list(found.items())
