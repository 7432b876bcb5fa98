"""Tensors in 4 or 8 bits an entry: blocks with a scale each, and codes of entries over the scale."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from nearly.core.errors import BadInput
from nearly.core.validate import check_parameter, describe, require_finite, require_int

if TYPE_CHECKING:
    from jaxtyping import Float, UInt8

MAPPINGS = ("linear", "linear_square", "dynamic")
ROUNDINGS = 4.0  # of the quotient, the scale, the product and the result, in units of epsilon times the scale


@dataclass(frozen=True)
class Quantized:
    """A tensor in few bits.

    Attributes:
        codes: one byte an entry, or two entries a byte, the first in the lower half.
        scales: the largest magnitude of each block of consecutive entries.
        shape: of the tensor.
        dtype: of the tensor.
        bits: 4 or 8.
        mapping: of codes to numbers.
        signed: whether codes are of numbers in [-1, 1] or [0, 1].
        block: entries of a block.
    """

    codes: UInt8[Tensor, " bytes"]
    scales: Float[Tensor, " blocks"]
    shape: torch.Size
    dtype: torch.dtype
    bits: int
    mapping: str
    signed: bool
    block: int

    def dequantize(self) -> Float[Tensor, ...]:
        """The tensor, nearly."""
        table = _table(self.bits, self.mapping, self.signed, self.codes.device)
        values = table.index_select(0, self.codes.int()).flatten()
        count = self.shape.numel()
        scaled = _in_blocks(values[:count], self.block) * self.scales[:, None]
        return scaled.flatten()[:count].reshape(self.shape).to(self.dtype)

    def error_bound(self) -> Float[Tensor, " blocks"]:
        """What no entry of each block is further from its original than, rounding included."""
        epsilon = max(torch.finfo(torch.float32).eps, torch.finfo(self.dtype).eps)
        return self.scales * (radius(self.bits, self.mapping, signed=self.signed) + ROUNDINGS * epsilon)

    @property
    def bytes(self) -> int:
        """Of codes and scales."""
        return self.codes.nbytes + self.scales.nbytes


@torch.no_grad()
def quantize(
    tensor: Float[Tensor, ...],
    bits: int = 8,
    mapping: str = "dynamic",
    block: int = 256,
    *,
    signed: bool = True,
    check: bool = True,
) -> Quantized:
    r"""Each entry over the largest magnitude of its block, as the code of the nearest number that a mapping has.

    Mappings, of $2^b$ numbers from [-1, 1], or [0, 1] unsigned, zero and one among them:

    - `linear`: evenly spaced; signed, $2^b - 1$ of them, so that zero is one.
    - `linear_square`: $\pm(2j / (2^b - 1) - 1)^2$, but zero for $j = 2^{b-1} - 1$ (Wang, Zhou, Li, Huang 2024, "4-bit Shampoo for
      memory-efficient network training", arXiv:2405.18144); unsigned, $(j / (2^b - 1))^2$.
    - `dynamic`: b - 1 decades with 1, 2, 4, ... numbers each (unsigned, twice as many), relatively as near at small magnitudes as
      at large (Dettmers, Lewis, Shleifer, Zettlemoyer 2021, "8-bit optimizers via block-wise quantization", arXiv:2110.02861);
      signed, there is no -1.

    The error is at most `radius(bits, mapping, signed=signed)` times the scale of the block, beside rounding: in 4 bits 0.071,
    0.124 and 0.113, in 8 bits 0.0039, 0.0078 and 0.0070, and half as much unsigned.

    Args:
        tensor: in any real floating dtype, finite, its magnitudes in the range of single precision.
        bits: 4 or 8.
        mapping: see above.
        block: entries of a block, consecutive in row-major order; the last one may be shorter.
        signed: whether entries may be negative.
        check: whether to look at the tensor's entries before.

    Returns:
        Codes and scales: b / 8 + 4 / block bytes an entry.

    Raises:
        BadInput: for a tensor that is not real and floating, has NaN, infinity or no entries, or negative ones unsigned, or exceeds
            single precision.

    Example:
        >>> small = quantize(torch.tensor([0.5, -2.0, 0.0]), bits=4, mapping="linear")
        >>> small.dequantize(), small.codes.nbytes
        (tensor([ 0.5714, -2.0000,  0.0000]), 2)
    """
    check_parameter("bits", bits, ["choice", 4, 8])
    check_parameter("mapping", mapping, ["choice", *MAPPINGS])
    require_int("block", block, least=1)
    if not isinstance(tensor, Tensor) or not tensor.is_floating_point() or not tensor.numel():
        raise BadInput("tensor", "a non-empty real floating tensor", describe(tensor))
    if check:
        require_finite("tensor", tensor)
    values = _in_blocks(tensor.to(torch.promote_types(tensor.dtype, torch.float32)).flatten(), block)
    largest = torch.linalg.vector_norm(values, ord=torch.inf, dim=-1)
    # A scale that single precision has no number for but zero would be one of a block of zeros.
    scales = torch.where(largest > 0, largest.float().clamp(min=torch.finfo(torch.float32).tiny), 0.0)
    if check:
        if not signed and bool((tensor < 0).any()):
            raise BadInput("tensor", "without negative entries, where signed=False", float(tensor.min()))
        if not bool(scales.isfinite().all()):
            raise BadInput("tensor", "within the range of single precision", float(largest.max()))
    ratios = (values / torch.where(scales > 0, scales, 1.0)[:, None]).float()
    codes = _nearest(ratios.flatten()[: tensor.numel()], bits, mapping, signed)
    if bits == 4:
        codes = torch.nn.functional.pad(codes, (0, codes.numel() % 2)).unflatten(0, (-1, 2))
        codes = codes[:, 0] | (codes[:, 1] << 4)
    return Quantized(codes, scales, tensor.shape, tensor.dtype, bits, mapping, signed, block)


@lru_cache(maxsize=64)
def code_book(bits: int, mapping: str, *, signed: bool = True) -> tuple[float, ...]:
    """The numbers of a mapping, in order.

    Example:
        >>> [round(number, 3) for number in code_book(4, "linear_square")][6:11]
        [-0.04, 0.0, 0.004, 0.04, 0.111]
    """
    count = 2**bits
    if mapping == "linear":
        half = count // 2 - 1
        return (
            tuple(k / half for k in range(-half, half + 1)) if signed else tuple(j / (count - 1) for j in range(count))
        )
    if mapping == "linear_square":
        if not signed:
            return tuple((j / (count - 1)) ** 2 for j in range(count))
        lines = [2 * j / (count - 1) - 1 for j in range(count)]
        lines[count // 2 - 1] = 0.0
        return tuple(line * abs(line) for line in lines)
    decades = bits - 1
    numbers = [0.0, 1.0]
    for k in range(decades):
        parts = 2**k if signed else 2 ** (k + 1)
        middles = [10.0 ** (k + 1 - decades) * (0.1 + 0.9 * (j + 0.5) / parts) for j in range(parts)]
        numbers += middles + ([-middle for middle in middles] if signed else [])
    return tuple(sorted(numbers))


def radius(bits: int, mapping: str, *, signed: bool = True) -> float:
    """The largest distance of a number in [-1, 1], or [0, 1] unsigned, from the nearest that a mapping has.

    Example:
        >>> round(radius(4, "linear"), 4)
        0.0714
    """
    book = code_book(bits, mapping, signed=signed)
    gaps = [(high - low) / 2 for low, high in pairwise(book)]
    return max(*gaps, book[0] + 1.0 if signed else book[0], 1.0 - book[-1])


@lru_cache(maxsize=64)
def _table(bits: int, mapping: str, signed: bool, device: torch.device) -> Tensor:
    """Numbers by byte: one each, or two."""
    book = torch.tensor(code_book(bits, mapping, signed=signed), device=device)
    if bits == 8:
        return book
    book = torch.nn.functional.pad(book, (0, 16 - len(book)))
    return torch.stack([book.repeat(16), book.repeat_interleave(16)], dim=1)


def _nearest(ratios: Tensor, bits: int, mapping: str, signed: bool) -> Tensor:
    """What `torch.bucketize` gives, in a tenth of its time: by the upper half of a number's bits to one of two codes, then one
    comparison."""
    least, middles = _cells(bits, mapping, signed, ratios.device)
    codes = least.index_select(0, (ratios.view(torch.int32) >> 16) & 0xFFFF)
    return codes.add_(ratios > middles.index_select(0, codes)).to(torch.uint8)


@lru_cache(maxsize=64)
def _cells(bits: int, mapping: str, signed: bool, device: torch.device) -> tuple[Tensor, Tensor]:
    """The least code of the numbers with the same upper 16 bits, and the middles above each code's number."""
    book = torch.tensor(code_book(bits, mapping, signed=signed), dtype=torch.float64)
    middles = ((book[:-1] + book[1:]) / 2).float()
    upper = torch.arange(2**16, dtype=torch.int64) << 16
    upper = torch.where(upper >= 2**31, upper - 2**32, upper).int()
    ends = torch.stack([upper, upper | 0xFFFF]).view(torch.float32)
    ends = torch.where(ends.isfinite(), ends, 1.0)  # what no ratio is
    codes = torch.bucketize(ends, middles, out_int32=True)
    assert (
        int((codes[0] - codes[1]).abs().max()) <= 1
    )  # numbers of a cell differ by 2^-8 of the next power of two at most
    return codes.amin(dim=0).to(device), torch.nn.functional.pad(middles, (0, 1), value=torch.inf).to(device)


def _in_blocks(flat: Tensor, block: int) -> Tensor:
    """One block a row, the last filled with zeros."""
    missing = -flat.numel() % block
    return (torch.nn.functional.pad(flat, (0, missing)) if missing else flat).unflatten(0, (-1, block))
