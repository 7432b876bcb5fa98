"""What an iteration returns: a value, and for every problem of the batch whether it is what was asked for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from nearly.core.errors import NotConverged

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int
    from torch import Tensor

CONVERGED = "converged"


@dataclass(frozen=True)
class Solution:
    """The result of an iteration on a batch of problems (of shape `()` for one problem).

    Attributes:
        value: a tensor, or a named tuple or frozen dataclass of tensors.
        converged: per problem, whether the residual is within the tolerance.
        iterations: per problem, how many steps were taken.
        residual: per problem, in the norm that the solver states; computed from the value, not from a recurrence.
        status: "converged", or how many problems did not, why, and what would help.
    """

    value: Any
    converged: Bool[Tensor, "*batch"]
    iterations: Int[Tensor, "*batch"]
    residual: Float[Tensor, "*batch"]
    status: str


def conclude(
    solver: str,
    value: Any,
    *,
    residual: Float[Tensor, "*batch"],
    tolerance: float | Float[Tensor, "*batch"],
    iterations: Int[Tensor, "*batch"] | int,
    advice: str,
    broken: Bool[Tensor, "*batch"] | None = None,
    why: str = "",
    check: bool = True,
) -> Solution:
    """The solution whose residuals are these, or the error that some are above the tolerance (NaN is).

    Args:
        solver: its name, for messages.
        value: what was found.
        residual: of that value.
        tolerance: what was asked.
        iterations: steps taken.
        advice: what would help where steps ran out.
        broken: which problems broke down before their steps ran out.
        why: what that means, and what would help.
        check: whether to raise rather than return a solution that has not converged.

    Returns:
        The solution.

    Raises:
        NotConverged: with the solution in it.

    Example:
        >>> found = conclude("halving", torch.zeros(2), residual=torch.tensor([1e-9, 0.5]), tolerance=1e-6, iterations=9,
        ...                  advice="raise iterations=", check=False)
        >>> found.status
        '1 of 2 problems did not converge: the largest residual is 0.5, above the tolerance of 1e-06; raise iterations='
    """
    residual = residual.detach()
    converged = residual <= tolerance
    counts = torch.as_tensor(iterations, device=residual.device).expand(residual.shape)
    status = CONVERGED
    failed = int((~converged).sum())
    if failed:
        many = f"{failed} of {converged.numel()} problems did not converge" if converged.ndim else "it did not converge"
        worst = residual[~converged]
        size = "NaN" if bool(worst.isnan().any()) else f"{float(worst.max()):.3g}"
        asked = torch.as_tensor(tolerance, device=residual.device).expand(residual.shape)[~converged].min()
        broke = broken is not None and bool((broken & ~converged).any())
        status = f"{many}: the largest residual is {size}, above the tolerance of {float(asked):.3g}; " + (
            why if broke else advice
        )
    found = Solution(value, converged, counts, residual, status)
    if failed and check:
        raise NotConverged(solver, found)
    return found
