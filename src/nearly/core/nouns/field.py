"""Parametrized simulations: parameter vectors or input fields in, solution fields out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from nearly.core.domain import Box, Domain
from nearly.core.errors import BadInput
from nearly.core.target import Sampler, Target, collect, relative_norm, sampled
from nearly.core.validate import as_floating, describe, to_tensor
from nearly.linalg.scaling import binary_scale, row_norms

if TYPE_CHECKING:
    from jaxtyping import Float

    from nearly.core.affine import AffineSystem
    from nearly.core.nonaffine import NonaffineSystem

Solver = Callable[[Tensor], Any]


@dataclass(frozen=True)
class Fidelity:
    """A cheaper solver of the same problem, whose answer is already interpolated to the fine unknowns.

    Attributes:
        solver: as the target's own; asked on the device that the inputs are on.
        unknowns: how many unknowns it solves for; orders fidelities by cost.
        vectorized: whether `solver` takes all inputs (n, ...) at once.
    """

    solver: Solver
    unknowns: int
    vectorized: bool = False

    def __call__(self, inputs: Float[Tensor, "n ..."]) -> Float[Tensor, "n ..."]:
        """Answers to all inputs, on their device, without gradients.

        Raises:
            BadInput: for no inputs at all; only an answer tells the shape of answers.
        """
        if not len(inputs):
            raise BadInput("inputs", "at least one row", tuple(inputs.shape))
        with torch.no_grad():
            if self.vectorized:
                answers = to_tensor(self.solver(inputs.clone()))
            else:
                answers = torch.stack([to_tensor(self.solver(x.clone())).clone() for x in inputs])
            return answers.to(inputs.device)


class Field(Target):
    """A simulation `mu -> u(mu)`, solved anew for every parameter.

    The error of a prediction v of u is `||u - v|| / ||u||`; with `product` X, `||u||^2 = u^T X u`.

    Args:
        solver: maps one parameter vector (d,) or input field to one solution (any shape), as a tensor or array.
        domain: a `Box` of parameters, or a callable `(n, generator) -> inputs` for random input fields.
        product: None for the Euclidean norm, weights of shape (unknowns,), or a sparse symmetric positive matrix.
        system: the affine linear system behind the solver, for methods that project it.
        nonaffine: the same for systems with a non-affine coefficient.
        coarse: cheaper fidelities of the same simulation, best first.
        vectorized: whether `solver` takes all inputs (n, ...) at once.
        points: node coordinates (unknowns, 2), for pictures.
        triangles: node indices (elements, 3), for pictures.
        name: for reports.

    Raises:
        BadInput: for a solver that is not callable, a domain that is none, or a product of the wrong shape.

    Example:
        >>> wave = Field(lambda mu: torch.sin(mu * torch.linspace(0, 1, 50)), Box([1.0], [3.0]))
        >>> wave(wave.sample(2, 0)).shape
        torch.Size([2, 50])
    """

    noun: ClassVar[str] = "field"

    def __init__(
        self,
        solver: Solver | None,
        domain: Domain | Sampler | None,
        *,
        product: Any = None,
        system: AffineSystem | None = None,
        nonaffine: NonaffineSystem | None = None,
        coarse: Sequence[Fidelity] = (),
        vectorized: bool = False,
        points: np.ndarray | None = None,
        triangles: np.ndarray | None = None,
        name: str = "field",
    ) -> None:
        if solver is not None and not callable(solver):
            raise BadInput("solver", "callable", describe(solver))
        if domain is not None and not isinstance(domain, Box) and (isinstance(domain, Domain) or not callable(domain)):
            raise BadInput("domain", "a Box or a callable (n, generator) -> inputs", describe(domain))
        self.solver, self.vectorized, self.name = solver, vectorized, name
        self.domain = domain if isinstance(domain, Domain) else None
        self.sampler: Sampler | None = domain.sample if isinstance(domain, Box) else domain
        self.system, self.nonaffine, self.coarse = system, nonaffine, tuple(coarse)
        self.points, self.triangles = points, triangles
        self.product = _checked_product(product)
        self.unit = "relative L2" if product is None else "relative, in the problem's inner product"
        self._product_on: dict[tuple[torch.device, torch.dtype], Tensor] = {}

    @classmethod
    def from_data(
        cls,
        inputs: Any,
        outputs: Any,
        *,
        certify: int | None = None,
        certifying: tuple[Any, Any] | None = None,
        quantile: float = 0.95,
        confidence: float = 0.99,
        product: Any = None,
        seed: int = 0,
        name: str = "data",
    ) -> Field:
        """A field known from data alone, each row handed out once (see `Target.set_rows` for the arguments).

        Example:
            >>> x = torch.linspace(0, 1, 200, dtype=torch.float64)[:, None]
            >>> len(Field.from_data(x, torch.sin(x * torch.arange(1, 5))).rows.certifying)
            90
        """
        target = cls(None, None, product=product, name=name).set_rows(
            inputs,
            outputs,
            certify=certify,
            certifying=certifying,
            quantile=quantile,
            confidence=confidence,
            seed=seed,
        )
        assert target.rows is not None
        target.norm(target.rows.pairs.outputs[:1])  # a product of the wrong size is refused here
        return target

    @property
    def bytes(self) -> int | None:
        """Memory of the affine system's matrices, where there is one."""
        if self.system is None:
            return None
        return sum(a.data.nbytes + a.indices.nbytes + a.indptr.nbytes for a in self.system.operators)

    def _draw_inputs(self, n: int, generator: torch.Generator) -> Tensor:
        assert self.sampler is not None
        return sampled(self.sampler, n, generator)

    def _evaluate(self, inputs: Tensor) -> tuple[Tensor, list[str | None]]:
        assert self.solver is not None
        return evaluate_rows(self.solver, inputs, self.vectorized)

    def norm(self, fields: Float[Tensor, "n ..."]) -> Float[Tensor, " n"]:
        """Norm of each field, shape (n,).

        Raises:
            BadInput: for fields of another size.
        """
        flat = fields.reshape(len(fields), -1)
        if self.product is None:
            return row_norms(flat)
        product = self.product_on(flat)
        if len(product) != flat.shape[1]:
            raise BadInput("product", f"of size {flat.shape[1]}, as the outputs", len(product))
        scale = binary_scale(flat, 1)
        flat = flat / scale
        weighted = flat * product if product.ndim == 1 else (product @ flat.T).T
        return (flat * weighted).sum(dim=1).clamp(min=0).sqrt() * scale[:, 0]

    def product_on(self, like: Tensor) -> Tensor:
        """The inner product as a tensor (weights or sparse matrix) of the dtype and device of `like`."""
        key = (like.device, like.dtype)
        if key not in self._product_on:
            assert self.product is not None
            if isinstance(self.product, Tensor):
                self._product_on[key] = self.product.to(like)
            else:
                coo = self.product.tocoo()
                index = torch.from_numpy(np.stack([coo.row, coo.col]).astype(np.int64))
                sparse = torch.sparse_coo_tensor(index, to_tensor(coo.data), coo.shape, check_invariants=True)
                self._product_on[key] = sparse.coalesce().to(like)
        return self._product_on[key]

    def error(self, outputs: Float[Tensor, "n ..."], predictions: Float[Tensor, "n ..."]) -> Float[Tensor, " n"]:
        """Relative error per input in the field's own norm."""
        return relative_norm(self.norm(outputs - predictions), self.norm(outputs))


def evaluate_rows(solver: Solver, inputs: Tensor, vectorized: bool) -> tuple[Tensor, list[str | None]]:
    """Answers row by row; what a solver raises is kept as the reason of that row's failure.

    Inputs go in as copies and answers are copied, since a solver may work in place and may answer in one buffer every time.

    Args:
        solver: takes one input, or all of them if `vectorized`.
        inputs: one per row.
        vectorized: a vectorized solver that raises is asked again row by row, to keep the good rows.

    Returns:
        The outputs and, per row, None or the reason.
    """
    if vectorized:
        try:
            rows: list[Any] = list(to_tensor(solver(inputs.clone())))
            if len(rows) == len(inputs):
                return collect(list(rows), [None] * len(rows), rows[0].dtype, inputs.device)
            return inputs[:, :0], [f"{len(rows)} outputs for {len(inputs)} inputs"] * len(inputs)
        except Exception:  # the rows below find out which inputs are to blame
            return evaluate_rows(lambda x: to_tensor(solver(x[None]))[0], inputs, vectorized=False)
    answers: list[Tensor | None] = []
    failures: list[str | None] = []
    for x in inputs:
        try:
            answers.append(to_tensor(solver(x.clone())).clone())
            failures.append(None)
        except Exception as error:
            answers.append(None)
            failures.append(f"{type(error).__name__}: {error}")
    dtypes = {a.dtype for a in answers if a is not None and a.is_floating_point()} or {torch.float64}
    return collect(answers, failures, reduce(torch.promote_types, dtypes), inputs.device)


def _checked_product(product: Any) -> Any:
    if product is None:
        return None
    if hasattr(product, "tocoo"):
        if product.shape[0] != product.shape[1]:
            raise BadInput("product", "square", describe(product))
        if not np.isfinite(product.data).all():
            raise BadInput("product", "finite", "NaN or infinite entries")
        if abs(product - product.T).max() > 1e-10 * abs(product).max():
            raise BadInput(
                "product",
                "symmetric",
                f"a matrix that differs from its transpose by {abs(product - product.T).max():.3g}",
            )
        return product
    weights = as_floating("product", product, dimensions=1)
    if not bool((weights > 0).all()):
        raise BadInput("product", "positive weights", f"{int((weights <= 0).sum())} that are not")
    return weights
