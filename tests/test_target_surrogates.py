"""Members that take several steps for one round of gradients: surrogates of outputs, and steps ahead along predicted gradients."""

from itertools import pairwise

import pytest
import torch
from torch import nn

from nearly.core.errors import BadInput
from nearly.optim import OptEx, TargetSurrogate
from nearly.optim._targets import Targets
from nearly.optim.few_gradients.optex import predictor

DRAW = torch.Generator().manual_seed(0)
ROWS = torch.randn(20, 3, dtype=torch.float64, generator=DRAW)
LABELS = torch.randn(20, dtype=torch.float64, generator=DRAW)
START = torch.randn(3, dtype=torch.float64, generator=DRAW)


def outputs(x):
    return torch.tanh(ROWS @ x)


def fit(z):
    return (z - LABELS).square().mean()


@pytest.mark.parametrize("maximize", [False, True])
def test_target_surrogate_descends_by_armijo_on_the_papers_surrogate(maximize):
    sign, eta, c = -1.0 if maximize else 1.0, 0.3, 0.4
    x = nn.Parameter(START.clone())
    optimizer = TargetSurrogate([x], lr=eta, inner=3, decrease=c, maximize=maximize)
    theta, rate, tries = START.clone(), 1.0, 0
    for _ in range(4):
        loss = optimizer.step(lambda: (outputs(x), lambda z: sign * fit(z)))
        center = outputs(theta)
        assert float(loss) == pytest.approx(sign * float(fit(center)))
        slope = 2 * (center - LABELS) / 20

        def surrogate(y, center=center, slope=slope):
            away = outputs(y) - center
            return fit(center) + slope @ away + away.square().sum() / (2 * eta * 20)

        for _ in range(3):
            g = torch.func.grad(surrogate)(theta)
            while surrogate(theta - rate * g) > surrogate(theta) - c * rate * g @ g:
                rate, tries = rate / 2, tries + 1
            theta, rate = theta - rate * g, 2 * rate
        torch.testing.assert_close(x.detach(), theta)
    assert tries > 0


def test_target_surrogate_calls_the_loss_once_a_step():
    x, calls = nn.Parameter(START.clone()), []

    def counted(z):
        calls.append(z.requires_grad)
        return fit(z)

    optimizer = TargetSurrogate([x], lr=0.5, inner=10)
    for _ in range(3):
        optimizer.step(lambda: (outputs(x), counted))
    assert calls == [True] * 3


def test_target_surrogate_is_a_bound_at_the_right_rate():
    """The loss is 2 / n smooth in each output of n rows, so per row 2: at 1 / 2 the full-batch loss never rises."""
    x, losses = nn.Parameter(3 * START), []
    optimizer = TargetSurrogate([x], lr=0.5, inner=50)
    for _ in range(30):
        losses.append(float(optimizer.step(lambda: (outputs(x), fit))))
    assert all(b <= a * (1 + 1e-14) for a, b in pairwise(losses))


@pytest.mark.parametrize("bad", [1.0, torch.ones(2), (torch.ones(2), 3), (1.0, fit)])
def test_closures_that_show_no_outputs_are_refused_by_what_to_write(bad):
    with pytest.raises(BadInput, match=r"return outputs, lambda outputs: loss_function\(outputs, targets\)"):
        TargetSurrogate([nn.Parameter(START.clone())]).step(lambda: bad)


def test_gauss_newton_products():
    x, v = nn.Parameter(START.clone()), torch.linspace(-1, 2, 3, dtype=torch.float64)
    targets = Targets(lambda: (outputs(x), lambda z: (z**4).sum()), "Member")
    targets()
    jacobian = torch.func.jacrev(outputs)(START)
    wanted = jacobian.T @ (12 * outputs(START) ** 2 * (jacobian @ v))
    torch.testing.assert_close(targets.gauss_newton([v], [x])[0], wanted)


def quadratic(x):
    return (torch.linspace(1, 3, 3, dtype=torch.float64) * (x - 1) ** 2).sum() / 2


@pytest.mark.parametrize("parallel", [1, 3])
def test_optex_with_momentum(parallel):
    x = nn.Parameter(START.clone())
    optimizer = OptEx([x], lr=0.05, rule="sgd", parallel=parallel, history=5, betas=(0.8, 0.9), noise=1e-3)
    theta, momentum = START.clone(), torch.zeros(3, dtype=torch.float64)
    points, slopes = torch.zeros(0, 3, dtype=torch.float64), torch.zeros(0, 3, dtype=torch.float64)
    for _ in range(5):
        optimizer.step(lambda: quadratic(x))
        ahead, copy = [theta], momentum.clone()
        for _ in range(parallel - 1):
            guess = torch.zeros(3, dtype=torch.float64)
            if len(points):
                gram = (points[:, None] - points[None]).square().sum(-1)
                width = 9 * gram.max() if gram.max() > 0 else torch.tensor(1.0)
                near = (points - ahead[-1]).square().sum(-1)
                inverse = (torch.exp(-gram / width / 2) + 1e-3 * torch.eye(len(points), dtype=torch.float64)).inverse()
                guess = torch.exp(-near / width / 2) @ inverse @ slopes
            copy = 0.8 * copy + guess
            ahead.append(ahead[-1] - 0.05 * copy)
        true = torch.stack([torch.func.grad(quadratic)(point) for point in ahead])
        for gradient in true:
            momentum = 0.8 * momentum + gradient
        theta = ahead[-1] - 0.05 * momentum
        points, slopes = torch.cat([points, torch.stack(ahead)])[-5:], torch.cat([slopes, true])[-5:]
        torch.testing.assert_close(x.detach(), theta, rtol=1e-7, atol=1e-9)


def test_optex_of_one_step_is_adam():
    ours, theirs = nn.Parameter(START.clone()), nn.Parameter(START.clone())
    optimizer, adam = OptEx([ours], lr=0.1, parallel=1), torch.optim.Adam([theirs], lr=0.1)
    for _ in range(6):
        optimizer.step(lambda: quadratic(ours))
        adam.zero_grad()
        quadratic(theirs).backward()
        adam.step()
        torch.testing.assert_close(ours, theirs)


def test_predictions_pass_through_what_was_seen():
    points = torch.randn(6, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    slopes = points**2
    predict = predictor(points, slopes, 1e-12)
    for point, slope in zip(points, slopes, strict=True):
        torch.testing.assert_close(predict(point), slope, rtol=1e-5, atol=1e-5)
    assert bool((predictor(points[:0], slopes[:0], 1e-6)(points[0]) == 0).all())


def _rank(rank, size, store, queue):
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=size)
    x, calls = nn.Parameter(START.clone()), 0
    group = torch.distributed.group.WORLD if size > 1 else None
    optimizer = OptEx([x], lr=0.1, parallel=5, **({"process_group": group} if group else {}))

    def closure():
        nonlocal calls
        calls += 1
        return quadratic(x)

    for _ in range(4):
        optimizer.step(closure)
    queue.put((rank, x.tolist(), calls))
    torch.distributed.destroy_process_group()


def test_optex_shares_gradients_out_over_ranks(tmp_path):
    context = torch.multiprocessing.get_context("fork")
    found = {}
    for size in (1, 2):
        queue = context.Queue()
        ranks = [context.Process(target=_rank, args=(r, size, tmp_path / str(size), queue)) for r in range(size)]
        for process in ranks:
            process.start()
        found[size] = sorted(queue.get(timeout=60) for _ in ranks)
        for process in ranks:
            process.join(60)
            assert process.exitcode == 0
    alone = found[1][0]
    assert alone[2] == 20
    for _, x, calls in found[2]:
        assert x == pytest.approx(alone[1], rel=1e-12)
        assert calls == 12
