"""Products with the inverse of a damped empirical Fisher matrix of a few gradients, fixed or in a sliding window."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from nearly.calculus.curvature._linearize import like_vectors
from nearly.core.errors import BadInput, FactorizationFailed
from nearly.core.validate import as_floating, describe, require_float, require_int
from nearly.linalg.operator import on_parts

if TYPE_CHECKING:
    from jaxtyping import Bool, Float

BLOCK = 2**16  # columns of the gradients that are taken to double precision at a time


class InverseFisher:
    r"""The inverse of `F = damping I + (1/m) sum_i g_i g_i'` by products, single entries, and for pruning.

    It replaces the dense d x d inverse. With `K = m damping I + G G'` (m x m, the rows of G are the gradients),

        F^-1 x = (x - G' K^-1 G x) / damping.

    Memory is O(dm). Preparation from m gradients costs O(d m^2), one matrix product; a product O(dm); an entry of the inverse O(m)
    after an O(d m^2) solve with the Cholesky factor of K; a gradient that enters a full window, and pushes the oldest out,
    O(dm + m^3). K and its factor are held in float64, so that in single precision what is lost is lost in the last subtraction:
    a relative error of about `eps (1 + ||F|| / damping)`.

    Departures from the paper:

    1. Woodbury's identity with the Cholesky factor of K in place of the recursion over rank-one updates: the same matrix, in
       level-3 operations, and stable. For the window it replaces a recursion of coefficients; costs are of one order.
    2. While a window fills, m counts the gradients that are in it.
    3. `compensate` solves for all removed weights jointly instead of adding up single-weight updates.

    Source: Frantar, Kurtic and Alistarh 2021, M-FAC: efficient matrix-free approximations of second-order information, arXiv
    2107.03356.

    Args:
        size: d.
        window: the most gradients that are held.
        damping: added to the diagonal, above 0.
        dtype: of gradients and products.
        device: likewise.

    Attributes:
        shape: (d, d).
        T: the transpose, itself.

    Raises:
        BadInput: for arguments that are not as above.

    Example:
        >>> inverse = InverseFisher.from_gradients(torch.tensor([[1.0, 0.0]]), damping=1.0)
        >>> (inverse @ torch.eye(2)).tolist()
        [[0.5, 0.0], [0.0, 1.0]]
    """

    def __init__(
        self,
        size: int,
        window: int,
        *,
        damping: float,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        self.damping = require_float("damping", damping, above=0.0)
        size, window = require_int("size", size, least=1), require_int("window", window, least=1)
        if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
            raise BadInput("dtype", "a real floating one", dtype)
        self.shape = (size, size)
        self.dtype, self.device = dtype, torch.device(device)
        self._gradients = torch.zeros(window, size, dtype=dtype, device=device)
        self._inner = torch.zeros(window, window, dtype=torch.float64, device=device)
        self._count = self._next = 0
        self._factor: Tensor | None = None
        self._rows: Tensor | None = None

    @classmethod
    def from_gradients(cls, gradients: Float[Tensor, "m d"], *, damping: float) -> InverseFisher:
        """The static form: all m gradients at once, which is also the window.

        Args:
            gradients: one per row.
            damping: as above.

        Returns:
            The inverse.

        Raises:
            BadInput: for gradients that are not finite or of another shape, and a damping that is not above 0.
        """
        gradients = as_floating("gradients", gradients, dimensions=2).detach()
        window, size = gradients.shape
        found = cls(size, window, damping=damping, dtype=gradients.dtype, device=gradients.device)
        found._gradients = gradients.clone()
        found._inner = sum(
            (part @ part.T for part in map(torch.Tensor.double, gradients.split(BLOCK, dim=1))), found._inner
        )
        found._count = window
        return found

    def push(self, gradient: Float[Tensor, " d"]) -> None:
        """Let a gradient in, and the oldest out where the window is full.

        Raises:
            BadInput: for a gradient that is not finite or of another length.
        """
        gradient = as_floating("gradient", gradient, dimensions=1).detach()
        if len(gradient) != self.shape[0]:
            raise BadInput("gradient", f"of shape ({self.shape[0]},)", describe(gradient))
        place = self._next
        self._gradients[place] = gradient
        parts = ((part @ part[place]) for part in map(torch.Tensor.double, self._gradients.split(BLOCK, dim=1)))
        products = sum(parts, torch.zeros_like(self._inner[place]))
        self._inner[place], self._inner[:, place] = products, products
        window = len(self._gradients)
        self._next, self._count = (place + 1) % window, min(self._count + 1, window)
        self._factor = self._rows = None

    @property
    def T(self) -> InverseFisher:
        return self

    def __matmul__(self, vectors: Float[Tensor, d * k]) -> Float[Tensor, d * k]:
        """The products with vectors side by side.

        Raises:
            BadInput: for vectors of another length.
        """
        if vectors.ndim not in (1, 2) or len(vectors) != self.shape[0]:
            raise BadInput("vectors", f"of shape ({self.shape[0]},) or ({self.shape[0]}, k)", describe(vectors))
        return like_vectors(on_parts(self._product)(vectors.reshape(len(vectors), -1)), vectors)

    def _product(self, vectors: Tensor) -> Tensor:
        columns = vectors.to(self._gradients)
        if self._count:
            held = self._gradients[: self._count]
            weights = torch.cholesky_solve((held @ columns).double(), self._cholesky()).to(self.dtype)
            columns = torch.addmm(columns, held.T, weights, alpha=-1)
        return columns / self.damping

    def diagonal(self) -> Float[Tensor, " d"]:
        """The diagonal of the inverse.

        Raises:
            FactorizationFailed: where nothing of it is left in the difference that it is.
        """
        share = 1 - self._whitened().square().sum(dim=0)
        if not bool((share > torch.finfo(share.dtype).eps).all()):
            raise FactorizationFailed(
                f"damping of {self.damping:.3g} is below what {self.dtype} resolves beside the gradients"
            )
        return share / self.damping

    def entry(self, row: int, column: int) -> float:
        """One entry of the inverse, in O(m) operations after the first.

        Raises:
            BadInput: for indices out of range.
        """
        place = [
            require_int(name, i, least=0, most=self.shape[0] - 1) for name, i in (("row", row), ("column", column))
        ]
        rows = self._whitened()
        return (float(row == column) - float(rows[:, place[0]] @ rows[:, place[1]])) / self.damping

    def saliency(self, weights: Float[Tensor, " d"]) -> Float[Tensor, " d"]:
        """By how much the quadratic model of the loss grows when one weight goes and all others adapt: `w^2 / (2 [F^-1]_ii)`.

        Raises:
            BadInput: for weights of another length.
        """
        return self._checked(weights).square() / (2 * self.diagonal())

    def compensate(self, weights: Float[Tensor, " d"], keep: Bool[Tensor, " d"]) -> Float[Tensor, " d"]:
        """The weights with all but some set to 0 and these moved to where `(w - w0)' F (w - w0)` is least, in O(d m^2 + m^3).

        The kept ones solve `F_KK (w - w0)_K = F_KR (w0)_R`, whose matrix is of the same form.

        Args:
            weights: w0.
            keep: which are not removed.

        Returns:
            The weights.

        Raises:
            BadInput: for another length, or `keep` that is not boolean.
        """
        weights = self._checked(weights)
        if not isinstance(keep, Tensor) or keep.dtype != torch.bool or keep.shape != weights.shape:
            raise BadInput("keep", f"boolean, of shape {tuple(weights.shape)}", describe(keep))
        held = self._gradients[: self._count]
        if not self._count or not bool(keep.any()):
            return weights * keep
        force = held[:, keep].T @ (held[:, ~keep] @ weights[~keep]) / self._count
        moved = InverseFisher.from_gradients(held[:, keep], damping=self.damping) @ force
        return weights.clone().masked_scatter_(keep, weights[keep] + moved) * keep

    def _cholesky(self) -> Tensor:
        if self._factor is None:
            count = self._count
            shift = count * self.damping * torch.eye(count, dtype=torch.float64, device=self.device)
            factor, info = torch.linalg.cholesky_ex(self._inner[:count, :count] + shift)
            if bool(info) or not bool(torch.isfinite(factor).all()):
                raise FactorizationFailed(
                    f"damping of {self.damping:.3g} is below the rounding of squared gradients: raise it"
                )
            self._factor = factor
        return self._factor

    def _whitened(self) -> Tensor:
        """`L^-1 G`, of which the inverse is `(I - W' W) / damping`."""
        if self._rows is None:
            held = self._gradients[: self._count]
            inverse = torch.linalg.solve_triangular(
                self._cholesky(), torch.eye(self._count, dtype=torch.float64, device=self.device), upper=False
            )
            self._rows = inverse.to(self.dtype) @ held
        return self._rows

    def _checked(self, weights: Tensor) -> Tensor:
        weights = as_floating("weights", weights, dimensions=1).detach()
        if len(weights) != self.shape[0]:
            raise BadInput("weights", f"of shape ({self.shape[0]},)", describe(weights))
        return weights.to(self._gradients)
