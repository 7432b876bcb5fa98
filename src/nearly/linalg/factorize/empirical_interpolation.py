"""Empirical interpolation: a matrix recovered from a few of its rows and a few of its columns."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Literal

import torch

from nearly.core.errors import BadInput
from nearly.core.validate import as_floating, describe, require_float, require_int
from nearly.linalg.scaling import binary_scale

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from jaxtyping import Float, Int
    from torch import Tensor

# A step rounds each entry by at most 3 eps times the largest (|q| <= 1), and steps add up; the rest is a margin for
# growth. 1200 products of random rank-r factors (r to 20, sides to 380, float32 and float64) all stopped at r.
_ROUND_OFF = 8.0


@dataclass(frozen=True, eq=False)
class EmpiricalInterpolation:
    """A separated approximation `I(f)(x, y) = f(x, Y_s) F^+ f(X_s, y)` with `F = f(X_s, Y_s)`.

    `X_s` are the chosen points (`rows`), `Y_s` the chosen fields (`columns`); both play the same role. As chosen, F is
    square, `F^+` its inverse, and I(f) equals f at every chosen point and in every chosen field. After `discard`,
    `F^+` is the Moore-Penrose inverse: with fewer points than fields the values at the kept points are still met
    exactly, by the field weights of least 2-norm; with more points in the least-squares sense, the fields exactly.

    Args:
        rows: chosen points, in the order of choice; int64, shape (r,).
        columns: chosen fields; int64, shape (c,).
        core: F, shape (r, c).
        errors: greedy errors, shape (steps + 1,): entry k is the largest norm of a column of `f - I_k(f)` over the
            samples, so the last is the error of the result. `discard` keeps them; they describe the square form.
        samples: the chosen fields at all points, f(X, Y_s), shape (n, c).
        basis: the classical basis functions q at all points, shape (n, r); None after `discard`.
        upper: U of the factorization `F = B U`, B = q at the chosen points; None after `discard`.
    """

    rows: Int[Tensor, " r"]
    columns: Int[Tensor, " c"]
    core: Float[Tensor, "r c"]
    errors: Float[Tensor, " steps"]
    samples: Float[Tensor, "n c"]
    basis: Float[Tensor, "n r"] | None
    upper: Float[Tensor, "c c"] | None

    def _reduced(self, values: Tensor) -> Tensor:
        assert self.basis is not None
        return torch.linalg.solve_triangular(self.basis[self.rows], values, upper=False, unitriangular=True)

    @cached_property
    def _svd(self) -> tuple[Tensor, Tensor, Tensor]:
        left, values, right = torch.linalg.svd(self.core, full_matrices=False)
        keep = values > max(self.core.shape) * torch.finfo(values.dtype).eps * values[0]
        return left[:, keep], values[keep], right[keep]

    def coefficients(self, values_at_rows: Float[Tensor, "r ..."]) -> Float[Tensor, "c ..."]:
        """Weights of the chosen fields, `F^+ values_at_rows`; no inverse is formed, F is too ill-conditioned for that.

        Args:
            values_at_rows: a field, or several as columns, at the chosen points; shape (r,) or (r, m).

        Returns:
            Shape (c,) or (c, m).

        Raises:
            BadInput: the first axis is not as long as `rows`, or the dtype differs.
        """
        values = self._checked("values_at_rows", values_at_rows, self.rows.numel())
        if self.upper is not None:
            weights = torch.linalg.solve_triangular(self.upper, self._reduced(values), upper=True)
        else:
            left, sizes, right = self._svd
            weights = right.T @ ((left.T @ values) / sizes[:, None])
        return weights.reshape(self.columns.numel(), *values_at_rows.shape[1:])

    def interpolate(self, values_at_rows: Float[Tensor, "r ..."]) -> Float[Tensor, "n ..."]:
        """Whole fields from their values at the chosen points alone, `f(X, Y_s) F^+ values_at_rows`.

        Args:
            values_at_rows: as for `coefficients`, which says what raises.

        Returns:
            The field or fields at all points, shape (n,) or (n, m).
        """
        if self.basis is None:
            return self.samples @ self.coefficients(values_at_rows)
        values = self._checked("values_at_rows", values_at_rows, self.rows.numel())
        return (self.basis @ self._reduced(values)).reshape(len(self.samples), *values_at_rows.shape[1:])

    def cross(self, at_columns: Float[Tensor, "p c"], at_rows: Float[Tensor, "r m"]) -> Float[Tensor, "p m"]:
        """The symmetric form `f(x, Y_s) F^+ f(X_s, y)` at any points and parameters, sampled before or not.

        Args:
            at_columns: the chosen fields at the wanted points, shape (p, c).
            at_rows: the wanted fields at the chosen points, shape (r, m).

        Returns:
            The wanted fields at the wanted points, shape (p, m). What does not fit raises as in `coefficients`.
        """
        left = self._checked("at_columns", at_columns.transpose(0, -1), self.columns.numel())
        if self.upper is None:
            return left.T @ self.coefficients(at_rows)
        right = self._checked("at_rows", at_rows, self.rows.numel())
        # One triangular factor to each side: both stay of moderate size, while F^-1 times either side does not.
        return torch.linalg.solve_triangular(self.upper.T, left, upper=False).T @ self._reduced(right)

    def discard(
        self, *, rows: Sequence[int] | Tensor = (), columns: Sequence[int] | Tensor = ()
    ) -> EmpiricalInterpolation:
        """The rectangular form without some chosen points (a broken sensor) or fields; returns a new interpolation.

        Args:
            rows: points to discard, by the numbers they have in `rows`; every chosen field is kept.
            columns: fields to discard, by the numbers they have in `columns`.

        Raises:
            BadInput: a number is not among the chosen ones, or none would be left.

        Example:
            >>> x = torch.linspace(0.1, 1, 20, dtype=torch.float64)
            >>> eim = empirical_interpolation(1 / (x[:, None] + x), rank=4)
            >>> eim.discard(rows=eim.rows[1:2]).core.shape
            torch.Size([3, 4])
        """
        kept_rows = _kept("rows", self.rows, rows)
        kept_columns = _kept("columns", self.columns, columns)
        core, samples = self.core[kept_rows][:, kept_columns], self.samples[:, kept_columns]
        points, fields = self.rows[kept_rows], self.columns[kept_columns]
        return EmpiricalInterpolation(points, fields, core, self.errors, samples, basis=None, upper=None)

    def _checked(self, name: str, values: Tensor, length: int) -> Tensor:
        if values.ndim not in (1, 2) or values.shape[0] != length:
            raise BadInput(name, f"one value for each of the {length} chosen points or fields", tuple(values.shape))
        if values.dtype != self.core.dtype:
            raise BadInput(name, f"of dtype {self.core.dtype}, as the samples", values.dtype)
        return values if values.ndim == 2 else values[:, None]


def _kept(name: str, chosen: Tensor, drop: Sequence[int] | Tensor) -> Tensor:
    numbers = torch.as_tensor(drop, device=chosen.device).reshape(-1)
    if numbers.numel() and (numbers.dtype == torch.bool or numbers.is_floating_point() or numbers.is_complex()):
        raise BadInput(name, "integers", describe(numbers))
    kept = ~torch.isin(chosen, numbers)
    if not bool(torch.isin(numbers, chosen).all()) or (numbers.numel() and not bool(kept.any())):
        raise BadInput(name, f"some but not all of the chosen {chosen.tolist()}", numbers.tolist())
    return kept


def empirical_interpolation(
    values: Float[Tensor, "n m"],
    *,
    rank: int | None = None,
    tolerance: float | None = None,
    norm: Literal["max", "2"] | Callable[[Tensor], Tensor] = "max",
) -> EmpiricalInterpolation:
    r"""Choose points and fields greedily, so that they recover a two-variable function by interpolation.

    It replaces storing or computing `f(x, y)` everywhere by a few fields and a few sensors. Step k takes the field
    with the largest error, :math:`y_k = \arg\max_y \|f(\cdot, y) - I_{k-1}(f)(\cdot, y)\|`, then the point where it is
    largest, :math:`x_k = \arg\max_x |f - I_{k-1}(f)|(x, y_k)`. The approximation is
    :math:`I_k(f)(x, y) = \sum_{l,m} (F^{-1})_{ml} f(x, y_m) f(x_l, y)` with :math:`F_{lm} = f(x_l, y_m)`.

    All errors are kept in one matrix, from which a step subtracts one rank-one term (Gaussian elimination pivoted by
    the greedy choice). Chosen rows and columns become exactly zero there: none is chosen twice, and the matrix B
    of the classical form, which every later solve uses, is unit lower triangular by construction. Basis functions
    are at most 1 in magnitude, hence the Lebesgue constant at most `2^rank - 1`.

    Args:
        values: samples, one row per point and one column per field (parameter); float32 or float64, any device.
            No gradient flows through the choice.
        rank: most steps; by default as many as the data have above round-off.
        tolerance: stop as soon as the greedy error, in `norm` and in the units of `values`, is at most this.
        norm: of a column, for the choice of the field and the errors: "max", "2" (Euclidean), or a function that
            takes the (n, m) errors to the (m,) norms. The point is always chosen by magnitude.

    Returns:
        The interpolation. Its rank is smaller than asked when all errors are down to round-off,
        `8 (k + 1) eps max|values|` after k steps: what is left there is noise, and dividing by it would spoil the rest.
        Ties go to the smallest number. The errors are over the samples; they bound nothing at fresh parameters.

    Raises:
        BadInput: `values` is no matrix, is empty, not floating or not finite; `rank` is out of range; `tolerance` is
            not positive; `norm` is unknown or does not return one finite number per column.

    Source:
        Casenave, Ern and Lelievre 2015, "Variants of the Empirical Interpolation Method: symmetric formulation, choice
        of norms and rectangular extension", arXiv 1508.05330: greedy choice (1), separated form (2), interpolation
        property (3). Classical form: Barrault, Maday, Nguyen and Patera 2004, doi 10.1016/j.crma.2004.08.006.
        Departures: (1) errors are updated by elimination, the same in exact arithmetic; (2) it stops at round-off;
        (3) a rectangular F is inverted by Moore-Penrose, singular values below `max(r, c) eps` of the largest cut.

    Example:
        >>> x = torch.linspace(0.1, 1, 20, dtype=torch.float64)
        >>> values = 1 / (x[:, None] + x)
        >>> eim = empirical_interpolation(values, tolerance=1e-8)
        >>> bool((eim.interpolate(values[eim.rows]) - values).abs().max() <= 1e-8), len(eim.rows) <= 8
        (True, True)
    """
    values = as_floating("values", values, dimensions=2).detach()
    most = require_int("rank", min(values.shape) if rank is None else rank, least=1, most=min(values.shape))
    stop = 0.0 if tolerance is None else require_float("tolerance", tolerance, above=0.0)
    if norm not in ("max", "2") and not callable(norm):
        raise BadInput("norm", "'max', '2' or a function of the errors", describe(norm))
    residual = values.clone()
    unit = _ROUND_OFF * torch.finfo(values.dtype).eps * float(values.abs().max())
    chosen: list[tuple[int, int]] = []
    errors: list[Tensor] = []
    basis: list[Tensor] = []
    pivots: list[Tensor] = []
    while True:
        norms, largest = _norms(residual, norm)
        errors.append(norms.max())
        above = largest > unit * (len(chosen) + 1)
        if len(chosen) == most or float(errors[-1]) <= stop or not bool(above.any()):
            break
        column = int(torch.where(above, norms, -1.0).argmax())  # argmax returns the first of equal maxima
        row = int(residual[:, column].abs().argmax())
        basis.append(residual[:, column] / residual[row, column])
        pivots.append(residual[row].clone())
        residual.addr_(basis[-1], pivots[-1], alpha=-1)
        residual[:, column] = 0  # the row is zero already: q is exactly 1 there
        chosen.append((row, column))
    points, fields = torch.tensor(chosen, dtype=torch.int64, device=values.device).reshape(-1, 2).T
    samples = values[:, fields]
    q, upper = samples, samples[points]
    if basis:
        q, upper = torch.stack(basis, dim=1), torch.stack(pivots)[:, fields]
    return EmpiricalInterpolation(points, fields, samples[points], torch.stack(errors), samples, q, upper)


def _norms(residual: Tensor, norm: str | Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
    largest = residual.abs().amax(dim=0)
    if norm == "2":
        unit = binary_scale(residual, (0, 1))
        return torch.linalg.vector_norm(residual / unit, dim=0) * unit[0], largest
    if isinstance(norm, str):
        return largest, largest
    norms = norm(residual)
    if norms.shape != largest.shape or not bool(((norms >= 0) & torch.isfinite(norms)).all()):
        raise BadInput("norm", "a function that returns one finite norm per column", describe(norms))
    return norms.to(largest), largest
