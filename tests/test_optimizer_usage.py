"""Optimizers in training loops as people write them: where torch's own work, these do, or say by name why not."""

import copy
import io

import pytest
import torch
from torch import nn

from nearly.core.errors import BadInput
from nearly.optim import (
    KFAC,
    MKOR,
    PSGD,
    Adafactor,
    AdaHessian,
    AdamW,
    InverseFreeNaturalGradient,
    Muon,
    QuantizedShampoo,
    Shampoo,
    TargetSurrogate,
    TrustRegion,
    ZerothOrder,
)

OF_LAYERS = [KFAC, MKOR, InverseFreeNaturalGradient]
MEMBERS = [AdamW, Muon, Shampoo, QuantizedShampoo, Adafactor, AdaHessian, PSGD, ZerothOrder, *OF_LAYERS]


def normal(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


class Loop:
    """A perceptron and its training by a member."""

    def __init__(self, member, *, dtype=torch.float32, **settings):
        self.module = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)).to(dtype)
        with torch.no_grad():
            for seed, parameter in enumerate(self.module.parameters()):
                parameter.copy_(0.5 * normal(*parameter.shape, seed=seed))
        self.member = member
        self.optimizer = self.made(self.module.parameters(), **settings)

    def made(self, params, **settings):
        return self.member(params, **settings, **({"module": self.module} if self.member in OF_LAYERS else {}))

    def loss(self, rows=slice(None)):
        kind = self.module[0].weight.dtype
        return (self.module(normal(8, 4, seed=9)[rows].to(kind)) - normal(8, 3, seed=10)[rows].to(kind)).square().mean()

    def step(self, count=1):
        for _ in range(count):
            if self.member in (AdaHessian, PSGD, ZerothOrder):
                self.optimizer.step(self.loss)
            else:
                self.optimizer.zero_grad()
                self.loss().backward()
                self.optimizer.step()
        return self

    def take_up(self, other, state=None):
        self.module.load_state_dict(other.module.state_dict())
        self.optimizer.load_state_dict(other.optimizer.state_dict() if state is None else state)
        return self

    def gap(self, other):
        pairs = zip(self.module.parameters(), other.module.parameters(), strict=True)
        return max(float((a.double() - b.double()).detach().abs().max()) for a, b in pairs)


# Gradients and parameters lie in memory in other orders than one another.


@pytest.mark.parametrize("bits", [32, 8])
def test_adam_goes_by_entries_and_not_by_places_in_memory(bits):
    start, slope = normal(80, 60), normal(80, 60, seed=1)
    turned = start.T.contiguous().T  # of other strides
    apart = normal(80, 120)[:, ::2].copy_(start)  # with gaps
    layouts = {
        "all in order": (start.clone(), slope),
        "the gradient turned": (start.clone(), slope.T.contiguous().T),
        "the gradient with gaps": (start.clone(), normal(80, 120)[:, ::2].copy_(slope)),
        "the parameter turned": (turned, slope),
        "both turned": (turned.clone(), slope.T.contiguous().T),
        "the parameter with gaps": (apart, slope),
    }
    found = {}
    for name, (values, gradient) in layouts.items():
        parameter = nn.Parameter(values)
        optimizer = AdamW([parameter], lr=0.1, bits=bits)
        for _ in range(3):
            parameter.grad = gradient
            optimizer.step()
        found[name] = parameter.detach()
        assert not found[name].is_contiguous() or "the parameter" not in name
    for name, one in found.items():
        torch.testing.assert_close(one, found["all in order"], msg=lambda text, name=name: f"{name}: {text}")


def test_a_gradient_of_one_number_for_all_entries_is_that_for_each():
    x = nn.Parameter(torch.arange(6.0).reshape(2, 3))
    AdamW([x], lr=0.1, weight_decay=0.0).step(lambda: x.sum())  # torch expands a single 1
    torch.testing.assert_close(x.detach(), torch.arange(6.0).reshape(2, 3) - 0.1)


# Saved states.


@pytest.mark.parametrize("member", MEMBERS)
@pytest.mark.parametrize(
    ("before", "after"),
    [(torch.float32, torch.float64), (torch.float64, torch.float32), (torch.bfloat16, torch.float32)],
    ids=str,
)
def test_a_state_is_taken_up_in_another_precision(member, before, after):
    through = Loop(member, dtype=before).step(3)
    resumed = Loop(member, dtype=after).take_up(through)
    kinds = {one.dtype for kept in resumed.optimizer.state.values() for one in kept.values() if torch.is_tensor(one)}
    assert kinds <= {after, torch.uint8}
    resumed.step(2)
    through.step(2)
    assert through.gap(resumed) < (0.05 if torch.bfloat16 in (before, after) else 1e-3)


def test_a_state_in_single_precision_is_not_taken_up_in_half():
    saved = Loop(Shampoo).step(2)
    other = Loop(Shampoo, dtype=torch.bfloat16)
    with pytest.raises(BadInput, match="half precision"):
        other.take_up(saved)
    assert not other.optimizer.state
    state = saved.optimizer.state_dict()
    state["param_groups"][0]["dtypes"] = ["load", "float32"]
    with pytest.raises(BadInput, match="dtype"):
        Loop(Shampoo).take_up(saved, state)


@pytest.mark.parametrize("member", MEMBERS)
def test_a_state_that_two_have_taken_up_is_each_ones_own(member):
    first, alone = Loop(member).step(3), Loop(member).step(3)
    second = Loop(member).take_up(first)
    second.step(3)
    assert first.step(3).gap(alone.step(3)) == 0


@pytest.mark.parametrize("member", MEMBERS)
def test_a_file_without_code_holds_all_that_a_run_needs(member):
    through, file = Loop(member).step(3), io.BytesIO()
    torch.save(through.optimizer.state_dict(), file)
    file.seek(0)
    resumed = Loop(member).take_up(through, torch.load(file, weights_only=True))
    assert through.step(2).gap(resumed.step(2)) == 0


# Parameter groups, and parameters that come and go.


def test_curvature_of_a_group_is_taken_before_another_moves():
    found = []
    for apart in (False, True):
        x, y = nn.Parameter(normal(3).abs()), nn.Parameter(torch.zeros(3))
        optimizer = AdaHessian([{"params": [x]}, {"params": [y]}] if apart else [x, y], lr=0.5)
        # At y = 0 the Hessian is diagonal, so that no signs matter; that of y takes x from the graph.
        optimizer.step(lambda: (3 * x * x + (x * y).square() + y).sum())  # noqa: B023
        found.append(torch.cat([x.detach(), y.detach()]))
    torch.testing.assert_close(*found)


def test_layers_of_parameters_that_come_later_are_recorded():
    late, whole = Loop(KFAC), Loop(KFAC)
    late.optimizer = late.made(late.module[2].parameters())
    late.step(2)
    before = late.module[0].weight.detach().clone()
    late.optimizer.add_param_group({"params": late.module[0].parameters()})
    whole.module.load_state_dict(late.module.state_dict())
    late.step()
    assert len(late.module[0]._forward_hooks) == 1
    moved = late.module[0].weight.detach() - before
    whole.step()
    expected = whole.module[0].weight.detach() - before
    # The first step of a weight, but for the clip of the whole step.
    cosine = (moved * expected).sum() / (moved.norm() * expected.norm())
    assert cosine > 0.9999
    late.optimizer.close()
    assert not late.module[0]._forward_hooks


def test_parameters_that_leave_one_vector_are_named():
    loop = Loop(PSGD).step(2)
    loop.module[0].weight.requires_grad_(False)
    with pytest.raises(BadInput, match="parameter 0 of group 0"):
        loop.step()
    still = Loop(ZerothOrder).step(2)  # keeps nothing of that length
    still.module[0].weight.requires_grad_(False)
    kept = still.module[0].weight.clone()
    still.step(2)
    assert torch.equal(kept, still.module[0].weight)


def test_a_groups_own_norm_tells_what_it_takes():
    vector, number = nn.Parameter(torch.ones(4)), nn.Parameter(torch.tensor(1.0))
    groups = [{"params": [vector], "norm": "l2"}, {"params": [number]}]
    optimizer = TrustRegion(groups, lr=0.5, norm="spectral", rest={"lr": 0.125})
    assert [group["rest"] for group in optimizer.param_groups] == [False, True]
    vector.grad, number.grad = torch.ones(4), torch.tensor(1.0)
    optimizer.step()
    assert vector.tolist() == [0.75] * 4
    assert number.item() == 0.875


@pytest.mark.parametrize("rest", [None, 0.1, "adam"])
def test_settings_of_the_rest_that_are_none_are_refused(rest):
    with pytest.raises(BadInput, match="rest"):
        Muon([nn.Parameter(torch.ones(2, 2))], rest=rest)


# What layers record.


@pytest.mark.parametrize("member", OF_LAYERS)
@pytest.mark.parametrize("forget", ["optimizer", "module"])
def test_a_batch_left_out_is_forgotten(member, forget):
    loop, alone = Loop(member), Loop(member)
    loop.step()
    alone.step()
    (loop.loss() * torch.nan).backward()
    getattr(loop, forget).zero_grad()
    if forget == "module":  # what the optimizer cannot know is refused, once
        loop.loss().backward()
        with pytest.raises(BadInput, match="gradients of the layers"):
            loop.optimizer.step()
    assert loop.step().gap(alone.step()) == 0


def test_passes_before_a_closure_are_forgotten_with_their_gradients():
    loop, alone = Loop(KFAC), Loop(KFAC)
    (100 * loop.loss()).backward()
    loop.optimizer.step(loop.loss)
    assert loop.gap(alone.step()) == 0


@pytest.mark.parametrize("member", [AdamW, KFAC])
def test_halves_of_a_batch_are_the_batch(member):
    halves, whole = Loop(member), Loop(member)
    for _ in range(3):
        halves.optimizer.zero_grad()
        for rows in (slice(4), slice(4, 8)):
            (halves.loss(rows) / 2).backward()
        halves.optimizer.step()
    assert halves.gap(whole.step(3)) < 1e-5


@pytest.mark.parametrize("member", OF_LAYERS)
def test_a_scaler_is_refused_where_layers_are_recorded(member):
    loop = Loop(member)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    scaler.scale(loop.loss()).backward()
    with pytest.raises(BadInput, match="bfloat16"):
        scaler.step(loop.optimizer)
    alone = Loop(member)
    loop.step()
    assert loop.gap(alone.step()) == 0


def test_a_scaler_changes_nothing_elsewhere():
    scaled, plain = Loop(Muon), Loop(Muon)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    for step in range(4):
        scaled.optimizer.zero_grad()
        scaler.scale(scaled.loss() * (torch.inf if step == 2 else 1.0)).backward()
        scaler.step(scaled.optimizer)
        scaler.update()
    assert scaled.gap(plain.step(3)) < 1e-6


@pytest.mark.parametrize("member", OF_LAYERS)
def test_attention_gives_its_layer_to_adamw(member):
    module = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
    optimizer = member(module.named_parameters(), module=module, rest={"lr": 1e-3})
    before = module.self_attn.out_proj.weight.detach().clone()
    (module(normal(3, 5, 8)) * normal(3, 5, 8, seed=1)).sum().backward()
    optimizer.step()
    moved = (module.self_attn.out_proj.weight.detach() - before).abs()
    torch.testing.assert_close(moved, torch.full_like(moved, 1e-3), rtol=1e-3, atol=0)
    assert not module.self_attn.out_proj._forward_hooks


@pytest.mark.parametrize("member", OF_LAYERS)
def test_a_weight_whose_layer_is_not_called_is_named_before_anything_moves(member):
    loop = Loop(member)
    kept = copy.deepcopy(loop.module.state_dict())
    hidden = torch.tanh(loop.module[0](normal(5, 4)))
    nn.functional.linear(hidden, loop.module[2].weight).square().sum().backward()
    with pytest.raises(BadInput, match="'rest': True"):
        loop.optimizer.step()
    assert all(torch.equal(value, loop.module.state_dict()[name]) for name, value in kept.items())
    assert not loop.optimizer.state


def test_layers_are_called_with_single_rows_and_by_keyword():
    found = []
    for call in (lambda layer: layer(normal(4)), lambda layer: layer(input=normal(1, 4))):
        loop = Loop(KFAC)
        loop.optimizer = KFAC(loop.module[0].parameters(), module=loop.module[0])
        call(loop.module[0]).square().sum().backward()
        loop.optimizer.step()
        found.append(loop.module[0].weight.detach())
    torch.testing.assert_close(*found)


def test_layers_of_one_weight_are_one():
    tied, first = Loop(KFAC).module, nn.Linear(3, 3)
    second = nn.Linear(3, 3)
    second.weight, second.bias = first.weight, first.bias
    tied = nn.Sequential(first, nn.Tanh(), second)
    start, rows = copy.deepcopy(first), normal(6, 3)
    twice = nn.Sequential(start, nn.Tanh(), start)
    for module in (tied, twice):
        optimizer = KFAC(module.parameters(), module=module)
        for _ in range(2):
            optimizer.zero_grad()
            module(rows).square().mean().backward()
            optimizer.step()
    torch.testing.assert_close(first.weight, start.weight)


# Compiled models and fused kernels.


# The warning is torch's own, of what it traces.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
def test_a_compiled_model_is_trained_as_itself():
    torch._dynamo.reset()
    loop, plain = Loop(KFAC), Loop(KFAC)
    compiled = torch.compile(loop.module, backend="aot_eager")
    compiled(normal(8, 4, seed=9)).sum().backward()
    torch._dynamo.reset()
    for _ in range(2):
        loop.optimizer.zero_grad()
        (compiled(normal(8, 4, seed=9)) - normal(8, 3, seed=10)).square().mean().backward()
        loop.optimizer.step()
    assert loop.gap(plain.step(2)) < 1e-6
    torch._dynamo.reset()


@pytest.mark.parametrize("member", [AdaHessian, PSGD])
def test_what_torch_cannot_differentiate_twice_is_refused_with_what_would_do(member):
    query = nn.Parameter(normal(1, 2, 5, 4))

    def closure():
        return nn.functional.scaled_dot_product_attention(query, query, query).square().sum()

    with pytest.raises(BadInput, match=r"SDPBackend\.MATH"):
        member([query]).step(closure)
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        assert member([query]).step(closure).isfinite()


def test_outputs_of_one_number_are_one_row():
    x = nn.Parameter(torch.tensor(3.0))
    optimizer = TargetSurrogate([x], lr=0.5)
    for _ in range(9):
        optimizer.step(lambda: (2 * x, lambda outputs: (outputs - 1).square()))
    assert abs(float(x.detach()) - 0.5) < 1e-2
