"""Optimizers, their comparison and their scaling rules among what else people train networks with."""

import copy
import io
import pickle

import pytest
import torch
from torch import nn

from nearly.core.errors import BadInput
from nearly.optim import (
    KFAC,
    Adafactor,
    AdaGradNorm,
    AdamW,
    Muon,
    QuantizedShampoo,
    Shampoo,
    peak_bytes,
)
from nearly.optim.scaling import coordinate_check, maximal_update

POINTS = torch.randn(64, 3, generator=torch.Generator().manual_seed(0))


def normal(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def perceptron(dtype=torch.float32):
    module = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)).to(dtype)
    with torch.no_grad():
        for seed, parameter in enumerate(module.parameters()):
            parameter.copy_(0.5 * normal(*parameter.shape, seed=seed))
    return module


def made(member, module, **settings):
    return member(module.parameters(), **settings, **({"module": module} if member is KFAC else {}))


def step(module, optimizer):
    optimizer.zero_grad()
    kind = module[0].weight.dtype
    (module(normal(8, 4, seed=9).to(kind)) - normal(8, 3, seed=10).to(kind)).square().mean().backward()
    optimizer.step()


def gap(first, second):
    pairs = zip(first.parameters(), second.parameters(), strict=True)
    return max(float((a - b).detach().abs().max()) for a, b in pairs)


# States, copies and their hooks.


@pytest.mark.parametrize("member", [AdamW, KFAC, AdaGradNorm])
def test_a_model_and_its_optimizer_can_be_pickled_and_copied(member):
    module = perceptron()
    optimizer = made(member, module)
    step(module, optimizer)
    assert pickle.dumps((module, optimizer))  # as processes and old checkpoints do; what they make of it is a copy
    other, twin = copy.deepcopy((module, optimizer))
    for pair in ((module, optimizer), (other, twin)):
        step(*pair)
    assert gap(module, other) == 0


def test_a_copy_knows_its_own_layers():
    module = perceptron()
    optimizer = KFAC(module[0].parameters(), module=module)
    other, twin = copy.deepcopy((module, optimizer))
    twin.add_param_group({"params": [other[2].weight]})
    assert [group["rest"] for group in twin.param_groups] == [False, True, False]


@pytest.mark.parametrize("member", [AdamW, KFAC, AdaGradNorm])
def test_hooks_may_change_what_is_saved_and_taken_up(member):
    module, other = perceptron(), perceptron()
    optimizer, twin = made(member, module), made(member, other)
    step(module, optimizer)
    other.load_state_dict(module.state_dict())
    seen = []
    optimizer.register_state_dict_post_hook(lambda _, state: {"wrapped": state})
    twin.register_load_state_dict_pre_hook(lambda _, state: state["wrapped"])
    twin.register_load_state_dict_post_hook(lambda one: seen.append(one.state_dict()["param_groups"][0]["shapes"]))
    saved = optimizer.state_dict()
    assert saved.keys() == {"wrapped"}
    twin.load_state_dict(saved)
    assert seen == [[tuple(one.shape) for one in twin.param_groups[0]["params"]]]
    for pair in ((module, optimizer), (other, twin)):
        step(*pair)
    assert gap(module, other) == 0
    assert len(twin._optimizer_load_state_dict_pre_hooks) == 1  # the user's own
    with pytest.raises(BadInput, match="state_dict"):
        twin.load_state_dict(3)


def test_all_that_is_kept_is_of_a_parameter():
    module = perceptron()
    optimizer = AdaGradNorm(module.parameters())
    step(module, optimizer)
    assert set(optimizer.state_dict()["state"]) <= set(range(4))  # distributed checkpoints know no others
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    other, twin = copy.deepcopy(module), AdaGradNorm([torch.nn.Parameter(one.detach()) for one in module.parameters()])
    twin.load_state_dict(torch.load(file, weights_only=True))
    found = twin.state_dict()["state"][0]["shared"]["total"]
    assert found == optimizer.state_dict()["state"][0]["shared"]["total"] > 0
    assert gap(other, module) == 0


def test_a_group_is_added_whole_or_not_at_all():
    module = perceptron()
    optimizer = Muon(module[0].parameters())
    with pytest.raises(BadInput, match=r"params\[1\]"):
        optimizer.add_param_group({"params": [module[2].weight, module[0].bias]})
    assert len(optimizer.param_groups) == 2


# Gradients.


@pytest.mark.parametrize("member", [AdamW, Muon, Adafactor, Shampoo, KFAC])
def test_gradients_of_another_precision_are_taken(member):
    module, other = perceptron(), perceptron()
    optimizer, twin = made(member, module), made(member, other)
    for parameter in module.parameters():
        parameter.grad_dtype = torch.bfloat16
    for _ in range(2):
        for one in (module, other):
            one.zero_grad()
            (one(normal(8, 4, seed=9)) - normal(8, 3, seed=10)).square().mean().backward()
        for mine, its in zip(module.parameters(), other.parameters(), strict=True):
            its.grad = mine.grad.float()
        optimizer.step()
        twin.step()
    assert gap(module, other) < 1e-6


@pytest.mark.parametrize("member", [QuantizedShampoo, Shampoo])
def test_half_precision_has_room_for_small_squares(member):
    x = nn.Parameter(torch.full((4, 4), 0.5, dtype=torch.float16))
    optimizer = member([x], lr=0.01)
    for scale in (1e-3, 1e-4, 1e-5):  # whose squares are zero there
        x.grad = torch.full_like(x, scale) * (1 + torch.arange(4))
        optimizer.step()
    assert bool(((x - 0.5).abs() < 0.1).all())
    assert bool((x < 0.5).all())


def test_gradients_of_zero_need_no_call_of_their_layer():
    module = perceptron()
    module.add_module("idle", nn.Linear(3, 3))
    optimizer = KFAC(module.parameters(), module=module)
    before = module.idle.weight.detach().clone()
    for parameter in module.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()  # as distributed checkpoints do to make room
    for _ in range(2):
        optimizer.zero_grad(set_to_none=False)
        module[:3](normal(8, 4)).square().mean().backward()
        optimizer.step()
    assert torch.equal(before, module.idle.weight)
    module.idle.weight.grad = torch.ones_like(before)
    module.zero_grad()
    module[0].weight.grad = torch.ones_like(module[0].weight)
    with pytest.raises(BadInput, match="no backward pass"):
        optimizer.step()


def test_gradients_of_closures_call_the_hooks_of_backward():
    x, other = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    seen = []
    x.register_post_accumulate_grad_hook(lambda one: seen.append(one.grad.tolist()))
    AdamW([x]).step(lambda: (x * x * other).sum())
    assert seen == [[2.0, 2.0]]
    assert other.grad is None


def test_adafactor_holds_two_copies_of_one_large_parameter_at_most():
    x = nn.Parameter(torch.ones(512, 512))
    optimizer = Adafactor([x])
    x.grad = torch.ones_like(x)
    optimizer.step()
    assert peak_bytes(optimizer.step) < 2.2 * 4 * x.numel()


@pytest.mark.parametrize("member", [AdamW, KFAC])
def test_lazy_layers_are_refused_until_they_are_called(member):
    module = nn.Sequential(nn.LazyLinear(3))
    with pytest.raises(BadInput, match="lazy"):
        made(member, module)
    module(torch.ones(1, 2))
    assert made(member, module).param_groups


# Scaling rules.


class Gained(nn.Linear):
    """With a gain for each output, that is no bias."""

    def __init__(self, inputs, outputs):
        super().__init__(inputs, outputs)
        self.gain = nn.Parameter(torch.ones(outputs))


@pytest.mark.parametrize(
    ("make", "kept"),
    [
        (lambda width: Gained(4, width), "gain"),
        (lambda width: nn.Embedding.from_pretrained(torch.ones(5, width)), "weight"),
        (lambda width: nn.Sequential(nn.Linear(4, width).requires_grad_(False)), "0.weight"),
    ],
)
def test_what_is_not_the_layers_own_to_draw_keeps_its_values(make, kept):
    model = make(32)
    before = model.get_parameter(kept).clone()
    scaled = maximal_update(model, make(8), family="adam", lr=0.1)
    assert torch.equal(before, model.get_parameter(kept))
    assert {row.name: row.std for row in scaled.rows}[kept] is None


@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
@pytest.mark.parametrize(
    "make",
    [
        lambda width: nn.utils.weight_norm(nn.Linear(4, width), dim=None),  # whose length would become zero
        lambda width: nn.utils.weight_norm(nn.Linear(4, width)),
        lambda width: nn.ConvTranspose2d(width, width, 3, groups=width),
    ],
)
def test_weights_that_no_rule_reads_ask_for_axes(make):
    model = make(32)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(BadInput, match="axes"):
        maximal_update(model, make(8), family="adam", lr=0.1)
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in before.items())


def test_recurrent_and_attention_weights_are_still_drawn():
    for make in (
        lambda width: nn.LSTM(3, width, 2, bidirectional=True, proj_size=2),
        lambda width: nn.GRUCell(3, width),
        lambda width: nn.MultiheadAttention(width, 2, kdim=width // 2),
    ):
        rows = maximal_update(make(32), make(8), family="adam", lr=0.1).rows
        assert all(row.std is not None for row in rows)


def test_scaling_of_lazy_layers_is_refused():
    with pytest.raises(BadInput, match="lazy"):
        maximal_update(nn.LazyLinear(8), nn.LazyLinear(4), family="adam", lr=0.1)


class Recurs(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.attention = nn.TransformerEncoderLayer(width, 2, width, dropout=0.0, batch_first=True)
        self.memory, self.last = nn.LSTM(width, width, batch_first=True), nn.Linear(width, 1)
        self.width = width

    def forward(self, rows):
        return self.last(self.memory(self.attention(rows[..., : self.width]))[0])


def test_coordinates_are_checked_of_what_has_tensors_for_outputs():
    batch = normal(2, 3, 8), torch.ones(2, 3, 1)

    def optimizer(model, seed):
        return torch.optim.Adam(maximal_update(model, Recurs(4), family="adam", lr=0.01, seed=seed).groups)

    def check(**options):
        return coordinate_check(
            lambda width, seed: Recurs(width), [4, 8], optimizer, batch, loss=nn.functional.mse_loss, **options
        )

    layers = check().layers
    assert {"last", "attention.linear1"} <= set(layers)
    assert not {"memory", "attention.self_attn.out_proj"} & set(layers)
    for name in ("memory", "attention.self_attn.out_proj"):
        with pytest.raises(BadInput, match="layers"):
            check(layers=[name])
