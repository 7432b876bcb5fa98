"""Shampoo and its parts against what the papers write, in 32 and in 4 bits."""

import pytest
import torch
from torch import nn

from nearly.core.errors import BadInput
from nearly.linalg.orthogonalize import bjorck
from nearly.linalg.quantize import quantize
from nearly.optim import QuantizedShampoo, Shampoo, held_bytes
from nearly.optim.matrices.quantized_shampoo import FORMAT
from nearly.optim.transforms.kronecker import blocks, whole


def normal(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def stepped(make, gradients):
    """A parameter, zero at first, after each of some steps."""
    parameter = nn.Parameter(torch.zeros_like(gradients[0]))
    optimizer, found = make([parameter]), []
    for gradient in gradients:
        parameter.grad = gradient.clone()
        optimizer.step()
        found.append(parameter.detach().clone())
    return found, optimizer


def inverse_fourth_root(matrix):
    values, vectors = torch.linalg.eigh(matrix)
    return vectors @ torch.diag(values**-0.25) @ vectors.T


def ridged(matrix, ridge, damping=0.0):
    eye = torch.eye(len(matrix), dtype=torch.float64)
    return matrix + damping * eye + ridge * (matrix + damping * eye).norm() * eye


@pytest.mark.parametrize("graft", ["none", "gradient", "rmsprop", "adam"])
def test_steps_are_those_of_the_paper(graft):
    gradients = [normal(4, 3, seed=i) for i in range(9)]
    beta, decay, ridge, damping, eps, rate, shrink = 0.7, 0.9, 1e-4, 1e-3, 1e-6, 0.3, 0.1
    found, _ = stepped(
        lambda p: Shampoo(
            p, lr=rate, betas=(beta, decay), graft=graft, every=3, ridge=ridge, damping=damping, eps=eps,
            weight_decay=shrink,
        ),
        gradients,
    )  # fmt: skip
    x, momentum, left, right, square, mean = (
        torch.zeros(*s, dtype=torch.float64) for s in ((4, 3), (4, 3), (4, 4), (3, 3), (4, 3), (4, 3))
    )
    for t, gradient in enumerate(gradients, 1):
        left = decay * left + (1 - decay) * gradient @ gradient.T
        right = decay * right + (1 - decay) * gradient.T @ gradient
        if t in (1, 2, 3, 6, 9):
            a = inverse_fourth_root(ridged(left / (1 - decay**t), ridge, damping))
            b = inverse_fourth_root(ridged(right / (1 - decay**t), ridge, damping))
        direction = a @ gradient @ b
        square = decay * square + (1 - decay) * gradient**2
        mean = beta * mean + (1 - beta) * gradient
        root = (square / (1 - decay**t)).sqrt() + eps
        sizes = {"gradient": gradient, "rmsprop": gradient / root, "adam": mean / (1 - beta**t) / root}
        if graft != "none":
            direction = direction * sizes[graft].norm() / direction.norm()
        momentum = beta * momentum + (1 - beta) * direction
        x = (1 - rate * shrink) * x - rate * momentum
        torch.testing.assert_close(found[t - 1], x, rtol=1e-9, atol=1e-12)


def test_first_step_of_rank_one_has_norm_one():
    gradient = 1e-3 * torch.outer(normal(6), normal(4, seed=1))
    (found,), _ = stepped(
        lambda p: Shampoo(p, lr=1.0, betas=(0.0, 0.99), graft="none", ridge=1e-12, weight_decay=0.0), [gradient]
    )
    assert float(torch.linalg.matrix_norm(found, 2)) == pytest.approx(1.0, rel=1e-6)


@pytest.mark.parametrize("shape", [(7, 5), (5, 2, 3), (2, 3, 4, 2), (4, 4), (1, 9)])
def test_blocks_are_put_together(shape):
    tensor = normal(*shape)
    pieces = blocks(tensor, 3)
    assert max(pieces.shape[1:]) <= 3
    torch.testing.assert_close(whole(pieces, tensor), tensor, rtol=0, atol=0)


def test_tensors_of_many_axes_are_parted_where_their_factors_are_smallest():
    gradients = [normal(3, 4, 2, 5, seed=i) for i in range(3)]
    found, _ = stepped(lambda p: Shampoo(p, lr=0.1), gradients)
    flat, _ = stepped(lambda p: Shampoo(p, lr=0.1), [g.reshape(12, 10) for g in gradients])
    torch.testing.assert_close(found[-1].reshape(12, 10), flat[-1], rtol=0, atol=0)


def test_blocks_have_factors_of_their_own():
    gradients = [normal(4, 6, seed=i) for i in range(3)]
    settings = {"lr": 0.1, "betas": (0.0, 0.9), "graft": "none", "every": 1, "weight_decay": 0.0}
    found, _ = stepped(lambda p: Shampoo(p, block=3, **settings), gradients)
    for rows in (slice(0, 2), slice(2, 4)):
        for columns in (slice(0, 3), slice(3, 6)):
            apart, _ = stepped(lambda p: Shampoo(p, **settings), [g[rows, columns] for g in gradients])
            torch.testing.assert_close(found[-1][rows, columns], apart[-1])


def test_uneven_blocks_descend():
    target = normal(7, 5)
    parameter = nn.Parameter(torch.zeros(7, 5, dtype=torch.float64))
    optimizer = Shampoo([parameter], lr=0.05, block=3, every=2, weight_decay=0.0)
    for _ in range(60):
        optimizer.zero_grad()
        (parameter - target).square().mean().backward()
        optimizer.step()
    assert float((parameter - target).norm().detach()) < 0.3 * float(target.norm())


def test_quantized_steps_are_those_of_the_paper():
    gradients = [normal(8, 8, seed=i) for i in range(6)]
    decay, ridge, rate = 0.8, 1e-4, 0.3
    found, _ = stepped(
        lambda p: QuantizedShampoo(
            p, lr=rate, betas=(0.0, 0.9), decay=decay, graft="gradient", every=3, ridge=ridge, weight_decay=0.0
        ),
        gradients,
    )

    def read(matrix):
        return quantize(matrix.contiguous(), **FORMAT).dequantize()

    x, vectors, values = torch.zeros(8, 8), [torch.zeros(8, 8)] * 2, [torch.zeros(8)] * 2
    roots = [torch.zeros(8, 8)] * 2
    for t, gradient in enumerate(gradients, 1):
        if t in (1, 2, 3, 6):
            for side, flat in enumerate((gradient, gradient.T)):
                repaired = bjorck(vectors[side], steps=1)
                moment = decay * repaired @ torch.diag(values[side]) @ repaired.T + (1 - decay) * flat @ flat.T
                values[side], basis = torch.linalg.eigh(moment)
                root = inverse_fourth_root(ridged(moment, ridge))
                vectors[side] = read(basis.T).T
                off = root - root.diag().diag()
                roots[side] = read(off) + root.diag().diag()
        direction = roots[0] @ gradient @ roots[1]
        x = x - rate * direction * gradient.norm() / direction.norm()
        torch.testing.assert_close(found[t - 1], x, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("member", [Shampoo, QuantizedShampoo])
def test_state_bytes_are_those_of_the_card(member):
    shapes = [(128, 64), (64, 64), (192, 128)]
    parameters = [nn.Parameter(torch.ones(shape)) for shape in shapes]
    optimizer = member(parameters)
    for i, parameter in enumerate(parameters):
        parameter.grad = normal(*parameter.shape, seed=i).float()
    optimizer.step()
    card = member.card["state"]["matrix"]
    sizes = [{"mn": m * n, "mm": m * m, "nn": n * n, "m": m, "n": n} for m, n in shapes]
    assert held_bytes(optimizer) == sum(size[term] * bytes_ for size in sizes for term, bytes_ in card.items())


def test_an_unknown_graft_is_refused():
    with pytest.raises(BadInput, match="graft"):
        Shampoo([nn.Parameter(torch.ones(2, 2))], graft="sgd")
    with pytest.raises(BadInput, match="graft"):
        QuantizedShampoo([nn.Parameter(torch.ones(2, 2))], graft="none")
