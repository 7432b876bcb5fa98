"""Row 244: adaptive steps for products of manifolds (Bécigneul, Ganea, arXiv 1810.00760).

A random tree of 200 nodes in the product of two Poincaré disks: pairs of a node and one of its ancestors are told from 10 random
nodes by the softmax of negative distances, batches of 100 pairs. AMSGrad's Riemannian form comes to the final loss of Riemannian
gradient descent in at most 0.7 of its 20 epochs (5 seeds, each rate the best of 4 on a seed of its own).
On lines its steps are AMSGrad's to 1e-10.

Broken variant, run inside: Euclidean AMSGrad, whose second moments ignore the metric, projected back into the ball, misses the bar.
"""

from __future__ import annotations

import torch

from nearly.linalg.manifolds import PoincareBall
from nearly.optim import RiemannianAdam

NODES, EPOCHS, BATCH, NEGATIVES, BALL = 200, 20, 100, 10, PoincareBall()


def tree():
    """Pairs of a node and one of its ancestors."""
    generator = torch.Generator().manual_seed(0)
    parents = [0] + [int(torch.randint(i, (), generator=generator)) for i in range(1, NODES)]
    pairs = []
    for node in range(1, NODES):
        at = node
        while at:
            at = parents[at]
            pairs.append((node, at))
    return torch.tensor(pairs)


PAIRS = tree()


def loss_of(points, pairs, others):
    """Softmax cross-entropy of negative product distances."""
    chosen = torch.cat([pairs[:, 1:], others], dim=1)
    distances = BALL.distance(points[pairs[:, :1]], points[chosen]).square().sum(dim=-1).clamp(min=1e-12).sqrt()
    return -(-distances).log_softmax(dim=1)[:, 0].mean()


def losses(method, rate, seed):
    """The loss on all pairs after each epoch."""
    generator = torch.Generator().manual_seed(seed)
    points = torch.nn.Parameter(1e-2 * torch.randn(NODES, 2, 2, dtype=torch.float64, generator=generator))
    fixed = torch.randint(NODES, (len(PAIRS), NEGATIVES), generator=torch.Generator().manual_seed(99))
    group = {"params": [points], "flat": method == "Euclidean"}
    optimizer = None if method == "descent" else RiemannianAdam([group], BALL, lr=rate, rule="amsgrad")
    found = []
    for _ in range(EPOCHS):
        for rows in torch.randperm(len(PAIRS), generator=generator).split(BATCH):
            others = torch.randint(NODES, (len(rows), NEGATIVES), generator=generator)
            (points.grad,) = torch.autograd.grad(loss_of(points, PAIRS[rows], others), points)
            with torch.no_grad():
                if optimizer is None:
                    points.copy_(BALL.retract(points, -rate * BALL.gradient(points, points.grad)))
                else:
                    optimizer.step()
                    if method == "Euclidean":
                        points.mul_((1 - 1e-5) / points.norm(dim=-1, keepdim=True).clamp(min=1 - 1e-5))
        with torch.no_grad():
            found.append(float(loss_of(points, PAIRS, fixed)))
    return found


def test_fewer_epochs_than_descent(record):
    rates = {"descent": [0.3, 1.0, 3.0, 10.0], "AMSGrad": [0.03, 0.1, 0.3, 1.0], "Euclidean": [0.01, 0.03, 0.1]}
    curves = {}
    for method, some in rates.items():
        rate = min(some, key=lambda rate: losses(method, rate, 100)[-1])
        found = torch.tensor([losses(method, rate, seed) for seed in range(5)])
        curves[method] = found.mean(dim=0)
    goal = float(curves["descent"][-1])
    epochs = {method: int((curve > goal).sum()) + 1 for method, curve in curves.items()}
    record(
        claim="epochs to descent's loss after 20",
        measured=epochs["AMSGrad"],
        baseline=f"Euclidean {epochs['Euclidean']}",
    )
    record(claim="final loss", measured=float(curves["AMSGrad"][-1]), baseline=goal)
    assert epochs["AMSGrad"] <= 0.7 * EPOCHS
    assert epochs["Euclidean"] > epochs["AMSGrad"]


def test_on_lines_it_is_amsgrad(record):
    x = torch.nn.Parameter(torch.linspace(-1, 1, 12, dtype=torch.float64))
    twin = torch.nn.Parameter(x.detach().clone())
    ours = RiemannianAdam([{"params": [x], "flat": True}], BALL, lr=0.1)
    theirs = torch.optim.Adam([twin], lr=0.1, amsgrad=True)
    for step in range(20):
        for one, optimizer in ((x, ours), (twin, theirs)):
            optimizer.zero_grad()
            (one - step / 10).square().sum().backward()
            optimizer.step()
    gap = float((x - twin).detach().abs().max())
    record(claim="gap to AMSGrad on lines after 20 steps", measured=gap, baseline="bar 1e-10")
    assert gap <= 1e-10
