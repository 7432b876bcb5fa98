"""What the base of optimizers does for all members."""

import copy
import gc

import pytest
import torch
from torch import nn

from nearly.core.errors import BadInput
from nearly.optim import KFAC, AdaHessian, AdamW, Muon, held_bytes
from nearly.optim._chunks import PIECE
from nearly.optim._matrices import each_matrix
from nearly.optim.optimizer import Optimizer
from nearly.optim.transforms import ClipNorm, ClipRMS, Moments, Momentum, RMSAlign, SecondMoment, Sign, TrustRatio

CARD = {"name": "Any", "needs": [], "parameters": {"lr": ["at least", 0, None]}}


def chain(*transforms):
    class Chain(Optimizer):
        card = CARD

        def __init__(self, params, *, lr=1.0, **options):
            super().__init__(params, {"lr": lr}, **options)

        def recipe(self, group):
            return transforms

    Chain.card = CARD
    return Chain


def normal(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def updates(transforms, gradients, start=None):
    """What some steps with these gradients subtract from parameters that start at zero."""
    parameters = [nn.Parameter(torch.zeros_like(one)) for one in gradients[0]]
    optimizer = chain(*transforms)(parameters)
    found = []
    for row in gradients:
        before = [one.detach().clone() for one in parameters]
        for parameter, gradient in zip(parameters, row, strict=True):
            parameter.grad = gradient.clone()
        optimizer.step()
        found.append([a - b.detach() for a, b in zip(before, parameters, strict=True)])
    return found


def test_adamw_takes_the_steps_of_torch():
    module = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 2)).double()
    other = copy.deepcopy(module)
    x = normal(20, 5)
    settings = {"lr": 1e-2, "betas": (0.8, 0.95), "eps": 1e-6, "weight_decay": 0.1}
    ours = AdamW([{"params": module[0].parameters(), "lr": 3e-2}, {"params": module[2].parameters()}], **settings)
    theirs = torch.optim.AdamW(
        [{"params": other[0].parameters(), "lr": 3e-2}, {"params": other[2].parameters()}], **settings
    )
    for model, optimizer in ((module, ours), (other, theirs)):
        for _ in range(10):
            optimizer.zero_grad()
            (model(x) - 1).square().mean().backward()
            optimizer.step()
    for a, b in zip(module.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("average", [False, True])
@pytest.mark.parametrize("nesterov", [False, True])
def test_momentum_is_as_defined(average, nesterov):
    gradients = [[normal(4, seed=i)] for i in range(3)]
    mean = torch.zeros(4, dtype=torch.float64)
    weight = 0.2 if average else 1.0
    for (gradient,), (found,) in zip(
        gradients, updates([Momentum(0.8, nesterov=nesterov, average=average)], gradients), strict=True
    ):
        mean = 0.8 * mean + weight * gradient
        torch.testing.assert_close(found, weight * gradient + 0.8 * mean if nesterov else mean)


def test_second_moments_are_as_defined():
    gradients = [[normal(4, seed=i)] for i in range(3)]
    square = torch.zeros(4, dtype=torch.float64)
    for t, ((gradient,), (found,)) in enumerate(
        zip(gradients, updates([SecondMoment(0.9, 1e-3)], gradients), strict=True), 1
    ):
        square = 0.9 * square + 0.1 * gradient**2
        torch.testing.assert_close(found, gradient / ((square / (1 - 0.9**t)).sqrt() + 1e-3))


def test_sizes_are_as_defined():
    rows = [[normal(4, 3), 1e-3 * normal(5)]]
    big, small = rows[0]
    (found,) = updates([Sign()], rows)
    torch.testing.assert_close(found[0], big.sign())
    (found,) = updates([RMSAlign(0.2)], rows)
    torch.testing.assert_close(found[1].square().mean().sqrt(), torch.tensor(0.2, dtype=torch.float64))
    (found,) = updates([ClipRMS(0.5)], rows)
    torch.testing.assert_close(found[0].square().mean().sqrt(), torch.tensor(0.5, dtype=torch.float64))
    torch.testing.assert_close(found[1], small)
    (found,) = updates([ClipNorm(0.1)], rows)
    torch.testing.assert_close(found[0] / big, torch.full_like(big, 0.1 / torch.cat([big.ravel(), small]).norm()))


def test_pieces_change_nothing():
    shapes = [(3,), (PIECE + 5,), (7, 11), (2 * PIECE,), (40, 50)]
    gradients = [[normal(*shape, seed=i) for shape in shapes] for i in range(2)]

    class Whole(Sign):
        elementwise = False

    once, pieces = (
        updates([Momentum(0.9, nesterov=True), SecondMoment(), last], gradients) for last in (Whole(), Sign())
    )
    for a, b in zip(once, pieces, strict=True):
        for x, y in zip(a, b, strict=True):
            torch.testing.assert_close(x, y, rtol=1e-12, atol=0)


def test_equal_shapes_come_in_one_batch():
    seen = []

    def function(batch):
        seen.append(tuple(batch.shape))
        return 2 * batch

    given = [normal(3, 4), normal(4, 3), normal(3, 4, seed=1), normal(2, 3, 2, 2)]
    for found, one in zip(each_matrix(function, given), given, strict=True):
        torch.testing.assert_close(found, 2 * one)
    assert sorted(seen) == [(1, 2, 12), (1, 4, 3), (2, 3, 4)]


def test_what_a_member_does_not_take_goes_to_adamw():
    module = nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 3))
    reference = copy.deepcopy(module)
    groups = [{"params": module[0].parameters(), "rest": True}, {"params": module[1].parameters()}]
    settings = {"lr": 0.1, "betas": (0.9, 0.95), "eps": 1e-10, "weight_decay": 0.0}
    ours = Muon(groups, lr=0.02, rest={"lr": 0.1})
    theirs = torch.optim.AdamW([reference[0].weight, reference[1].bias], **settings)
    for model, optimizer in ((module, ours), (reference, theirs)):
        for _ in range(3):
            model.zero_grad()
            with torch.no_grad():
                model[1].weight.copy_(torch.eye(3, 4))  # so that both see the same gradients
            model(torch.arange(5)).square().sum().backward()
            optimizer.step()
    for name in ("0.weight", "1.bias"):
        torch.testing.assert_close(module.get_parameter(name), reference.get_parameter(name))
    assert [group["rest"] for group in ours.param_groups] == [True, False, True]


def test_an_unknown_setting_of_the_rest_is_refused():
    with pytest.raises(BadInput, match="rest"):
        Muon([nn.Parameter(torch.ones(2, 2))], rest={"rate": 1.0})
    with pytest.raises(BadInput, match="rest_lr"):
        Muon([nn.Parameter(torch.ones(2, 2))], rest_lr=1.0)


def test_a_closure_need_not_call_backward():
    x = nn.Parameter(torch.ones(3))
    optimizer = AdamW([x], lr=0.1, weight_decay=0.0)
    loss = optimizer.step(lambda: x.square().sum())
    assert float(loss) == 3.0
    torch.testing.assert_close(x.detach(), torch.full((3,), 0.9))


def test_large_finite_gradients_are_taken():
    x = nn.Parameter(torch.ones(3))
    optimizer = AdamW([x], lr=0.1)
    x.grad = torch.full((3,), 1e30)  # whose squares overflow
    optimizer.step()
    assert bool(torch.isfinite(x).all())


def test_sparse_gradients_are_refused():
    module = nn.Embedding(4, 2, sparse=True)
    optimizer = AdamW(module.parameters())
    module(torch.tensor([1])).sum().backward()
    with pytest.raises(BadInput, match="dense"):
        optimizer.step()


def test_a_bare_module_or_a_wrong_option_is_refused():
    with pytest.raises(BadInput, match="module"):
        AdamW(nn.Linear(2, 2))
    with pytest.raises(BadInput, match="learning_rate"):
        AdamW(nn.Linear(2, 2).parameters(), learning_rate=1.0)


def test_a_copy_continues_as_the_original():
    module = nn.Linear(3, 2)
    optimizer = Muon(module.named_parameters())
    pair = copy.deepcopy((module, optimizer))
    for model, one in ((module, optimizer), pair):
        model(torch.ones(1, 3)).sum().backward()
        one.step()
    assert torch.equal(module.weight, pair[0].weight)


def test_a_moment_moves_parameters_as_its_direction_says():
    class Apart(Moments):
        descend = None

    gradients = [[normal(4, 3, seed=i), normal(5, seed=i)] for i in range(3)]
    together, apart = (updates([one((0.9, 0.99))], gradients) for one in (Moments, Apart))
    for a, b in zip(together, apart, strict=True):
        for x, y in zip(a, b, strict=True):
            torch.testing.assert_close(x, y)


def test_moments_in_a_byte_train_as_those_in_four():
    start, target = normal(80, 80).float(), normal(80, 80, seed=1).float()
    found = {}
    for bits in (32, 8):
        parameters = [nn.Parameter(start.clone()), nn.Parameter(torch.zeros(5))]
        optimizer = AdamW(parameters, lr=0.05, bits=bits)
        for _ in range(60):
            optimizer.zero_grad()
            ((parameters[0] - target).square().sum() + (parameters[1] - 1).square().sum()).backward()
            optimizer.step()
        found[bits] = parameters[0].detach(), held_bytes(optimizer)
    gap = (found[8][0] - found[32][0]).norm() / (found[32][0] - start).norm()
    assert float(gap) < 0.05
    assert found[8][1] == 2 * (6400 + 4 * 25) + 2 * 4 * 5
    assert found[32][1] == 8 * 6405


def test_a_resumed_run_keeps_its_bytes():
    start = normal(70, 70).float()
    runs = []
    for stop in (False, True):
        parameter = nn.Parameter(start.clone())
        optimizer = AdamW([parameter], lr=0.05, bits=8)
        for step in range(6):
            if stop and step == 3:
                state = optimizer.state_dict()
                optimizer = AdamW([parameter], lr=0.05, bits=8)
                optimizer.load_state_dict(state)
            parameter.grad = normal(70, 70, seed=step).float()
            optimizer.step()
        assert {value.dtype for value in optimizer.state[parameter].values() if isinstance(value, torch.Tensor)} == {
            torch.uint8,
            torch.float32,
        }
        runs.append(parameter.detach())
    assert torch.equal(*runs)


def test_trust_ratios_are_as_defined():
    parameters = [
        nn.Parameter(normal(4, 3)),
        nn.Parameter(torch.zeros(2, dtype=torch.float64)),
        nn.Parameter(100 * normal(3)),
    ]
    rows = [normal(4, 3, seed=1), normal(2, seed=2), normal(3, seed=3)]
    before = [one.detach().clone() for one in parameters]
    optimizer = chain(TrustRatio(10.0))(parameters)
    for parameter, row in zip(parameters, rows, strict=True):
        parameter.grad = row.clone()
    optimizer.step()
    moved = [a - b.detach() for a, b in zip(before, parameters, strict=True)]
    torch.testing.assert_close(moved[0], rows[0] * before[0].norm() / rows[0].norm())
    torch.testing.assert_close(moved[1], rows[1])
    torch.testing.assert_close(moved[2], 10 * rows[2])


def test_a_refused_step_leaves_no_records_of_layers():
    module = nn.Linear(3, 2)
    optimizer = KFAC(module.named_parameters(), module=module)
    module(torch.full((4, 3), torch.nan)).sum().backward()
    with pytest.raises(BadInput):
        optimizer.step()
    optimizer.zero_grad()
    module(torch.ones(5, 3)).square().sum().backward()
    optimizer.step()  # two passes' rows together would hold NaN
    assert bool(torch.isfinite(module.weight).all())


def test_a_group_left_to_adamw_keeps_its_own_rate():
    matrix, embedding, bias = (nn.Parameter(torch.ones(shape)) for shape in ((3, 3), (4, 2), (3,)))
    groups = [{"params": [embedding], "rest": True, "lr": 0.5}, {"params": [matrix, bias], "lr": 0.2}]
    found = Muon(groups, rest={"lr": 0.1, "eps": 1e-6}).param_groups
    assert [(group["rest"], group["lr"]) for group in found] == [(True, 0.5), (False, 0.2), (True, 0.1)]
    assert [group["eps"] for group in found if group["rest"]] == [1e-6, 1e-6]


def test_hooks_end_with_their_optimizer():
    module = nn.Linear(3, 2)
    optimizer = KFAC(module.named_parameters(), module=module)
    assert module._forward_hooks
    del optimizer
    gc.collect()
    assert not module._forward_hooks
    optimizer = KFAC(module.named_parameters(), module=module)
    optimizer.close()
    assert not module._forward_hooks


def test_a_copy_records_its_own_layers():
    module = nn.Linear(3, 2)
    optimizer = KFAC(module.named_parameters(), module=module)
    pair = copy.deepcopy((module, optimizer))
    for model, one in ((module, optimizer), pair):
        model(torch.ones(4, 3)).square().sum().backward()
        one.step()
    assert torch.equal(module.weight, pair[0].weight)
    pair[0](torch.ones(4, 3)).sum().backward()
    module.weight.grad = torch.ones(2, 3)
    with pytest.raises(BadInput, match="module"):  # the copy's pass is none of its own
        optimizer.step()


@pytest.mark.parametrize("choice", ["raise", "skip"])
def test_second_derivatives_that_are_no_numbers_change_nothing(choice):
    x = nn.Parameter(torch.tensor([0.0, 1.0]))
    optimizer = AdaHessian([x], nonfinite=choice)

    def closure():  # |x|^(3/2) has a derivative at zero, but no second one
        return (x.abs() ** 1.5).sum()

    if choice == "raise":
        with pytest.raises(BadInput, match="second derivatives"):
            optimizer.step(closure)
    else:
        optimizer.step(closure)
    assert x.tolist() == [0.0, 1.0]
    assert "step" not in optimizer.state[x]


def test_parameters_of_other_ages_get_the_curvature_that_they_ask_for():
    x, late = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    optimizer = AdaHessian([x, late], every=2)
    for step in range(4):
        optimizer.step(lambda: x.square().sum() + (late.square().sum() if step else 0.0))  # noqa: B023
    assert [optimizer.state[one]["step"] for one in (x, late)] == [4, 3]
