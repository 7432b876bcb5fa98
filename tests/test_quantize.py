"""Tensors in few bits: code books as published, the stated error, and what cannot be quantized."""

import itertools

import pytest
import torch

from nearly.core.errors import BadInput
from nearly.linalg.orthogonalize import bjorck, orthogonality
from nearly.linalg.quantize import MAPPINGS, code_book, quantize, radius

WAYS = list(itertools.product((4, 8), MAPPINGS, (True, False)))


def data(*shape, signed=True, dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(*shape, generator=generator, dtype=torch.float64) ** 3
    return (x if signed else x.abs()).to(dtype)


def naive(x, bits, mapping, block, signed):
    """Block by block, the nearest of all numbers."""
    book = torch.tensor(code_book(bits, mapping, signed=signed), dtype=torch.float64)
    out = []
    for part in x.double().flatten().split(block):
        scale = part.abs().max()
        gaps = (part[:, None] / (scale if scale > 0 else 1.0) - book).abs()
        out.append(book[gaps.argmin(dim=1)] * scale)
    return torch.cat(out).reshape(x.shape)


@pytest.mark.parametrize(("bits", "mapping", "signed"), WAYS)
@pytest.mark.parametrize("block", [64, 100])
def test_each_entry_goes_to_the_nearest_number(bits, mapping, signed, block):
    x = data(7, 131, signed=signed)
    found = quantize(x, bits, mapping, block, signed=signed)
    assert torch.allclose(found.dequantize().double(), naive(x, bits, mapping, block, signed), rtol=1e-6, atol=1e-30)
    assert found.bytes == -(-x.numel() * bits // 8) + 4 * -(-x.numel() // block)


@pytest.mark.parametrize(("bits", "mapping", "signed"), WAYS)
def test_codes_are_those_of_bucketize(bits, mapping, signed):
    book = torch.tensor(code_book(bits, mapping, signed=signed), dtype=torch.float64)
    middles = ((book[:-1] + book[1:]) / 2).float()
    around = [torch.nextafter(middles, torch.tensor(side)) for side in (-2.0, 2.0)]
    x = torch.cat([middles, *around, torch.linspace(-1.0 if signed else 0.0, 1, 10_001), torch.ones(1)])
    x = x[: x.numel() // 2 * 2] if bits == 4 else x
    x[0] = 1.0
    codes = quantize(x, bits, mapping, x.numel(), signed=signed).codes
    codes = torch.stack([codes & 15, codes >> 4], dim=1).flatten() if bits == 4 else codes
    assert torch.equal(codes.long(), torch.bucketize(x, middles))


@pytest.mark.parametrize(("bits", "mapping", "signed"), WAYS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_the_error_is_within_its_bound_and_comes_near_it(bits, mapping, signed, dtype):
    x = torch.linspace(-1 if signed else 0, 1, 20_000, dtype=torch.float64)
    x[-1] = x[200] = 1.0
    x = (x * 3).to(dtype)
    found = quantize(x, bits, mapping, 20_000, signed=signed)
    error = float((found.dequantize().double() - x.double()).abs().max())
    assert found.dequantize().dtype == dtype
    assert error <= float(found.error_bound())
    if dtype.itemsize >= 4:  # others have no numbers near the middle of a gap
        assert error >= 0.95 * 3 * radius(bits, mapping, signed=signed)


@pytest.mark.parametrize("scale", [1e-300, 1e-44, 1e-30, 1e30])
@pytest.mark.parametrize(("bits", "mapping", "signed"), WAYS)
def test_any_scale_is_within_the_bound(scale, bits, mapping, signed):
    x = data(3, 300, signed=signed, dtype=torch.float64) * scale
    x[1] = 0.0
    found = quantize(x, bits, mapping, 64, signed=signed)
    error = (found.dequantize() - x).abs().flatten()
    bound = found.error_bound().double().repeat_interleave(64)[: x.numel()]
    assert bool((error <= bound).all())
    assert bool((found.dequantize()[1, 64:200] == 0).all())


def test_code_books_are_as_published():
    for bits in (4, 8):
        count = 2**bits
        square = []
        for j in range(count):  # equation 3 of 4-bit Shampoo
            line = -1 + 2 * j / (count - 1)
            square.append(0.0 if j == count // 2 - 1 else -(line**2) if j < count // 2 - 1 else line**2)
        assert code_book(bits, "linear_square") == pytest.approx(square)
        for signed in (True, False):
            tree = [0.0, 1.0]
            for i in range(bits - 1):
                edges = torch.linspace(0.1, 1, 2 ** (i + (not signed)) + 1, dtype=torch.float64)
                means = 10.0 ** (i - (bits - 2)) * (edges[:-1] + edges[1:]) / 2
                tree += means.tolist() + ((-means).tolist() if signed else [])
            assert code_book(bits, "dynamic", signed=signed) == pytest.approx(sorted(tree))
            for mapping in MAPPINGS:
                book = code_book(bits, mapping, signed=signed)
                assert 0.0 in book
                assert 1.0 in book
                assert len(book) == len(set(book)) == count - (mapping == "linear" and signed)


def test_single_entries_and_scalars():
    for x in (torch.tensor(-3.0), torch.tensor([5.0]), torch.zeros(2, 3), torch.arange(-4.0, 5.0)):
        for bits in (4, 8):
            found = quantize(x, bits, "linear", 64)
            assert found.dequantize().shape == x.shape
            assert bool(((found.dequantize() - x).abs() <= found.error_bound()).all())


def test_what_cannot_be_quantized_is_told():
    for wrong in (
        torch.tensor([1.0, torch.nan]),
        torch.tensor([torch.inf]),
        torch.ones(0),
        torch.ones(2, dtype=torch.int64),
        torch.ones(2, dtype=torch.complex64),
        torch.tensor([1e300], dtype=torch.float64),
        "tensor",
    ):
        with pytest.raises(BadInput, match="tensor must be"):
            quantize(wrong)
    with pytest.raises(BadInput, match="signed=False"):
        quantize(torch.tensor([1.0, -1.0]), signed=False)
    for wrong in ({"bits": 3}, {"mapping": "cubic"}, {"block": 0}, {"block": 2.5}):
        with pytest.raises(BadInput, match=next(iter(wrong))):
            quantize(torch.ones(3), **wrong)


def test_bjorck_repairs_quantized_eigenvectors():
    """Of a matrix of condition 1e4, whose fourth inverse root is then nearer than from the matrix in as many bits."""
    n = 200
    generator = torch.Generator().manual_seed(0)
    basis = torch.linalg.qr(torch.randn(n, n, dtype=torch.float64, generator=generator))[0]
    values = torch.logspace(0, -4, n, dtype=torch.float64)
    exact = (basis * values**-0.25) @ basis.mT
    rough = quantize(basis, 4, "linear_square", 64).dequantize()
    once, twice = bjorck(rough), bjorck(rough, steps=2)
    assert float(orthogonality(rough)) > 5 * float(orthogonality(once)) > 5 * float(orthogonality(twice))
    plain = rough
    plain = 1.5 * plain - 0.5 * plain @ plain.mT @ plain
    assert torch.allclose(once, plain)
    kept = (twice * values**-0.25) @ twice.mT
    matrix = quantize((basis * values) @ basis.mT, 4, "linear_square", 64).dequantize()
    w, v = torch.linalg.eigh((matrix + matrix.mT) / 2)
    alone = (v * w.clamp(min=1e-4) ** -0.25) @ v.mT
    assert (kept - exact).norm() < 0.3 * (alone - exact).norm()
    stacked = torch.stack([rough, rough])[None]
    assert torch.allclose(bjorck(stacked)[0, 1], once)
