"""Low-rank matrices of any shape from linear measurements, by descent on two factors that are kept unbalanced."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from nearly.core.errors import BadInput
from nearly.core.solution import Solution
from nearly.core.validate import generator_from, require_parameters
from nearly.linalg.recover._sensing import Factors, Watch, descend, relative_misfit, sensing, start

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

CARD = {
    "name": "asymmetric_descent",
    "kind": "sensing",
    "rows": [8],
    "replaces": "gradient descent on one factor, which slows down to 1/T^2 when the rank is too large",
    "residual": "||A(X) - y|| / ||y||, 2-norm",
    "rate": "linear: exp(-O(scale^2 T)) after T steps, or exp(-O(T)) with rebalancing",
    "differentiable": [],
    "parameters": {
        "rank": ["integer", 1, None],
        "scale": ["real", 0, None],
        "rebalance": ["optional real", 0, None],
        "step": ["real", 0, None],
        "tolerance": ["real", 0, None],
        "iterations": ["integer", 1, None],
    },
    "skips": {},
}

IMBALANCE = 3.0  # the second factor starts at a third of the first one's size (Xiong, Ding, Du 2023, equation 6)
NEAR = 0.1  # residual below which the factors are rebalanced: the paper asks for a small constant


def asymmetric_descent(
    measurements: Float[Tensor, "m rows columns"],
    values: Float[Tensor, "*batch m"],
    *,
    rank: int,
    scale: float = 0.1,
    rebalance: float | None = 1.0,
    step: float = 0.25,
    tolerance: float = 1e-6,
    iterations: int = 10_000,
    seed: int | torch.Generator = 0,
    watch: Watch | None = None,
    check: bool = True,
) -> Solution:
    r"""A low-rank X with $\langle A_i, X \rangle = y_i$, by descent on $||A(FG^T) - y||^2$ from factors of different sizes.

    With more columns than X has rank, descent on one symmetric factor takes T steps to an error of 1/T^2; on two factors of
    different size the error falls linearly, as their imbalance $F^TF - G^TG$ stays: the rate is that of the start's size
    squared. With `rebalance`, one step, the first whose residual is below 0.1, replaces $F = P \Sigma Q^T$ by $\beta P$ and G
    by $G Q \Sigma / \beta$, the same product; the rate then no longer depends on the start (Xiong, Ding, Du 2023,
    arXiv:2310.01769, theorems 2 and 3, for near-isotropic measurements).

    Args:
        measurements: the A_i.
        values: y, one problem per batch entry.
        rank: columns of F and G, at least the rank of X, at most its smaller side.
        scale: size of F's random start, in units of the square root of X's norm; G's is a third.
        rebalance: beta, in the same units; None leaves that step out.
        step: eta, in units of one over X's norm (estimated as that of A^*(y)).
        tolerance: of the residual $||A(FG^T) - y|| / ||y||$.
        iterations: steps at most.
        seed: of the start.
        watch: called with the number of steps so far and the current matrices.
        check: whether to raise rather than return what has not converged.

    Returns:
        Factors whose product is X.

    Raises:
        BadInput: for wrong shapes, NaN, zeros.
        NotConverged: with what was reached.

    Example:
        >>> generator = torch.Generator().manual_seed(0)
        >>> a = torch.randn(60, 4, 3, dtype=torch.float64, generator=generator)
        >>> x = torch.zeros(4, 3, dtype=torch.float64)
        >>> x[0, 1] = 1.0
        >>> found = asymmetric_descent(a, (a * x).sum(dim=(1, 2)), rank=2)
        >>> bool((found.value.matrix - x).abs().max() < 1e-5)
        True
    """
    require_parameters(
        CARD, rank=rank, scale=scale, rebalance=rebalance, step=step, tolerance=tolerance, iterations=iterations
    )
    problem = sensing(measurements, values, square=False)
    if rank > min(problem.shape):
        raise BadInput("rank", f"at most {min(problem.shape)}, the smaller side", rank)
    waiting = torch.ones(problem.values.shape[:-1], dtype=torch.bool, device=problem.values.device)
    some = rebalance is not None

    def descent(factors: Factors, misfit: Tensor, count: int) -> Factors:
        nonlocal waiting, some
        left, right = factors
        if some and rebalance is not None:
            now = waiting & (relative_misfit(misfit, problem.values) < NEAR)
            if bool(now.any()):
                p, sizes, q = torch.linalg.svd(left, full_matrices=False)
                keep = now[..., None, None]
                right = torch.where(keep, right @ (q.mT * sizes[..., None, :]) / rebalance, right)
                left = torch.where(keep, rebalance * p, left)
                waiting = waiting & ~now
                some = bool(waiting.any())
        gradient = problem.back(misfit)
        return left - step * gradient @ right, right - step * gradient.mT @ left

    first, second = start(problem, rank, scale, generator_from(seed))
    return descend(
        "asymmetric_descent",
        problem,
        (first, second / IMBALANCE),
        descent,
        gauge=relative_misfit,
        tolerance=tolerance,
        iterations=iterations,
        watch=watch,
        check=check,
    )
