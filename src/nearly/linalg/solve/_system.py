"""What iterations for linear systems share: entry, scaling, restarts from the true residual, derivatives."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from nearly.core.solution import Solution, conclude
from nearly.core.validate import tolerance_for
from nearly.linalg.derivatives import asked
from nearly.linalg.operator import Operator, adjoint, csr, on_parts
from nearly.linalg.scaling import binary_scale
from nearly.linalg.solve._checked import checked_inverse, checked_system
from nearly.linalg.threads import each_part

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int

Product = Callable[..., Tensor]  # of vectors; those with A take a keyword `out` for a tensor to write over

# Numbers in one block of right-hand sides: with twice as many its five vectors leave the caches nearest to a core (conjugate
# gradients on a five-point grid of 64 x 64 took 7.4 us per column and step, 12 us with four times as many).
IN_CACHE = 2**18
# Unknowns and columns from which columns share a Krylov space by default, and unknowns per column in a space at least. On one core,
# at condition numbers of 3, 100 and 10,000, sharing took 1.3, 1.0 and 0.45 of the time with four columns (64 systems, n = 200), and
# 1.4, 0.35 and 0.06 with 64 columns (n = 1,000).
LARGE, MANY = 64, 4
# Unknowns of dense matrices that are factorized to begin with: on one core that takes the time of n / 120 products with a vector.
FACTORED = (16, 2048)
WIDEST = 3
TOLERANCE = 1e-8  # in double precision
ENOUGH_PROGRESS = 0.9  # a cycle that leaves more than this of the residual is not worth another


@dataclass(frozen=True)
class Cycle:
    """What one run of an iteration from a residual found.

    Attributes:
        step: to add to the solution, shape (*batch, n, k).
        taken: steps per column, shape (*batch, k).
        broken: columns where the iteration cannot go on.
    """

    step: Float[Tensor, "*batch n k"]
    taken: Int[Tensor, "*batch k"]
    broken: Bool[Tensor, "*batch k"]


# (product with A, product with the preconditioner, residuals, norms to reach, most steps) -> Cycle
Iteration = Callable[[Product, Product, Tensor, Tensor, int], Cycle]


@dataclass(frozen=True)
class Recipe:
    """An iteration and what it says of itself.

    Attributes:
        name: of the public function.
        run: one cycle.
        why: what it means where a cycle broke, and what would help.
        symmetric: whether it is for symmetric (or Hermitian) matrices, which are their own (conjugate) transposes.
        complex_too: whether it takes complex systems.
        advice: what would help where steps ran out.
        inverse: what its argument for an approximate inverse is called.
        block: one cycle in which the columns of a system share one Krylov space, if there is one.
        factors: makes an approximate inverse of a dense matrix, which is used where none is given, if there is such a thing.
        restart: steps after which a cycle ends by itself, however little it has gained.
    """

    name: str
    run: Iteration
    why: str
    symmetric: bool
    complex_too: bool = False
    advice: str = "raise iterations=, or give a preconditioner="
    inverse: str = "preconditioner"
    block: Iteration | None = None
    factors: Callable[[Tensor], Product | None] | None = None
    restart: int = 0


def solve(
    recipe: Recipe,
    matrix: Any,
    right: Any,
    preconditioner: Any,
    *,
    tolerance: float | None,
    iterations: int | None,
    check: bool,
    block: bool | None = False,
    factors: Product | None = None,
) -> Solution:
    """The solution of `A x = b`, one problem per column of b, with derivatives by the implicit function theorem.

    Matrix and right-hand sides are brought near 1 by powers of two, which rounds nothing. Each cycle starts from the true
    residual, until this is small enough, stops falling, or the steps are spent.

    Args:
        recipe: the iteration.
        matrix: as `checked_system` takes it.
        right: likewise.
        preconditioner: as `checked_inverse` takes it.
        tolerance: for the 2-norm of the residual over that of b; None for `TOLERANCE`, in single precision its square root.
        iterations: most steps; None for ten times the unknowns.
        check: whether to raise when it is not reached.
        block: whether the columns of a system share one Krylov space; None for what is likely to be fastest.
        factors: what the recipe's made of the matrix before.

    Returns:
        The solution.

    Raises:
        BadInput: for what is no system.
        NotConverged: when the tolerance is not reached, and check is set.
    """
    matrix, right = checked_system(matrix, right, complex_too=recipe.complex_too)
    tolerance = tolerance_for(tolerance, matrix.dtype, TOLERANCE)
    applied = checked_inverse(recipe.inverse, preconditioner, device=right.device, complex_too=right.is_complex())
    columns = right.unsqueeze(-1) if right.ndim == 1 else right
    most = 10 * columns.shape[-2] if iterations is None else iterations
    with torch.no_grad():
        near, scale = near_one(matrix)
        if recipe.factors is not None and factors is None and block is None and preconditioner is None:
            factors = recipe.factors(near) if isinstance(near, Tensor) and _is_factored(near) else None
        shared = factors is None and (_shared(matrix, columns) if block is None else block)
        opening = recipe.block if shared else None
        if factors is not None:
            opening = _preconditioned(recipe.run, factors)
        parts = _blocks(matrix, columns.detach(), shared=shared)
        refine = partial(_refine, recipe, near, scale, applied, tolerance, most, opening)
        # Products of sparse matrices hardly gain from threads, so blocks do; what is not ours may not bear several at once.
        ours = isinstance(matrix, Tensor) and preconditioner is None
        found = each_part(refine, parts) if ours and not _is_dense(matrix) else list(map(refine, parts))
    value, residual, taken, broken, stuck = (torch.cat(part, dim=-1) for part in zip(*found, strict=True))
    if asked(right, *([matrix] if isinstance(matrix, Tensor) else [])):

        def backward(gradient: Tensor) -> Tensor:
            turned = matrix if recipe.symmetric and not isinstance(matrix, Tensor) else adjoint(matrix)
            other = preconditioner if recipe.symmetric else _adjoint_preconditioner(preconditioner, right.dtype)
            limits: dict[str, Any] = {"tolerance": tolerance, "iterations": iterations, "check": True, "block": block}
            return solve(recipe, turned, gradient, other, factors=factors, **limits).value

        value = implicit(matrix, columns, value, backward)
    if right.ndim == 1:
        value, residual, taken, broken, stuck = (part.squeeze(-1) for part in (value, residual, taken, broken, stuck))
    why = recipe.why
    if not bool(broken.any()):
        why = (
            "it no longer falls, because of rounding: the tolerance is below what this matrix's condition allows, or the matrix "
            "is singular and the right-hand side outside its range; give a preconditioner=, or raise tolerance="
        )
    return conclude(
        recipe.name,
        value,
        residual=residual,
        tolerance=tolerance,
        iterations=taken,
        advice=recipe.advice,
        broken=broken | stuck,
        why=why,
        check=check,
    )


def _refine(
    recipe: Recipe,
    near: Tensor | Operator,
    scale: Tensor,
    applied: Product,
    tolerance: float,
    most: int,
    opening: Iteration | None,
    columns: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Value, relative residual, steps, and which columns broke or got stuck."""
    unit = binary_scale(columns, -2)
    right = columns / unit
    product = _product(near)
    if _is_dense(near):
        # As the product likes it; what is made from columns that lie as rows lies so too.
        right = right.mT.contiguous().mT
    if right.is_complex() and not near.dtype.is_complex:
        parts = on_parts(product)
        product = lambda x, out=None: parts(x)  # noqa: E731
    size = right.norm(dim=-2)
    enough = tolerance * size

    x, rest, norm = torch.zeros_like(right), right, size
    taken = torch.zeros(norm.shape, dtype=torch.int64, device=norm.device)
    broken, stuck = torch.zeros_like(taken, dtype=torch.bool), torch.zeros_like(taken, dtype=torch.bool)
    live = norm > enough
    while bool(live.any()) and (left := most - int(taken[live].max())) > 0:
        cycle = (opening or recipe.run)(product, applied, rest * live.unsqueeze(-2), enough, left)
        taken = taken + torch.where(live, cycle.taken, 0)
        trial = x + cycle.step
        new = right - product(trial)
        now = new.norm(dim=-2)
        better = live & (now < norm)
        gained = torch.where(cycle.taken == recipe.restart, better, now <= ENOUGH_PROGRESS * norm) | (now <= enough)
        if opening is None:
            stuck = stuck | (live & ~gained & (cycle.taken < left))
        elif not bool(gained[live].all()):
            opening = None  # and the iteration goes on by itself
        x, rest = (torch.where(better.unsqueeze(-2), a, b) for a, b in ((trial, x), (new, rest)))
        norm = torch.where(better, now, norm)
        broken = broken | (cycle.broken & (norm > enough))
        live = (norm > enough) & ~broken & ~stuck
    value = x * unit / scale
    returned = value * scale / unit
    if bool(broken.any()) or not torch.equal(returned, x):  # large and small ones have left the range of their type
        norm = (right - product(returned)).norm(dim=-2)
    return value, norm / size.clamp(min=torch.finfo(size.dtype).tiny), taken, broken, stuck


def _product(near: Tensor | Operator) -> Product:
    """The product with vectors, which may be given a place for the result: fresh memory costs a large one more than itself."""
    if isinstance(near, Operator):
        return lambda x, out=None: near @ x
    if near.layout != torch.strided:
        return partial(_sparse_product, near)
    # Rows times matrices take half to all of the time of matrices times columns (MKL, batches, n of 20 to 1,000).
    return lambda x, out=None: torch.matmul(x.mT, near.mT, out=None if out is None else out.mT).mT


def _sparse_product(near: Tensor, x: Tensor, out: Tensor | None = None) -> Tensor:
    if x.shape[-1] == 1:  # as a vector, in 0.6 of the time
        return torch.mv(near, x.squeeze(-1)).unsqueeze(-1)
    return near @ x if out is None else torch.addmm(out, near, x, beta=0, out=out)


def inner_product(first: Tensor, second: Tensor, work: Tensor) -> Tensor:
    """The real parts of the columns' inner products, through memory that is at hand."""
    return torch.mul(first.conj(), second, out=work).sum(dim=-2).real


def inner_number(first: Tensor, second: Tensor) -> float:
    """The real part of the inner product of single columns."""
    return torch.vdot(first.reshape(-1), second.reshape(-1)).item().real


def is_one_column(rest: Tensor) -> bool:
    """Whether a step is too short for operations on tensors of one number each; elsewhere reading them would wait for a device."""
    return rest.numel() == rest.shape[-2] and rest.device.type == "cpu"


def block_width(unknowns: int) -> int:
    """Right-hand sides that are best taken together."""
    return max(1, IN_CACHE // unknowns)


def _is_dense(matrix: Tensor | Operator) -> bool:
    return isinstance(matrix, Tensor) and matrix.layout == torch.strided


def _shared(matrix: Tensor | Operator, columns: Tensor) -> bool:
    """Whether columns had better share their Krylov spaces: where products with the matrix are what a step costs."""
    n, k = columns.shape[-2:]
    return _is_dense(matrix) and n >= LARGE and k >= MANY


def _is_factored(matrix: Tensor) -> bool:
    """Whether factors are likely to take less time than the steps that they save."""
    return _is_dense(matrix) and FACTORED[0] <= matrix.shape[-1] <= FACTORED[1]


def _preconditioned(run: Iteration, factors: Product) -> Iteration:
    """The iteration with a preconditioner that is none of the caller's: where it breaks down this says nothing."""

    def opening(product: Product, _: Product, rest: Tensor, enough: Tensor, most: int) -> Cycle:
        cycle = run(product, factors, rest, enough, most)
        return replace(cycle, broken=torch.zeros_like(cycle.broken))

    return opening


def _blocks(matrix: Tensor | Operator, columns: Tensor, *, shared: bool) -> list[Tensor]:
    """Columns that are solved for together."""
    n, k = columns.shape[-2:]
    if shared:
        return list(columns.tensor_split(min(k, -(-WIDEST * k // n)), dim=-1))
    if columns.ndim > 2 or isinstance(matrix, Operator):
        return [columns]
    return list(columns.split(block_width(n), dim=-1))


def implicit(matrix: Tensor | Operator, right: Tensor, value: Tensor, adjoint: Product) -> Tensor:
    """The value x of `A x = b` with its derivatives, `dx = A^-1 (db - dA x)`.

    Args:
        matrix: A; operators have none.
        right: b, columns side by side.
        value: x, detached.
        adjoint: the map `g -> A^-H g`, differentiable itself.

    Returns:
        x.
    """
    entries = matrix if isinstance(matrix, Tensor) else None
    return _Implicit.apply(entries, right, value, adjoint)  # type: ignore[no-untyped-call]


class _Implicit(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, matrix: Tensor | None, right: Tensor, value: Tensor, adjoint: Product) -> Tensor:
        found = value.clone()
        context.adjoint = adjoint
        context.save_for_backward(matrix, found)
        return found

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor, None, None]:
        matrix, x = context.saved_tensors
        found = context.adjoint(gradients[0])
        if not context.needs_input_grad[0]:
            return None, found, None, None
        if matrix.layout == torch.strided:
            slope = -found @ x.mH
            return slope if matrix.is_complex() else slope.real, found, None, None
        starts, columns = matrix.crow_indices(), matrix.col_indices()
        values = -(found[torch.repeat_interleave(starts.diff())] * x[columns].conj()).sum(dim=1)
        values = values if matrix.is_complex() else values.real
        return csr(starts, columns, values, matrix.shape), found, None, None


def near_one(matrix: Tensor | Operator) -> tuple[Tensor | Operator, Tensor]:
    """The matrix divided by a power of two where its entries are far from 1, and that power, shape (*batch, 1, 1) or ().

    Args:
        matrix: as `as_square` returns it; operators are left as they are.

    Returns:
        The matrix, detached, and the power.
    """
    if isinstance(matrix, Operator):
        return matrix, torch.ones((), dtype=matrix.dtype.to_real())
    matrix = matrix.detach()
    sparse = matrix.layout != torch.strided
    entries = matrix.values() if sparse else matrix
    if not entries.numel():
        return matrix, torch.ones(1, 1, dtype=matrix.dtype.to_real(), device=matrix.device)
    scale = binary_scale(entries, 0).reshape(1, 1) if sparse else binary_scale(entries, (-2, -1))
    # Products of two products with the matrix must stay in range, and the matrix in that of single precision.
    far = min(torch.finfo(matrix.dtype).max ** 0.25, torch.finfo(torch.float32).max ** 0.5)
    scale = torch.where((scale > far) | (scale < 1 / far), scale, 1.0)
    if bool((scale == 1).all()):
        return matrix, scale
    if not sparse:
        return matrix / scale, scale
    return csr(matrix.crow_indices(), matrix.col_indices(), entries / scale[0], matrix.shape), scale


def _adjoint_preconditioner(preconditioner: Any, dtype: torch.dtype) -> Any:
    """None where nobody knows it: the system is the same, its iteration longer."""
    if isinstance(preconditioner, Tensor):
        return preconditioner.mH
    return getattr(preconditioner, "H" if dtype.is_complex else "T", None)
