"""The reduced system and its error bound: what is asked online."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor

from nearly.core.affine import monomials
from nearly.core.surrogate import Model, operations_of_maps
from nearly.linalg.batched_lu import solve_all

if TYPE_CHECKING:
    from jaxtyping import Float

# Systems solved together on a CPU: their matrices (32 x 64 kB at rank 90) then stay in the second-level cache.
CACHE = 32
EPS64 = torch.finfo(torch.float64).eps


def solve_reduced(
    matrices: Float[Tensor, "n rank*rank"], right: Float[Tensor, "n rank"], *, symmetric: bool
) -> Float[Tensor, "n rank"]:
    """Solve small dense systems, one per row, given as flattened matrices; by Cholesky if symmetric (then positive definite)."""
    rank = right.shape[1]
    square = matrices.view(-1, rank, rank)
    if symmetric:
        return torch.cholesky_solve(
            right[..., None], torch.linalg.cholesky_ex(square, upper=True)[0], upper=True
        ).squeeze(-1)
    return solve_all(square, right[..., None])[0].squeeze(-1)


class ReducedModel(Model):
    """`sum_q theta_q(mu) A_q u = sum_p phi_p(mu) f_p` on a basis of N functions, and its residual bound.

    The bound is `Delta / max(||u_N|| - Delta, ||f||_* / gamma)` with `Delta = (||r||_* + slack) / alpha(mu) + eps lift ||u_N||`:
    residual over coercivity, made relative by the least that `||u||` can be. `||r||_*` counts in full, as orthogonal, what
    truncating its coordinates left out: at most `tail` times the 2-norm of the weights. The slack, that norm times the 2-norm of
    `slack`, is the rounding of the residual; the last term that of `sum_n u_n v_n`.

    Buffers (Q operators, P loads, N basis functions, w residual coordinates): `basis` (N, unknowns), `operators` (Q, N, N),
    `loads` (P, N), `residual_operators` (Q N, w), `residual_loads` (P, w), `slack` (Q N + P), `tail` (), `lift` (); `scale` (N):
    what the coefficients are divided by before they become weights, so that all weights are alike in size.
    """

    theorem = "dual norm of the residual over the min-theta coercivity bound; coercive affine system"

    def __init__(self, *, coercive: list[int], symmetric: bool, **tensors: Tensor) -> None:
        super().__init__(coercive=coercive, symmetric=symmetric, **tensors)
        self._derive()
        self.register_load_state_dict_post_hook(lambda model, _: model._derive())  # type: ignore[no-untyped-call]

    def _derive(self) -> None:
        """What follows from the tensors, worked out once and not saved."""
        derived = {"_flat": self.operators.flatten(1)}
        theta = monomials(self.reference[None], self.operator_scale, self.operator_exponents)[0]
        coercive: list[int] = self.coercive
        self._all_coercive = coercive == list(range(len(theta)))
        # The commonest terms are worth recognizing: online, evaluating the others costs as much as solving.
        self._unit_reference = self._all_coercive and bool((theta == 1).all())
        self._linear = bool((self.operator_scale == 1).all()) and torch.equal(
            self.operator_exponents,
            torch.eye(len(theta), self.reference.numel(), dtype=theta.dtype, device=theta.device),
        )
        self._constant_loads = not bool(self.load_exponents.any())
        derived["_reference"] = theta[coercive]
        derived["_coercive"] = torch.tensor(coercive, device=theta.device)
        if self._constant_loads:
            derived["_right"] = self.load_scale[None] @ self.loads
        self._lift = float(self.lift)
        if "residual_operators" in self._buffers:
            slack, self._size = float(self.slack.norm()), float(self.residual_loads.abs().max())
            self._tail = max(float(self.tail), slack)
            self._rounding = slack / (EPS64 * self._tail)
            if self._constant_loads:
                derived["_load"] = self.load_scale[None] @ self.residual_loads
                derived["_load_norm"] = derived["_load"].norm(dim=1)
                derived["_load_tail"] = self._tail * self.load_scale.norm()
        for name, value in derived.items():
            self.register_buffer(name, value, persistent=False)

    @property
    def rank(self) -> int:
        """Number of basis functions."""
        return len(self.basis)

    @property
    def operations(self) -> int:
        """Assembly, factorization and reconstruction."""
        rank = self.rank
        return 2 * self.operators.numel() + 2 * rank**3 // 3 + operations_of_maps(self.basis.shape)

    def coordinates(self, parameters: Float[Tensor, "n d"]) -> Float[Tensor, "n rank"]:
        """Coefficients of the reduced solution in the basis."""
        return self._chunked(parameters, bounded=False)[0]

    def coordinates_and_bound(
        self, parameters: Float[Tensor, "n d"]
    ) -> tuple[Float[Tensor, "n rank"], Float[Tensor, " n"]]:
        """Coefficients of the reduced solution, and the bound on its relative error."""
        solution, bound = self._chunked(parameters, bounded=True)
        return solution, bound

    def forward(self, parameters: Float[Tensor, "n d"]) -> Float[Tensor, "n unknowns"]:
        """The reduced solution on all unknowns."""
        return self.coordinates(parameters) @ self.basis

    def bound(self, parameters: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
        """Bound on the relative error in the X-norm."""
        return self.coordinates_and_bound(parameters)[1]

    def _chunked(self, parameters: Tensor, *, bounded: bool) -> tuple[Tensor, Tensor]:
        if len(parameters) <= CACHE or parameters.device.type != "cpu":
            return self._solve(parameters, bounded)
        parts = [self._solve(p, bounded) for p in parameters.split(CACHE)]
        return torch.cat([p[0] for p in parts]), torch.cat([p[1] for p in parts])

    def _theta(self, parameters: Tensor) -> Tensor:
        if self._linear:
            return parameters
        return monomials(parameters, self.operator_scale, self.operator_exponents)

    def _phi(self, parameters: Tensor) -> Tensor:
        return monomials(parameters, self.load_scale, self.load_exponents)

    # Solving takes tens of microseconds, of which attribute access and small operations would be half: hence the buffers' own
    # dictionary, and numbers instead of tensors of one.
    def _solve(self, parameters: Tensor, bounded: bool) -> tuple[Tensor, Tensor]:
        theta, tensors = self._theta(parameters), cast("dict[str, Tensor]", self._buffers)
        if self._constant_loads:
            right = tensors["_right"].expand(len(parameters), -1)
        else:
            right = self._phi(parameters) @ self.loads
        solution = solve_reduced(theta @ tensors["_flat"], right, symmetric=self.symmetric)
        return solution, self._bound(parameters, theta, solution) if bounded else solution[:, 0]

    def _bound(self, parameters: Tensor, theta: Tensor, solution: Tensor) -> Tensor:
        norm, tensors = torch.linalg.vector_norm, cast("dict[str, Tensor]", self._buffers)
        if self._constant_loads:
            load, load_norm, tail = tensors["_load"], tensors["_load_norm"], tensors["_load_tail"]
        else:
            phi = self._phi(parameters)
            load = phi @ self.residual_loads
            load_norm, tail = norm(load, dim=1), self._tail * norm(phi, dim=1)
        outer = (theta.unsqueeze(2) * (solution / tensors["scale"]).unsqueeze(1)).flatten(1)
        residual = norm(torch.addmm(load, outer, tensors["residual_operators"], alpha=-1), dim=1)
        tail = torch.add(tail, norm(outer, dim=1), alpha=self._tail)  # at least `tail` times the 2-norm of all weights
        # The rounding terms are in units of round-off, so that they hold in a lower precision too.
        limits = torch.finfo(residual.dtype)
        eps = limits.eps
        if not limits.tiny**0.5 / eps < self._size < limits.max**0.5 * eps:  # squares of residuals leave the range
            return torch.full_like(residual, torch.inf)
        residual = torch.add(torch.hypot(residual, tail), tail, alpha=eps * self._rounding)
        ratios = theta if self._unit_reference else theta[:, tensors["_coercive"]] / tensors["_reference"]
        least, most = torch.aminmax(ratios, dim=1)
        size = norm(solution, dim=1)
        absolute = torch.add(residual / least, size, alpha=eps * self._lift)
        known = (
            torch.maximum(size - absolute, load_norm / most) if self._all_coercive else (size - absolute).clamp(min=0)
        )
        # Outside the domain the problem may not be coercive: then there is no bound.
        return torch.where(least > 0, absolute / known, torch.inf)
