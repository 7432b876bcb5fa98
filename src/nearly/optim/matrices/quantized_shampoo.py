"""Shampoo with its factors and their roots in four bits a number."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Unpack

import torch
from torch import Tensor

from nearly.linalg.orthogonalize import bjorck
from nearly.linalg.products import hermitian_product
from nearly.linalg.quantize import Quantized, quantize
from nearly.linalg.threads import eigh
from nearly.optim._matrices import each_matrix, gathered
from nearly.optim._ranks import first_group
from nearly.optim.optimizer import Optimizer, Options
from nearly.optim.step import Transform
from nearly.optim.transforms import Momentum
from nearly.optim.transforms.graft import grafted
from nearly.optim.transforms.kronecker import blocks, factors, refreshes, whole

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

    from nearly.optim.step import Step

CARD = {
    "name": "QuantizedShampoo",
    "rows": [148],
    "replaces": "Shampoo, where its factors and their roots, 8 bytes an entry, are too much to hold",
    "cost": "two products of a matrix and its sides a step; two eigendecompositions every so many steps",
    "needs": [],
    "state": {"matrix": {"mn": 8, "mm": 1.125, "nn": 1.125, "m": 8, "n": 8}, "vector": {"n": 8}},
    "parameters": {
        "lr": ["at least", 0, None],
        "betas": ["pair", 0, 1],
        "decay": ["at least", 0, 1],
        "graft": ["choice", "gradient", "rmsprop", "adam"],
        "every": ["integer", 1, None],
        "block": ["integer", 1, None],
        "ridge": ["real", 0, None],
        "eps": ["real", 0, None],
        "weight_decay": ["at least", 0, None],
    },
    "settings": {"lr": 0.1, "every": 5, "rest": {"lr": 0.1}},
    "skips": {
        "state_declared": "codes and scales of sides that 64 does not divide are rounded up; tests count those of others"
    },
}

FORMAT: dict[str, Any] = {"bits": 4, "mapping": "linear_square", "block": 64}  # section 4 of the paper
REPAIRS = 1  # Bjorck steps after reading eigenvectors, as in the paper


@dataclass(frozen=True)
class _QuantizedKronecker(Transform):
    """`Kronecker` with eigenvectors and roots in four bits."""

    decay: float
    ridge: float
    every: int
    block: int
    separate: ClassVar[bool] = True

    def __call__(self, updates: list[Tensor], step: Step) -> list[Tensor]:
        """The directions, of no particular size."""
        pieces = [blocks(gathered(update), self.block) for update in updates]
        sides, group = {"left": pieces, "right": [x.mT for x in pieces]}, first_group(updates[0], step.process_group)
        left, right = (self._roots(side, flat, step, group) for side, flat in sides.items())
        return [whole(a @ x @ b, like) for a, x, b, like in zip(left, pieces, right, updates, strict=True)]

    def _roots(self, side: str, pieces: list[Tensor], step: Step, group: ProcessGroup | None) -> list[Tensor]:
        make = factors(self.block, side)
        if refreshes(step.number, self.every):
            self._refresh(side, pieces, step, group)
        roots = _read(step, f"{side} root", pieces, make)
        for root, diagonal in zip(roots, step.state(f"{side} root diagonal"), strict=True):
            root.diagonal(dim1=-2, dim2=-1).copy_(diagonal)
        return roots

    def _refresh(self, side: str, pieces: list[Tensor], step: Step, group: ProcessGroup | None) -> None:
        make = factors(self.block, side)
        values = step.state(f"{side} values", lambda parameter: make(parameter).sum(dim=-1))
        moments = []
        for piece, rows, sizes in zip(pieces, _read(step, f"{side} vectors", pieces, make), values, strict=True):
            vectors = bjorck(rows.mT, steps=REPAIRS)
            old = hermitian_product(vectors * sizes[..., None, :], vectors.mT)
            moments.append(hermitian_product(piece, piece.mT, old, beta=self.decay, alpha=1 - self.decay, out=old))
        found = iter(each_matrix(_eigenvectors, [one for moment in moments for one in moment], process_group=group))
        bases = [torch.stack([next(found) for _ in moment]) for moment in moments]
        values = [(basis * (moment @ basis)).sum(dim=-2) for basis, moment in zip(bases, moments, strict=True)]
        roots = [self._root(basis, sizes) for basis, sizes in zip(bases, values, strict=True)]
        step.keep(f"{side} values", values)
        step.keep(f"{side} root diagonal", [1.0 * root.diagonal(dim1=-2, dim2=-1) for root in roots])
        for root in roots:
            root.diagonal(dim1=-2, dim2=-1).zero_()
        _write(step, f"{side} root", roots)
        _write(step, f"{side} vectors", [basis.mT for basis in bases])

    def _root(self, basis: Tensor, values: Tensor) -> Tensor:
        raised = values.clamp(min=0) + self.ridge * values.norm(dim=-1, keepdim=True)
        half = torch.where(raised > 0, raised ** (-1 / 8), 0.0)
        factor = basis * half[..., None, :]
        return hermitian_product(factor, factor.mT)


def _eigenvectors(moments: Tensor) -> Tensor:
    return eigh(moments.double())[1].to(moments.dtype)


def _read(step: Step, name: str, pieces: list[Tensor], make: Callable[[Tensor], Tensor]) -> list[Tensor]:
    """Quantized state, for the first sides of these blocks; at first what `make` gives."""
    codes = step.state(f"{name} codes", lambda parameter: quantize(make(parameter), **FORMAT).codes)
    scales = step.state(f"{name} scales", lambda parameter: quantize(make(parameter), **FORMAT).scales)
    return [
        Quantized(
            code, scale, torch.Size((*piece.shape[:2], piece.shape[1])), piece.dtype, signed=True, **FORMAT
        ).dequantize()
        for code, scale, piece in zip(codes, scales, pieces, strict=True)
    ]


def _write(step: Step, name: str, tensors: Sequence[Tensor]) -> None:
    packed = [quantize(tensor, check=False, **FORMAT) for tensor in tensors]
    step.keep(f"{name} codes", [one.codes for one in packed])
    step.keep(f"{name} scales", [one.scales for one in packed])


class QuantizedShampoo(Optimizer):
    r"""4-bit Shampoo: of the factors $L = V \Lambda V^T$, V in four bits and $\Lambda$ in 32; of their roots, all but the diagonal.

    Every `every` steps $A = \beta\, V \Lambda V^T + (1 - \beta)\, G G^T$, with V as read and made orthogonal by a step of
    `nearly.linalg.orthogonalize.bjorck`; then V and $\Lambda$ of A are written, and of $(A + \rho ||A||_F I)^{-1/4}$ the diagonal
    in 32 bits, the rest in four. Rounding V leaves small eigenvalues small, where rounding A drowns them, and with them the root.
    Codes are of signed squares ("linear_square"), with a scale for each 64 numbers of an eigenvector. What is left is as in
    `Shampoo`.

    Factors and roots of a float32 matrix (m, n) take 1.125 (m^2 + n^2) + 8 (m + n) bytes in place of 8 (m^2 + n^2): a seventh;
    momentum 4 mn more, and as much for "rmsprop", twice for "adam".

    Departures: (1) eigenvectors are found in full, in double precision, in place of a step of subspace iteration; (2) roots are
    made at once with them, from V before it is rounded, and not from V as read some steps later; (3) sides below 64 are quantized
    too; (4) A is made anew at the steps 1, 2, 4, ... at first.

    Source: Wang, Zhou, Li, Huang 2024, "4-bit Shampoo for Memory-Efficient Network Training", arXiv:2405.18144, algorithms 1 to 4.

    Args:
        params: tensors, named tensors or parameter groups.
        lr: rate; with "rmsprop" and "adam" that of Adam.
        betas: decay rates of momentum, and of the second moments whose size is taken.
        decay: $\beta$, of one refreshing.
        graft: see `Shampoo`.
        every: steps between two refreshings; gradients between them leave no trace in A.
        block: most rows and columns that share factors; longer sides are cut.
        ridge: $\rho$; four bits have no room for roots over a wider range.
        eps: of "rmsprop" and "adam".
        weight_decay: decoupled.
        options: see `Options`; with `process_group` each rank finds its share of the eigenvectors.

    Raises:
        BadInput: for values out of range, by name.

    Example:
        >>> from nearly.optim import held_bytes
        >>> x = torch.nn.Parameter(torch.ones(128, 128))
        >>> optimizer = QuantizedShampoo([x], betas=(0.0, 0.999), graft="gradient")
        >>> x.square().sum().backward()
        >>> optimizer.step()
        >>> held_bytes(optimizer) / (16 * 128**2)
        0.148...
    """

    def __init__(
        self,
        params: Iterable[Any],
        *,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        decay: float = 0.95,
        graft: str = "rmsprop",
        every: int = 20,
        block: int = 1024,
        ridge: float = 1e-4,
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(params, locals(), **options)

    def takes(self, parameter: Tensor) -> bool:
        """Matrices and convolutions."""
        return parameter.ndim >= 2

    def recipe(self, group: dict[str, Any]) -> Sequence[Transform]:
        """Directions, resized, averaged."""
        direction = _QuantizedKronecker(**{name: group[name] for name in ("decay", "ridge", "every", "block")})
        return (
            grafted(direction, group["graft"], group["betas"], group["eps"]),
            Momentum(group["betas"][0], average=True),
        )
