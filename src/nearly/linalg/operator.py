"""Matrices that are known by their products alone."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from nearly.core.errors import BadInput
from nearly.core.validate import as_floating, describe, generator_from, require_finite, require_int, to_tensor
from nearly.linalg.scaling import binary_scale

if TYPE_CHECKING:
    from jaxtyping import Float

Product = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Operator:
    """A linear map that answers `operator @ x` for tensors x of shape (columns, n), differentiably where it has a transpose.

    Attributes:
        shape: (rows, columns).
        product: the map; takes and returns tensors of any device and dtype, complex ones where it or the vectors are complex.
        transposed: that of the transpose, shape (rows, n) to (columns, n), or None.
        dtype: in which products are computed.
        device: on which they are.
        symmetric: whether a random probe found it so; Hermitian, where it is complex.
    """

    shape: tuple[int, int]
    product: Product
    transposed: Product | None
    dtype: torch.dtype
    device: torch.device
    symmetric: bool = False

    @property
    def T(self) -> Operator:
        """The transpose.

        Raises:
            BadInput: where its products are not known.
        """
        if self.transposed is None:
            raise BadInput("matrix", "an operator with products of its transpose", "one without", "Give transpose=.")
        return Operator(self.shape[::-1], self.transposed, self.product, self.dtype, self.device, self.symmetric)

    @property
    def H(self) -> Operator:
        """The conjugate transpose, of a real one the transpose.

        Raises:
            BadInput: where its products are not known.
        """
        if not self.dtype.is_complex:
            return self.T
        turned = self.T
        forward, backward = _conjugated(turned.product), _conjugated(self.product)
        return Operator(turned.shape, forward, backward, self.dtype, self.device, self.symmetric)

    def __matmul__(self, vectors: Float[Tensor, "columns n"]) -> Float[Tensor, "rows n"]:
        return _Product.apply(vectors, self)  # type: ignore[no-untyped-call]


class _Product(torch.autograd.Function):
    """Derivatives of products that torch cannot look into: those of the conjugate transpose."""

    @staticmethod
    def forward(context: Any, vectors: Tensor, operator: Operator) -> Tensor:
        context.operator, context.real = operator, not vectors.is_complex()
        return operator.product(vectors)

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        gradient = context.operator.H @ gradients[0]
        return gradient.real if context.real else gradient, None


def is_operator(matrix: object) -> bool:
    """Whether this is a matrix by its products alone: a callable, or an object with a shape and products, but no entries."""
    if isinstance(matrix, Tensor) or hasattr(matrix, "__array__") or hasattr(matrix, "tocsr"):
        return False
    return callable(matrix) or (hasattr(matrix, "shape") and hasattr(matrix, "__matmul__"))


def as_operator(
    matrix: Any,
    shape: Sequence[int] | None = None,
    transpose: Any = None,
    *,
    dtype: torch.dtype = torch.float64,
    device: torch.device | str | None = None,
    complex_too: bool = False,
) -> Operator:
    """An `Operator` from a SciPy `LinearOperator`, any object with `shape` and `@`, or a plain callable.

    Objects with `matmat` or a NumPy dtype are given arrays, all others tensors; products with the transpose come from `rmatmat` or
    `.T @`. A callable maps tensors of shape (columns, n), n vectors side by side, to (rows, n).

    Shapes, finiteness, linearity, and the transpose, by `<A x, y> = <x, A^T y>`, are checked on random vectors, to half of the
    digits.

    Args:
        matrix: the operator.
        shape: (rows, columns) of a plain callable.
        transpose: the callable of its transpose, if known (not conjugated).
        dtype: what a map without a dtype of its own is given. If it refuses that (it raises, or answers a real vector by a complex
            one), it is tried on others: real or complex instead, and in double precision.
        device: where a map without a device of its own is given vectors; the CPU by default.
        complex_too: whether complex ones are taken.

    Returns:
        The operator; a square one that the probe finds symmetric is its own transpose, a complex Hermitian one its own conjugate
        transpose.

    Raises:
        BadInput: for anything that does not act as a matrix of that shape, real unless complex ones are taken.

    Example:
        >>> double = as_operator(lambda x: 2 * x, shape=(3, 3))
        >>> (double @ torch.ones(3, 1)).flatten().tolist(), double.symmetric
        ([2.0, 2.0, 2.0], True)
    """
    own = getattr(matrix, "shape", None)
    if own is None:
        if shape is None:
            raise BadInput("shape", "given with a callable, as (rows, columns)", None)
        own, product, adjoint = shape, matrix, transpose
    else:
        if shape is not None or transpose is not None:
            raise BadInput("shape", "given for a plain callable alone, as transpose is", describe(matrix))
        product = matrix.matmat if hasattr(matrix, "matmat") else matrix.__matmul__
        adjoint = getattr(matrix, "rmatmat", None) or ((lambda y: matrix.T @ y) if hasattr(matrix, "T") else None)
    if not isinstance(own, Sequence) or len(own) != 2:
        raise BadInput("shape", "two integers, (rows, columns)", own)
    if adjoint is not None and not callable(adjoint):
        raise BadInput("transpose", "a callable", describe(adjoint))
    rows, columns = (require_int("shape", side, least=1) for side in own)
    dtypes, arrays = _dtypes(matrix, dtype, complex_too=complex_too)
    device = torch.device(getattr(matrix, "device", None) or device or "cpu")
    dtype, forward, x, y, image = _first_products(product, arrays, dtypes, device, (rows, columns))
    backward = None if adjoint is None else _on_tensors(adjoint, arrays, dtype, device)
    if backward is not None and dtype.is_complex and hasattr(matrix, "rmatmat"):
        backward = _conjugated(backward)
    allowed = math.sqrt(torch.finfo(dtype).eps)
    if not bool(image.any()):
        raise BadInput("matrix", "nonzero", "a matrix of zeros, whose relative error means nothing")
    unit = binary_scale(image, (0, 1))  # norms neither overflow nor vanish
    factor = 2j if dtype.is_complex else 2
    image, mixed = image / unit, _checked_products("matrix", forward, factor * x[:, :1] + x[:, 1:], rows) / unit
    gap = float((mixed - factor * image[:, :1] - image[:, 1:]).norm() / image.norm())
    if not gap <= 3 * allowed:
        raise BadInput(
            "matrix", "linear", f"one with A({factor} x + y) off from {factor} A x + A y by {gap:.2g}, relatively"
        )
    try:
        back = None if backward is None else _checked_products("transpose", backward, y, columns) / unit
    except BadInput as error:
        if shape is not None or error.__cause__ is None:
            raise
        # An object that raises when its transpose is asked for, as SciPy's LinearOperator does, has none.
        backward = back = None
    if back is not None:
        gap = float((image.T @ y - x.T @ back).norm() / (image.norm() + back.norm()))
        if not gap <= allowed:
            raise BadInput(
                "transpose", "that of the matrix", f"<A x, y> and <x, A^T y> differing by {gap:.2g}, relatively"
            )
    symmetric = rows == columns and float((x.mH @ image - image.mH @ x).norm() / image.norm()) <= allowed
    if symmetric:
        backward = _conjugated(forward) if dtype.is_complex else forward
    return Operator((rows, columns), forward, backward, dtype, device, symmetric)


def as_square(
    matrix: Any,
    side: int | None = None,
    *,
    dtype: torch.dtype = torch.float64,
    device: torch.device | str | None = None,
    complex_too: bool = False,
) -> Tensor | Operator:
    """A square matrix, or a batch of them, that answers `matrix @ x` for tensors x.

    Args:
        matrix: dense, shape (*batch, n, n); or of shape (n, n): a sparse tensor, a SciPy sparse matrix, or anything that
            `as_operator` takes.
        side: n of a plain callable.
        dtype: what it is given, as `as_operator` takes it.
        device: of what has none of its own.
        complex_too: whether complex matrices are taken.

    Returns:
        A dense tensor, a sparse one by rows, or an operator.

    Raises:
        BadInput: for anything else.

    Example:
        >>> as_square([[2.0, 0.0], [0.0, 3.0]]) @ torch.ones(2, 1, dtype=torch.float64)
        tensor([[2.],
                [3.]], dtype=torch.float64)
    """
    if isinstance(matrix, Operator):
        if matrix.dtype.is_complex and not complex_too:
            raise BadInput("matrix", "real", describe(matrix))
        found: Tensor | Operator = matrix
    elif is_operator(matrix):
        shape = None if side is None or hasattr(matrix, "shape") else (side, side)
        found = as_operator(matrix, shape, dtype=dtype, device=device, complex_too=complex_too)
    elif hasattr(matrix, "tocsr"):
        rows = matrix.tocsr()
        values = torch.zeros(0, dtype=torch.float64)
        if rows.nnz:
            values = as_floating("matrix", rows.data, complex_too=complex_too)
        starts, columns, values = (to_tensor(part).to(device) for part in (rows.indptr, rows.indices, values))
        found = csr(starts, columns, values, rows.shape)
    elif isinstance(matrix, Tensor) and matrix.layout != torch.strided:
        if not (matrix.is_floating_point() or (complex_too and matrix.is_complex())) or matrix.ndim != 2:
            kind = "real or complex" if complex_too else "real"
            raise BadInput("matrix", f"{kind}, floating and of shape (n, n), where it is sparse", describe(matrix))
        found = matrix
        if matrix.layout != torch.sparse_csr:  # blocks become rows by way of entries
            found = _quietly(lambda: matrix.to_sparse_coo().to_sparse_csr())
        require_finite("matrix", found.values().detach())
    else:
        dense = as_floating("matrix", matrix, least_dimensions=2, complex_too=complex_too)
        found = dense if isinstance(matrix, Tensor) else torch.as_tensor(dense, device=device)
    if len(found.shape) < 2 or found.shape[-1] != found.shape[-2] or found.shape[-1] == 0:
        raise BadInput("matrix", "of shape (*batch, n, n)", f"shape {tuple(found.shape)}")
    return found


def transpose(matrix: Tensor | Operator) -> Tensor | Operator:
    """That of what `as_square` returned, of the same kind.

    Raises:
        BadInput: for an operator without.
    """
    if isinstance(matrix, Operator):
        return matrix.T
    if matrix.layout == torch.strided:
        return matrix.mT
    return _quietly(lambda: matrix.transpose(0, 1).to_sparse_csr())


def adjoint(matrix: Tensor | Operator) -> Tensor | Operator:
    """The conjugate transpose of what `as_square` returned, of the same kind; of a real matrix the transpose.

    Raises:
        BadInput: for an operator without.
    """
    if isinstance(matrix, Operator):
        return matrix.H
    turned = transpose(matrix)
    assert isinstance(turned, Tensor)
    return turned.conj()


def on_parts(product: Product) -> Product:
    """A real product for complex vectors too: their real and imaginary parts side by side.

    Example:
        >>> on_parts(lambda x: 2 * x)(torch.tensor([[1.0 + 3.0j]])).item()
        (2+6j)
    """

    def apply(vectors: Tensor) -> Tensor:
        if not vectors.is_complex():
            return product(vectors)
        found = product(torch.cat([vectors.real, vectors.imag], dim=-1))
        return torch.complex(*found.chunk(2, dim=-1))

    return apply


def diagonal_of(matrix: Tensor | Operator) -> Float[Tensor, "*batch n"]:
    """The diagonal of what `as_square` returned.

    Raises:
        BadInput: for an operator, whose entries nobody knows.
    """
    if isinstance(matrix, Operator):
        raise BadInput("matrix", "one with entries, dense or sparse", describe(matrix))
    if matrix.layout == torch.strided:
        return matrix.diagonal(dim1=-2, dim2=-1)
    rows = torch.repeat_interleave(matrix.crow_indices().diff())
    here = rows == matrix.col_indices()
    return matrix.values().new_zeros(matrix.shape[0]).index_add(0, rows[here], matrix.values()[here])


def csr(starts: Tensor, columns: Tensor, values: Tensor, shape: Sequence[int]) -> Tensor:
    """A sparse tensor by rows, unchecked."""
    return _quietly(lambda: torch.sparse_csr_tensor(starts, columns, values, tuple(shape), check_invariants=False))


def _quietly(call: Callable[[], Tensor]) -> Tensor:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta")
        return call()


def _dtypes(matrix: Any, given: torch.dtype, *, complex_too: bool) -> tuple[list[torch.dtype], bool]:
    """In which products may be computed, the likeliest first, and whether on arrays.

    Raises:
        BadInput: for complex ones, unless they are taken.
    """
    own = getattr(matrix, "dtype", None)
    if own is None:
        double = torch.promote_types(given, torch.float64)
        tries = dict.fromkeys((given, _other_kind(given), double, _other_kind(double)))
        return [one for one in tries if complex_too or not one.is_complex], hasattr(matrix, "matmat")
    if isinstance(own, torch.dtype):
        found = own if own.is_floating_point or own.is_complex else torch.float64
    else:
        number = np.dtype(own)
        found = torch.float32 if number in (np.float32, np.complex64) else torch.float64
        found = found.to_complex() if number.kind == "c" else found
    if found.is_complex and not complex_too:
        raise BadInput("matrix", "real", describe(matrix))
    return [found], not isinstance(own, torch.dtype)


def _other_kind(dtype: torch.dtype) -> torch.dtype:
    return dtype.to_real() if dtype.is_complex else dtype.to_complex()


def _on_tensors(product: Callable[[Any], Any], arrays: bool, dtype: torch.dtype, device: torch.device) -> Product:
    """The same product on tensors of any dtype and device."""

    def call(vectors: Tensor) -> Tensor:
        with torch.no_grad():
            given = vectors.detach().to(device, dtype).resolve_conj()
            found = product(given.cpu().numpy() if arrays else given)
            tensor = (
                found if isinstance(found, Tensor) else torch.from_numpy(np.require(found, requirements=["C", "W"]))
            )
            kind = vectors.dtype
            return tensor.to(vectors.device, kind.to_complex() if tensor.is_complex() else kind.to_real())

    return call if dtype.is_complex else on_parts(call)


def _conjugated(product: Product) -> Product:
    """That of the conjugate matrix."""
    return lambda vectors: product(vectors.conj()).conj()


def _first_products(
    product: Callable[[Any], Any],
    arrays: bool,
    dtypes: Sequence[torch.dtype],
    device: torch.device,
    shape: tuple[int, int],
) -> tuple[torch.dtype, Product, Tensor, Tensor, Tensor]:
    """The first dtype that works, the product in it, two random vectors for either side, and the products with the first two.

    Raises:
        BadInput: where none works: the error of the first.
    """
    errors = []
    for dtype in dtypes:
        forward, generator = _on_tensors(product, arrays, dtype, device), generator_from(0)
        double = torch.promote_types(dtype, torch.float64)
        x, y = (torch.randn(side, 2, dtype=double, generator=generator).to(device, dtype) for side in shape[::-1])
        try:
            return dtype, forward, x, y, _checked_products("matrix", forward, x, shape[0])
        except BadInput as error:
            errors.append(error)
    raise errors[0]


def _checked_products(name: str, product: Product, vectors: Tensor, rows: int) -> Tensor:
    """The products, of the right shape, finite, and real or complex as the vectors are.

    Raises:
        BadInput: otherwise.
    """
    asked = f"able to take {tuple(vectors.shape)} to {(rows, vectors.shape[1])}"
    try:
        found = product(vectors)
    except Exception as error:
        raise BadInput(name, asked, f"{type(error).__name__}: {error}") from error
    if tuple(found.shape) != (rows, vectors.shape[1]) or found.is_complex() != vectors.is_complex():
        raise BadInput(name, asked, describe(found))
    if not bool(torch.isfinite(found).all()):
        raise BadInput(name, "of finite products", f"{int((~torch.isfinite(found)).sum())} NaN or infinite entries")
    return found
