"""A reduced basis for systems whose coefficients do not separate, by empirical interpolation of the coefficient."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from nearly.core.affine import AffineSystem, Monomials, monomials
from nearly.core.errors import BadInput
from nearly.core.method import Method
from nearly.core.surrogate import Model, operations_of_maps
from nearly.fields._components import inner_product
from nearly.fields._projection import Projection
from nearly.fields._reduced_model import solve_reduced
from nearly.linalg.components import principal_components
from nearly.linalg.factorize import empirical_interpolation

if TYPE_CHECKING:
    from jaxtyping import Float

    from nearly.core.nonaffine import NonaffineSystem
    from nearly.core.nouns import Field
    from nearly.core.supply import Supply
    from nearly.core.target import Target

CARD = {
    "name": "EmpiricalReducedBasis",
    "nouns": ["field"],
    "rows": [120],
    "replaces": "a linear simulation with a coefficient field that does not separate into parameters and space",
    "certificate": "Probable",
    "rate": "exponential in rank and terms for analytic dependence",
    "cost": "samples solves to fit; a dense system of size rank to ask",
    "parameters": {"samples": ["integer", 2, None], "terms": ["integer", 1, None], "candidates": ["integer", 2, None]},
    "budget": {"parameter": "samples", "start": 8, "factor": 2, "most": 256},
    "skips": {},
}

Coefficient = Callable[[Tensor, Tensor], Tensor]


class EmpiricalModel(Model):
    """`(sum_q theta_q A_q + sum_m beta_m A[g_m]) u = sum_p phi_p f_p + sum_m beta_m f[g_m]` on a basis; beta are values of g."""

    needs_target = True

    def __init__(self, *, coefficient_at: Coefficient, **tensors: Tensor) -> None:
        super().__init__(**tensors)
        self.coefficient_at = coefficient_at

    @classmethod
    def restore(cls, settings: dict[str, Any], tensors: dict[str, Tensor], target: Target | None) -> EmpiricalModel:
        """Take the coefficient function from the target.

        Raises:
            BadInput: when the target has none.
        """
        system = getattr(target, "nonaffine", None)
        if system is None:
            raise BadInput("target", "a Field with a nonaffine system", target)
        return cls(coefficient_at=system.coefficient_at, **settings, **tensors)

    @property
    def operations(self) -> int:
        """Assembly, factorization and reconstruction; the coefficient's own values are few and not counted."""
        rank = len(self.basis)
        return 2 * self.operators.numel() + 2 * rank**3 // 3 + operations_of_maps(self.basis.shape)

    def forward(self, parameters: Float[Tensor, "n d"]) -> Float[Tensor, "n unknowns"]:
        """The reduced solution on all unknowns."""
        beta = self.coefficient_at(parameters, self.points).to(parameters)
        theta = torch.cat([monomials(parameters, self.operator_scale, self.operator_exponents), beta], dim=1)
        phi = torch.cat([monomials(parameters, self.load_scale, self.load_exponents), beta], dim=1)
        return solve_reduced(theta @ self.operators.flatten(1), phi @ self.loads, symmetric=False) @ self.basis


@dataclass(frozen=True, kw_only=True)
class EmpiricalReducedBasis(Method):
    """Makes the coefficient field separable, `g(x; mu) ~ sum_m g(x_m; mu) g_m(x)`, then projects as for an affine system.

    The points x_m and the fields g_m come from the empirical interpolation of g over candidate parameters, so that asking costs the
    values of g at `terms` points. The basis is the proper orthogonal decomposition of `samples` solutions.

    Sources: Casenave, Ern, Lelievre 2016, Variants of the empirical interpolation method, arXiv 1508.05330; Barrault, Maday,
    Nguyen, Patera 2004, doi:10.1016/j.crma.2004.08.006. The interpolation error enters the answer unbounded, so that the
    certificate is measured.

    Args:
        samples: solutions that make the basis.
        terms: the most interpolation points.
        candidates: parameters over which g is interpolated; g alone is evaluated there, no solution.

    Example:
        >>> from nearly.problems import convection_diffusion
        >>> flow = convection_diffusion(cells=10)
        >>> surrogate, x = EmpiricalReducedBasis(samples=30).fit(flow), flow.sample(10, 1)
        >>> bool(flow.error(flow(x), surrogate(x)).median() < 0.05)
        True
    """

    model = EmpiricalModel
    samples: int = 64
    terms: int = 60
    candidates: int = 400

    @classmethod
    def refuses(cls, target: Target) -> str | None:
        """Needs the non-affine system and a box."""
        return super().refuses(target) or (
            None
            if getattr(target, "nonaffine", None) is not None
            else "it needs the target's system (Field(nonaffine=...))"
        )

    def _fit(self, target: Field, supply: Supply, generator: torch.Generator) -> EmpiricalModel:
        system = target.nonaffine
        assert system is not None
        assert target.sampler is not None
        drawn = target.sampler(self.candidates, generator)
        fields = system.coefficient(drawn).T.cpu()  # where the system's matrices are
        separated = empirical_interpolation(
            fields, rank=min(self.terms, *fields.shape), tolerance=1e-10 * float(fields.abs().max())
        )
        unit = torch.eye(len(separated.rows), dtype=fields.dtype)
        outputs = supply.fitting(self.samples).outputs.reshape(self.samples, -1).cpu()
        _, basis, _, _ = principal_components(
            outputs, product=inner_product(target, outputs), center=False, tolerance=1e-8
        )
        affine = separated_system(system, separated.interpolate(unit).T.numpy())
        projection = Projection(affine, residual=False)
        projection.extend(basis.numpy())
        reduced = projection.model()
        coefficients, loads = system.affine.operator_coefficients, system.affine.load_coefficients
        model = EmpiricalModel(
            coefficient_at=system.coefficient_at,
            basis=reduced.basis,
            operators=reduced.operators,
            loads=reduced.loads,
            points=separated.rows,
            operator_scale=coefficients.scale.clone(),
            operator_exponents=coefficients.exponents.clone(),
            load_scale=loads.scale.clone(),
            load_exponents=loads.exponents.clone(),
        )
        return model.to(drawn.device)


def separated_system(system: NonaffineSystem, fields: Any) -> AffineSystem:
    """The affine system with one more operator and load per interpolated field; the added coefficients are placeholders."""
    import numpy as np

    affine, parameters = system.affine, system.affine.reference.numel()
    return AffineSystem(
        operators=(*affine.operators, *(system.assemble_operator(field) for field in fields)),
        operator_coefficients=_with_constants(affine.operator_coefficients, len(fields), parameters),
        loads=np.concatenate([affine.loads, np.stack([system.assemble_load(field) for field in fields])]),
        load_coefficients=_with_constants(affine.load_coefficients, len(fields), parameters),
        coercive=affine.coercive,
        reference=affine.reference,
        symmetric=False,
        free=affine.free,
    )


def _with_constants(terms: Monomials, count: int, parameters: int) -> Monomials:
    more = Monomials.constant(parameters, count)
    return Monomials(torch.cat([terms.scale, more.scale]), torch.cat([terms.exponents, more.exponents]))
