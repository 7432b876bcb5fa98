"""Random maps from many rows to few: `S A` is small, and `||S A x||` is nearly `||A x||` for all x."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from nearly.core.errors import BadInput
from nearly.core.validate import PRECISIONS, describe, generator_from, require_int
from nearly.linalg.operator import csr

if TYPE_CHECKING:
    from jaxtyping import Float

RADIX = (
    16  # of a Hadamard transform's steps: with 4, 8, 16, 32, 64 those of 16,384 x 64 took 5.3, 4.5, 4.4, 4.9, 6.5 ms
)


@dataclass(frozen=True)
class Sketch:
    """A random matrix S by its products: `sketch(A)` is `S A`, of the dtype and on the device of A. `S^T S` has mean I.

    Attributes:
        shape: (rows, size).
        product: maps tensors of shape (size, k) to (rows, k).
    """

    shape: tuple[int, int]
    product: Callable[[Tensor], Tensor]

    def __call__(self, matrix: Float[Tensor, "*batch n k"]) -> Float[Tensor, "*batch m k"]:
        """The product with one matrix or vector, or with each of a batch of matrices; differentiable.

        Raises:
            BadInput: for anything but a floating or complex tensor of `size` rows.
        """
        rows, size = self.shape
        side = matrix.shape[-2:][0] if isinstance(matrix, Tensor) and matrix.ndim else 0
        if side != size or not matrix.numel() or matrix.dtype not in PRECISIONS:
            raise BadInput("matrix", f"a floating tensor of {size} rows, as the sketch was made for", describe(matrix))
        if matrix.ndim == 1:
            return self.product(matrix.unsqueeze(1)).squeeze(1)
        if matrix.ndim == 2:
            return self.product(matrix)
        flat = matrix.flatten(0, -3).movedim(0, 1).flatten(1)
        return self.product(flat).reshape(rows, -1, matrix.shape[-1]).movedim(1, 0).unflatten(0, matrix.shape[:-2])


def hadamard_transform(matrix: Float[Tensor, "n k"]) -> Float[Tensor, "n k"]:
    """The orthonormal Walsh-Hadamard transform of each column, `H / sqrt(n)` in the natural order; its own inverse.

    It replaces the product with H, `n log2(n) k` additions instead of `n^2 k`: one product with a 16 x 16 matrix for every four
    of the additions' stages, for which memory is read once.

    Args:
        matrix: n is a power of two.

    Returns:
        The transform, differentiable.

    Raises:
        BadInput: otherwise.

    Example:
        >>> hadamard_transform(torch.tensor([[1.0], [0.0], [0.0], [1.0]])).flatten().tolist()
        [1.0, 0.0, 0.0, 1.0]
    """
    size = _columns("matrix", matrix).shape[0]
    if size & (size - 1):
        raise BadInput("matrix", "of a power of two rows", describe(matrix))
    out, done = matrix, 1
    while done < size:
        radix = min(RADIX, size // done)
        step = torch.ones(1, 1, dtype=matrix.dtype, device=matrix.device)
        while len(step) < radix:
            step = torch.cat([torch.cat([step, step], 1), torch.cat([step, -step], 1)])
        out = (step / math.sqrt(radix)) @ out.reshape(done, radix, -1)
        done *= radix
    return out.reshape(matrix.shape)


def cosine_transform(matrix: Float[Tensor, "n k"]) -> Float[Tensor, "n k"]:
    """The orthonormal discrete cosine transform (type 2) of each column, by one Fourier transform; n is any number.

    Source: Makhoul 1980, A fast cosine transform in one and two dimensions, doi:10.1109/TASSP.1980.1163351.

    Args:
        matrix: real or complex.

    Returns:
        The transform, differentiable.

    Raises:
        BadInput: for anything but a floating matrix.

    Example:
        >>> cosine_transform(torch.ones(4, 1)).flatten().round(decimals=4).tolist()
        [2.0, 0.0, 0.0, 0.0]
    """
    if _columns("matrix", matrix).is_complex():
        return torch.complex(cosine_transform(matrix.real), cosine_transform(matrix.imag))
    size = matrix.shape[0]
    turned = torch.fft.fft(torch.cat([matrix[::2], matrix[1::2].flip(0)]), dim=0)
    angle = torch.arange(size, dtype=matrix.dtype, device=matrix.device)[:, None] * (math.pi / (2 * size))
    scale = torch.full_like(angle, math.sqrt(2 / size))
    scale[0] = math.sqrt(1 / size)
    return scale * (angle.cos() * turned.real + angle.sin() * turned.imag)


def subsampled_hadamard(rows: int, size: int, *, seed: int | torch.Generator = 0) -> Sketch:
    """`S = sqrt(N / rows) P H D`: random signs D, the orthonormal Hadamard transform H, `rows` rows of it drawn without repeats P.

    It is dense, and takes `size log(size)` additions per column. Columns are filled with zeros to N, the next power of two.

    Source: Ailon and Chazelle 2006, doi:10.1145/1132516.1132597; Tropp 2011, arXiv 1011.1595.

    Args:
        rows: of S, at most N.
        size: columns of S.
        seed: number or source of randomness.

    Returns:
        The sketch.

    Raises:
        BadInput: for other sizes.

    Example:
        >>> subsampled_hadamard(4, 8)(torch.ones(8, 2)).shape
        torch.Size([4, 2])
    """
    size = require_int("size", size, least=1)
    full = 1 << (size - 1).bit_length()
    signs, kept = _signs_and_rows(require_int("rows", rows, least=1, most=full), size, full, seed)
    scale = math.sqrt(full / rows)

    def product(matrix: Tensor) -> Tensor:
        filled = torch.nn.functional.pad(signs.to(matrix) * matrix, (0, 0, 0, full - size))
        return hadamard_transform(filled)[kept.to(matrix.device)] * scale

    return Sketch((rows, size), product)


def subsampled_cosine(rows: int, size: int, *, seed: int | torch.Generator = 0) -> Sketch:
    """`S = sqrt(size / rows) P C D`: random signs D, the orthonormal cosine transform C, `rows` rows of it drawn without repeats P.

    As `subsampled_hadamard`, for any size: the rows of S are orthogonal, of length `sqrt(size / rows)`. It needs no zeros, and
    takes a Fourier transform of twice as many operations.

    Source: Avron, Maymounkov and Toledo 2010, Blendenpik, doi:10.1137/090767911, section 3.

    Args:
        rows: of S, at most `size`.
        size: columns of S.
        seed: number or source of randomness.

    Returns:
        The sketch.

    Raises:
        BadInput: for other sizes.

    Example:
        >>> s = subsampled_cosine(2, 5)(torch.eye(5, dtype=torch.float64))
        >>> torch.allclose(s @ s.T, 2.5 * torch.eye(2, dtype=torch.float64))
        True
    """
    size = require_int("size", size, least=1)
    signs, kept = _signs_and_rows(require_int("rows", rows, least=1, most=size), size, size, seed)
    scale = math.sqrt(size / rows)

    def product(matrix: Tensor) -> Tensor:
        return cosine_transform(signs.to(matrix) * matrix)[kept.to(matrix.device)] * scale

    return Sketch((rows, size), product)


def sparse_signs(rows: int, size: int, *, nonzeros: int = 8, seed: int | torch.Generator = 0) -> Sketch:
    """Columns of `nonzeros` entries of `+-1 / sqrt(nonzeros)` at random places; with one, CountSketch.

    It reads A `nonzeros` times and no more: the fastest sketch by far. Few nonzeros need more rows: one needs some
    `columns^2` of them in the worst case, 8 only a few times `columns`.

    Sources: Clarkson and Woodruff 2013, arXiv 1207.6365 (one nonzero); Cohen 2016, doi:10.1137/1.9781611974331.ch21; eight by
    Tropp, Yurtsever, Udell and Cevher 2019, arXiv 1902.08651, section 3.3. Departure: places of one column may coincide (their
    entries add up), which keeps the mean of `S^T S` at I.

    Args:
        rows: of S.
        size: columns of S.
        nonzeros: of a column.
        seed: number or source of randomness.

    Returns:
        The sketch.

    Raises:
        BadInput: for sizes below one.

    Example:
        >>> sparse_signs(4, 9, nonzeros=1)(torch.eye(9)).abs().sum(dim=0).tolist()
        [1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0]
    """
    rows, size = require_int("rows", rows, least=1), require_int("size", size, least=1)
    nonzeros = require_int("nonzeros", nonzeros, least=1)
    generator = generator_from(seed)
    device = generator.device
    place = torch.randint(rows, (nonzeros * size,), generator=generator, device=device)
    sign = torch.randint(2, (nonzeros * size,), generator=generator, device=device, dtype=torch.int8) * 2 - 1
    place, order = place.sort(stable=True)
    starts = torch.nn.functional.pad(torch.bincount(place, minlength=rows).cumsum(0), (1, 0))
    columns, sign = order % size, sign[order]

    def product(matrix: Tensor) -> Tensor:
        if matrix.is_complex():
            parts = torch.view_as_real(matrix.resolve_conj()).flatten(1)
            return torch.view_as_complex(product(parts).unflatten(1, (-1, 2)))
        values = sign.to(matrix) / math.sqrt(nonzeros)
        return csr(starts.to(matrix.device), columns.to(matrix.device), values, (rows, size)) @ matrix

    return Sketch((rows, size), product)


def gaussian(rows: int, size: int, *, seed: int | torch.Generator = 0) -> Sketch:
    """Independent normal entries of variance `1 / rows`: the sketch of which most is known, at the price of a dense product.

    Args:
        rows: of S.
        size: columns of S.
        seed: number or source of randomness.

    Returns:
        The sketch.

    Raises:
        BadInput: for sizes below one.

    Example:
        >>> gaussian(2, 3)(torch.ones(3, 1)).shape
        torch.Size([2, 1])
    """
    rows, size = require_int("rows", rows, least=1), require_int("size", size, least=1)
    generator = generator_from(seed)
    entries = torch.randn(rows, size, dtype=torch.float64, generator=generator, device=generator.device)
    entries /= math.sqrt(rows)
    return Sketch((rows, size), lambda matrix: entries.to(matrix) @ matrix)


def _columns(name: str, matrix: Any) -> Tensor:
    if not isinstance(matrix, Tensor) or matrix.ndim != 2 or not matrix.numel() or matrix.dtype not in PRECISIONS:
        raise BadInput(name, "a floating tensor of shape (n, k)", describe(matrix))
    return matrix


def _signs_and_rows(rows: int, size: int, full: int, seed: int | torch.Generator) -> tuple[Tensor, Tensor]:
    generator = generator_from(seed)
    device = generator.device
    signs = torch.randint(2, (size, 1), generator=generator, device=device) * 2 - 1
    return signs, torch.randperm(full, generator=generator, device=device)[:rows]
