"""Which parameters of a model its data can tell, in which directions, and when to measure, from the Fisher matrix."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from nearly.calculus._evaluations import require_twice
from nearly.core.errors import BadInput
from nearly.core.validate import as_floating, describe, require_float
from nearly.linalg.scaling import binary_scale

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int

CHI_SQUARE = 3.841  # 95% quantile with one degree of freedom: what profile likelihoods are held against
FLAT = (
    1e-3  # of the threshold: added to eigenvalues under the logarithm, so that the first few points can be told apart
)


class Identifiability(NamedTuple):
    """What data tell of p parameters.

    Attributes:
        fisher: the Fisher matrix, shape (p, p).
        values: its eigenvalues, ascending.
        directions: its eigenvectors, as columns: the first are those that the data tell least about.
        metric: per parameter, twice the loss of log-likelihood per squared change when all others are refitted (`1 / [F^-1]_ii`); 0
            where others make up for it wholly.
        deviation: per parameter, `metric^-1/2`: the standard deviation of its estimate; infinite where the metric is 0.
        identifiable: per parameter, whether a change by `reach` loses at least `threshold`.
    """

    fisher: Float[Tensor, "p p"]
    values: Float[Tensor, " p"]
    directions: Float[Tensor, "p p"]
    metric: Float[Tensor, " p"]
    deviation: Float[Tensor, " p"]
    identifiable: Bool[Tensor, " p"]


def sensitivities(
    model: Callable[[Tensor], Tensor], parameters: Float[Tensor, " p"], *, logarithmic: bool = False
) -> Float[Tensor, "*outputs p"]:
    r"""The derivatives of all outputs for a few parameters: one solve and p + 1 reverse modes, for any number of outputs.

    `J e_i = d/du (J'u . e_i)`: reverse mode twice, so that solvers that know no forward mode serve too.

    Args:
        model: takes the parameters, gives a tensor of outputs; by torch operations that can be differentiated twice.
        parameters: where.
        logarithmic: derivatives for the parameters' logarithms, `theta_i df/dtheta_i`, so that changes are relative.

    Returns:
        The derivatives, parameters last.

    Raises:
        BadInput: for parameters that are not finite, and a model whose outputs do not depend on them or are differentiable once.

    Example:
        >>> sensitivities(lambda p: torch.stack([p[0] * p[1], p[1]]), torch.tensor([2.0, 3.0])).tolist()
        [[3.0, 2.0], [0.0, 1.0]]
    """
    given = as_floating("parameters", parameters, dimensions=1).detach().requires_grad_()
    with torch.enable_grad():
        outputs: Any = model(given)
        if not isinstance(outputs, Tensor) or not outputs.requires_grad:
            raise BadInput("model", "one whose outputs depend on the parameters", describe(outputs))
        require_twice("model", [outputs])
        dual = torch.zeros_like(outputs, requires_grad=True)
        (back,) = torch.autograd.grad(outputs, given, dual, create_graph=True)
        columns = [torch.autograd.grad(part, dual, retain_graph=True)[0] for part in back]
    found = torch.stack(columns, dim=-1)
    return found * given.detach() if logarithmic else found


def identifiability(
    derivatives: Float[Tensor, "*outputs p"], *, noise: float = 1.0, reach: float = 1.0, threshold: float = CHI_SQUARE
) -> Identifiability:
    r"""What outputs measured with independent normal noise tell of the parameters, to second order of the likelihood.

    It replaces profile likelihoods, which fit all other parameters anew at many values of each: with S the derivatives over the
    noise and F = S'S, a change d of parameter i costs `metric_i d^2`, all others refitted,

        metric_i = min_c ||s_i - S_-i c||^2 = F_ii - F_i,-i F_-i,-i^+ F_-i,i,

    the squared distance of its column from the span of the others: exact for linear models, and the curvature of the profile for
    others. All parameters are identifiable where F is regular.

    The paper's framework from its abstract and general theory, as its text was not at hand: the metric is that of coordinate
    identifiability by projection on the other columns.

    Source: Wang and Hao 2025, A systematic computational framework for practical identifiability analysis in mathematical models
    arising from biology, arXiv 2501.01283.

    Args:
        derivatives: of every measured output, parameters last, as `sensitivities` gives them.
        noise: standard deviation of the outputs.
        reach: change of a parameter by which it should show; for logarithmic derivatives `log(2)` is a factor of two.
        threshold: twice the loss of log-likelihood that shows.

    Returns:
        All of it.

    Raises:
        BadInput: for derivatives that are not finite, and settings that are not above 0.

    Example:
        >>> found = identifiability(torch.tensor([[1.0, 1.0, 0.0], [0.0, 0.0, 3.0]]))
        >>> found.metric.tolist(), found.identifiable.tolist()
        ([0.0, 0.0, 9.0], [False, False, True])
    """
    rows = _rows(derivatives, noise)
    unit = float(binary_scale(rows, (0, 1)))
    rows = rows / unit
    reach, threshold = require_float("reach", reach, above=0.0), require_float("threshold", threshold, above=0.0)
    p = rows.shape[1]
    upper = torch.linalg.qr(torch.cat([rows, rows.new_zeros(max(0, p - len(rows)), p)]), mode="r")[1]
    _, roots, directions = torch.linalg.svd(upper)
    others = torch.stack([torch.cat([upper[:, :i], upper[:, i + 1 :]], dim=1) for i in range(p)])
    sizes = torch.linalg.vector_norm(others, dim=1, keepdim=True)
    others = others / torch.where(sizes > 0, sizes, 1.0)
    columns = upper.T.unsqueeze(-1)
    rest = columns - others @ (torch.linalg.pinv(others) @ columns)
    metric = rest.square().sum(dim=(1, 2))
    # Below the rounding of the projection nothing is left of a column.
    floor = (10 * p * torch.finfo(metric.dtype).eps) ** 2 * columns.square().sum(dim=(1, 2))
    metric = torch.where(metric > floor, metric, 0.0)
    deviation = metric.rsqrt() / unit
    fisher = upper.T @ upper * unit * unit
    if not bool(torch.isfinite(fisher).all()):
        raise BadInput(
            "derivatives", "of squares in the range of their dtype, in units of the noise", f"up to {unit:.3g}"
        )
    return Identifiability(
        fisher=fisher,
        values=roots.square().flip(0) * unit * unit,
        directions=directions.T.flip(1),
        metric=metric * unit * unit,
        deviation=deviation,
        identifiable=reach / deviation >= threshold**0.5,
    )


def unidentifiable_penalty(
    found: Identifiability, change: Float[Tensor, "*batch p"], *, threshold: float = CHI_SQUARE
) -> Float[Tensor, "*batch"]:
    r"""`sum (u . change)^2 / 2` over the directions u whose eigenvalue is below a threshold: what to add to a loss.

    It holds a fit to its reference in the directions that data do not tell, and leaves all others free, unlike a ridge.

    Args:
        found: of `identifiability`.
        change: parameters minus reference, in the coordinates of the derivatives (logarithms for logarithmic ones).
        threshold: of the eigenvalues.

    Returns:
        The penalty, differentiable.

    Raises:
        BadInput: for changes of another length, and a threshold that is not above 0.

    Example:
        >>> found = identifiability(torch.tensor([[0.0, 3.0]]))
        >>> unidentifiable_penalty(found, torch.tensor([2.0, 5.0])).item()
        2.0
    """
    threshold = require_float("threshold", threshold, above=0.0)
    change = as_floating("change", change, least_dimensions=1)
    if change.shape[-1] != len(found.values):
        raise BadInput("change", f"of shape (*batch, {len(found.values)})", describe(change))
    hidden = found.directions[:, found.values < threshold].to(change)
    return (change @ hidden).square().sum(dim=-1) / 2


def sampling_times(
    derivatives: Float[Tensor, "times outputs p"], *, threshold: float, noise: float = 1.0
) -> Int[Tensor, " chosen"]:
    r"""Few measuring times at which every parameter is identifiable: the Fisher matrix's least eigenvalue is at least a threshold.

    Times are added one by one, each the one that most increases `sum log(min(lambda, threshold))`; then those that are no longer
    needed are dropped. This is greedy: no fewest number is promised.

    Args:
        derivatives: of the outputs at each candidate time, shape (times, outputs, p).
        threshold: for the least eigenvalue.
        noise: standard deviation of the outputs.

    Returns:
        Indices of the chosen times, ascending.

    Raises:
        BadInput: for derivatives of another shape, and a threshold that all times together do not reach; it says what they do.

    Example:
        >>> sampling_times(torch.tensor([[[0.1, 0.0]], [[1.0, 0.0]], [[0.0, 1.0]]]), threshold=0.5).tolist()
        [1, 2]
    """
    threshold = require_float("threshold", threshold, above=0.0)
    if not isinstance(derivatives, Tensor) or derivatives.ndim != 3:
        raise BadInput("derivatives", "of shape (times, outputs, p)", describe(derivatives))
    shape = derivatives.shape
    each = _rows(derivatives, noise).view(shape)
    parts = each.mT @ each
    if not bool(torch.isfinite(parts.sum(dim=0)).all()):
        raise BadInput("derivatives", "of squares in the range of their dtype, in units of the noise", "larger ones")
    best = float(torch.linalg.eigvalsh(parts.sum(dim=0))[0])
    if not best >= threshold:
        raise BadInput("threshold", f"at most {best:.3g}, the least eigenvalue with all times", threshold)
    chosen: list[int] = []
    total = torch.zeros_like(parts[0])
    while len(chosen) < len(parts) and not float(torch.linalg.eigvalsh(total)[0]) >= threshold:
        values = torch.linalg.eigvalsh(total + parts).clamp(min=0.0, max=threshold)
        gain = torch.log(values / threshold + FLAT).sum(dim=-1)
        gain[chosen] = -torch.inf
        chosen.append(int(gain.argmax()))
        total = parts[chosen].sum(dim=0)
    for one in list(chosen):
        left = [other for other in chosen if other != one]
        if left and float(torch.linalg.eigvalsh(parts[left].sum(dim=0))[0]) >= threshold:
            chosen = left
    return torch.tensor(sorted(chosen), device=parts.device)


def _rows(derivatives: Any, noise: float) -> Tensor:
    found = as_floating("derivatives", derivatives, least_dimensions=2).detach()
    return found.reshape(-1, found.shape[-1]) / require_float("noise", noise, above=0.0)
