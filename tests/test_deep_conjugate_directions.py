"""Conjugate directions from any map, against the paper's loop; and the training of such maps."""

import pytest
import torch

from nearly.core.errors import BadInput, NotConverged
from nearly.linalg.solve import conjugate_gradients, deep_conjugate_directions, train_approximate_inverse
from nearly.linalg.solve.approximate_inverse import _ritz_vectors


def gaussian(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def positive(side: int) -> torch.Tensor:
    basis = torch.linalg.qr(gaussian(side, side, seed=1))[0]
    return (basis * torch.logspace(0, 2, side, dtype=torch.float64)) @ basis.T


def crooked(rest: torch.Tensor) -> torch.Tensor:
    """Neither linear nor symmetric."""
    return rest + 0.3 * rest.roll(1, 0) + 0.2 * rest.abs()


def paper(matrix, right, propose, memory, steps):
    x, past = torch.zeros_like(right), []
    for _ in range(steps):
        rest = right - matrix @ x
        direction = propose(rest / rest.norm())
        new = direction.clone()
        for old in past[-memory:]:
            new = new - (direction @ matrix @ old) / (old @ matrix @ old) * old
        x = x + (rest @ new) / (new @ matrix @ new) * new
        past.append(new)
    return x


@pytest.mark.parametrize("memory", [1, 2, 4])
def test_it_takes_the_papers_steps(memory):
    matrix, right = positive(20), gaussian(20, 2)
    found = deep_conjugate_directions(matrix, right, crooked, memory=memory, iterations=8, check=False)
    for j in range(2):
        exact = paper(matrix, right[:, j], crooked, memory, 8)
        # The paper subtracts projections of f(r), which is the same as long as the directions are conjugate.
        torch.testing.assert_close(found.value[:, j], exact, atol=1e-6 if memory < 3 else 1e-3, rtol=1e-3)


def test_with_a_symmetric_inverse_it_is_conjugate_gradients():
    matrix, right = positive(30), gaussian(30, 3)
    inverse = torch.linalg.inv(matrix + torch.diag(torch.linspace(0, 5, 30, dtype=torch.float64)))
    for given in (None, inverse):
        deep = deep_conjugate_directions(matrix, right, given, tolerance=1e-6)
        plain = conjugate_gradients(matrix, right, preconditioner=given, tolerance=1e-6, block=False)
        assert int((deep.iterations - plain.iterations).abs().max()) <= 1
        torch.testing.assert_close(deep.value, plain.value, atol=1e-5, rtol=1e-5)


def test_the_energy_never_grows_whatever_is_proposed():
    matrix, right = positive(20), gaussian(20)
    exact = torch.linalg.solve(matrix, right)
    generator = torch.Generator().manual_seed(5)

    def anything(rest):
        return torch.randn(rest.shape, dtype=rest.dtype, generator=generator)

    before = float("inf")
    for steps in (5, 10, 20, 40):
        generator.manual_seed(5)
        found = deep_conjugate_directions(matrix, right, anything, iterations=steps, check=False)
        error = found.value - exact
        energy = float(error @ matrix @ error)
        assert energy <= before
        before = energy


def test_a_useless_proposal_is_told():
    with pytest.raises(NotConverged, match="no new direction"):
        deep_conjugate_directions(positive(6), gaussian(6), lambda rest: 0 * rest)
    with pytest.raises(BadInput, match="approximate_inverse"):
        deep_conjugate_directions(positive(6), gaussian(6), lambda rest: rest[:3])
    with pytest.raises(BadInput, match="memory"):
        deep_conjugate_directions(positive(6), gaussian(6), memory=0)


class Filter(torch.nn.Module):
    """A polynomial in a shift: a circulant inverse is one."""

    def __init__(self) -> None:
        super().__init__()
        self.weights = torch.nn.Parameter(torch.tensor([1.0, 0.0, 0.0, 0.0, 0.0, 0.0]))

    def forward(self, rest: torch.Tensor) -> torch.Tensor:
        rest = rest.to(self.weights)
        parts = [rest.roll(j, 0) + rest.roll(-j, 0) for j in range(len(self.weights))]
        return sum(w * part for w, part in zip(self.weights, parts, strict=True))


def test_training_finds_the_inverse_and_leaves_no_trace():
    line = 2.5 * torch.eye(32) - torch.eye(32).roll(1, 0) - torch.eye(32).roll(-1, 0)
    state = torch.random.get_rng_state()
    runs = []
    for _ in range(2):
        network = Filter()
        losses = train_approximate_inverse(network, line.double(), steps=300, rate=0.03, seed=4)
        runs.append(network.weights.detach())
    assert torch.equal(*runs)
    assert torch.equal(state, torch.random.get_rng_state())
    assert float(losses[-1]) < 0.1 * float(losses[0])
    right = gaussian(32, 2)
    deep = deep_conjugate_directions(line.double(), right, lambda r: network(r).detach())
    plain = conjugate_gradients(line.double(), right, block=False)
    assert int(deep.iterations.max()) < 0.5 * int(plain.iterations.max())


def test_the_loss_does_not_see_the_inverses_size():
    line = 2.5 * torch.eye(8) - torch.eye(8).roll(1, 0) - torch.eye(8).roll(-1, 0)
    losses = []
    for factor in (1.0, -30.0):
        network = Filter()
        network.weights.data *= factor
        losses.append(train_approximate_inverse(network, line, steps=1))
    torch.testing.assert_close(*losses)


def test_ritz_vectors_are_orthonormal_and_see_both_ends():
    matrix = positive(60)
    found = _ritz_vectors(matrix, 30, torch.Generator().manual_seed(0))
    torch.testing.assert_close(found.T @ found, torch.eye(30, dtype=torch.float64), atol=1e-10, rtol=0)
    small = found.T @ matrix @ found
    torch.testing.assert_close(small, torch.diag(small.diagonal()), atol=1e-8, rtol=0)
    assert bool((small.diagonal().diff() > 0).all())
    assert abs(float(small[-1, -1]) - 100) < 1e-6
    few = _ritz_vectors(torch.diag(torch.tensor([1.0, 1.0, 2.0, 2.0])).double(), 4, torch.Generator().manual_seed(0))
    assert few.shape == (4, 2)  # the Krylov space is no larger


def test_training_refuses_by_name():
    for name, network, extra in (
        ("network", torch.nn.Identity(), {}),
        ("steps", Filter(), {"steps": 0}),
        ("rate", Filter(), {"rate": 0.0}),
        ("matrix", Filter(), {"matrix": torch.eye(4).expand(2, 4, 4)}),
    ):
        with pytest.raises(BadInput) as caught:
            train_approximate_inverse(network, **{"matrix": torch.eye(4), **extra})
        assert caught.value.argument == name
