"""The second device refuses what an accelerator refuses, computes what the host computes, and counts what passes."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from nearly.testing import elsewhere

HOST = torch.tensor([3.0, 1.0, 2.0])
REFUSED = {
    "tensors of both": lambda x: x + HOST,
    "a number of the host in a product": lambda x: torch.stack([x.sum(), HOST.sum()]),
    "a factor of the host": lambda x: torch.ones(3, 3) @ x,
    "a generator of the host": lambda x: torch.randn(3, device=x.device, generator=torch.Generator()),
    "a draw in place from one": lambda x: x.normal_(generator=torch.Generator()),
    "values of the host at places": lambda x: x.index_put_((torch.tensor([0, 1]),), HOST[:2]),
    "products of integers": lambda x: x.long() @ x.long(),
    "least squares by singular values": lambda x: torch.linalg.lstsq(x.diag(), x[:, None], driver="gelsd"),
    "a view of NumPy": lambda x: x.numpy(),
    "a copy of NumPy": lambda x: np.asarray(x),
}
# What each gives, how often the host waits, and what is sent.
COUNTED = {
    "elementwise": (lambda x: 2 * x, 0, 0),
    "with a number of the host": (lambda x: x * torch.tensor(2.0), 0, 0),
    "a choice with a number of the host": (lambda x: torch.where(x > 1, x, torch.tensor(0.0)), 0, 0),
    "places of the host": (lambda x: x[torch.tensor([0, 2])], 0, 1),
    "places in a list": (lambda x: x[None][:, [0, 2]], 0, 1),
    "no places": (lambda x: x[[]], 0, 1),
    "a mask": (lambda x: x[x > 1], 1, 0),
    "where it is not zero": (lambda x: x.nonzero(), 1, 0),
    "a number": (lambda x: float(x.sum()), 1, 0),
    "a list": (lambda x: x.tolist(), 1, 0),
    "a truth value": (lambda x: bool((x > 0).all()), 1, 0),
    "a copy on the host": (lambda x: x.cpu(), 1, 0),
    "a copy into a tensor of the host": (lambda x: torch.empty(3).copy_(x), 1, 0),
    "a copy from the host": (lambda x: torch.empty_like(x).copy_(HOST), 0, 1),
    "new numbers": (lambda x: x.new_tensor([1.0, 2.0]), 0, 1),
    "numbers there": (lambda x: torch.tensor([1.0, 2.0], device=x.device), 0, 1),
    "zeros of a shape of the host": (lambda x: torch.zeros_like(HOST, device=x.device), 0, 0),
    "one number everywhere": (lambda x: torch.full((3,), 2.0, device=x.device), 0, 0),
    "a linear system": (lambda x: torch.linalg.solve(x.diag(), x), 1, 0),
    "eigenvectors": (lambda x: torch.linalg.eigh(x.diag())[0], 1, 0),
    "a sparse product": (lambda x: x.diag().to_sparse() @ x, 0, 0),
    "second derivatives": (lambda x: torch.func.jacrev(torch.func.jacrev(lambda y: (y**3).sum()))(x), 0, 0),
    "a view written to": (lambda x: (copied := x.clone(), copied[1:].add_(1.0))[0], 0, 0),
}


@pytest.mark.parametrize("name", REFUSED)
def test_it_refuses_what_an_accelerator_refuses(name):
    with elsewhere() as traffic, pytest.raises(RuntimeError):
        REFUSED[name](HOST.to(traffic.device))


@pytest.mark.parametrize("name", COUNTED)
def test_it_computes_as_the_host_and_counts(name):
    compute, reads, sent = COUNTED[name]
    expected = compute(HOST.clone())
    with elsewhere() as traffic:
        x = HOST.to(traffic.device)
        assert traffic.sent == 1
        found = compute(x)
        assert (traffic.reads, traffic.sent) == (reads, 1 + sent)
        if isinstance(found, torch.Tensor) and found.device == traffic.device:
            found = found.cpu()
    if isinstance(expected, torch.Tensor):
        assert torch.equal(found, expected)
    else:
        assert found == expected


CONJUGATES = {
    "a sum with one": lambda x: x + x.mH,
    "a product in memory at hand": lambda x: torch.mul(x.conj(), x, out=torch.empty_like(x)),
    "the negative part of one": lambda x: x.conj().imag + x.real,
    "one written to": lambda x: (copied := x.clone(), copied.conj().add_(1j))[0],
    "one on the host": lambda x: x.mH.cpu() * 1,
    "one within an operation": lambda x: torch.linalg.pinv(x[:2]),
}


@pytest.mark.parametrize("name", CONJUGATES)
def test_conjugates_wait_to_be_computed_as_on_the_host(name):
    x = torch.complex(HOST.outer(HOST), HOST[:, None] - 2 * HOST)
    expected = CONJUGATES[name](x)
    with elsewhere() as traffic:
        assert torch.equal(CONJUGATES[name](x.to(traffic.device)).cpu(), expected)
        assert torch.equal(CONJUGATES[name](x), expected)


def test_a_network_trains_there_as_on_the_host():
    module = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.linspace(-1, 1, parameter.numel()).view_as(parameter))

    def trained(module, x):
        optimizer = torch.optim.Adam(module.parameters(), lr=0.1)
        for _ in range(3):
            optimizer.zero_grad()
            module(x).square().sum().backward()
            optimizer.step()
        return [parameter.detach().cpu() for parameter in module.parameters()]

    with elsewhere() as traffic:
        there = trained(copy.deepcopy(module).to(traffic.device), HOST.to(traffic.device))
    assert all(torch.equal(a, b) for a, b in zip(there, trained(module, HOST), strict=True))


def test_data_in_place_of_others_are_the_new_ones():
    with elsewhere() as traffic:
        parameter = nn.Parameter(HOST.to(traffic.device))
        parameter.data = parameter.data.double()
        assert parameter.detach().cpu().dtype == torch.float64


def test_it_is_no_accelerator_and_leaves_no_mode_behind():
    before = torch.accelerator.is_available()
    with elsewhere():
        pass
    with torch.random.fork_rng():
        pass
    assert torch.accelerator.is_available() == before
    with pytest.raises(NotImplementedError):
        torch.ones(3, device="elsewhere")
