"""Maximal-update parametrization against the published tables and naive steps of each family."""

import math

import pytest
import torch
from torch import nn

from nearly.core.errors import BadInput
from nearly.optim.scaling import (
    RULES,
    Residual,
    attention_scale,
    coordinate_check,
    maximal_update,
)

NARROW, WIDE = 16, 64
RATIO = WIDE / NARROW
# Exponents c of the rate n^-c for (input, hidden, output) weights. sgd, adam: Tensor Programs V, table 3. kfac, shampoo: Ishikawa
# and Karakida's b = (1/2, 1/2, 1) with c below. muon: spectral norm sqrt(fan-out / fan-in) of a step of spectral norm 1.
PUBLISHED = {"sgd": (-1, 0, 1), "adam": (0, 1, 1), "kfac": (0, 0, 0), "shampoo": (-0.5, 0, 0.5), "muon": (-0.5, 0, 0.5)}


@pytest.fixture(autouse=True)
def one_thread():
    """Decompositions of small matrices on several threads take minutes where other processes share the cores."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def mlp(width, bias=True):
    return nn.Sequential(
        nn.Linear(10, width, bias=bias),
        nn.Tanh(),
        nn.Linear(width, width, bias=bias),
        nn.Tanh(),
        nn.Linear(width, 1, bias=bias),
    )


def rows_of(model, base, **options):
    options = {"family": "adam", "lr": 0.1, **options}
    return {row.name: row for row in maximal_update(model, base, **options).rows}


@pytest.mark.parametrize("family", PUBLISHED)
def test_rates_are_the_published_ones(family):
    rows = rows_of(mlp(WIDE), mlp(NARROW), family=family)
    for layer, exponent in zip((0, 2, 4), PUBLISHED[family], strict=True):
        assert rows[f"{layer}.weight"].rate == pytest.approx(RATIO**-exponent)
    for layer in (0, 2):  # biases are input weights of a constant
        assert rows[f"{layer}.bias"].rate == pytest.approx(RATIO ** -PUBLISHED[family][0])
    assert rows["4.bias"].rate == 1
    kinds = ["input", "vector", "hidden", "vector", "output", "fixed"]
    assert [row.kind for row in rows.values()] == kinds


def test_initialization_is_the_published_one():
    for width in (NARROW, 1024):
        model = mlp(width)
        rows = rows_of(model, mlp(NARROW), gain=2.0)
        stds = [2 / math.sqrt(10), 2 / math.sqrt(width), 2 * math.sqrt(NARROW) / width]  # 1/2, 1/2 and 1 of abc's b
        for layer, std in zip((0, 2, 4), stds, strict=True):
            assert rows[f"{layer}.weight"].std == pytest.approx(std)
            assert bool((model[layer].bias == 0).all())
            if model[layer].weight.numel() > 1000:
                assert float(model[layer].weight.detach().std()) == pytest.approx(std, rel=0.1)


def test_dampings_follow_the_factors():
    kfac, shampoo = (rows_of(mlp(WIDE), mlp(NARROW), family=family) for family in ("kfac", "shampoo"))
    pairs = [
        (1, 1 / RATIO),
        (RATIO, 1 / RATIO),
        (RATIO, 1),
    ]  # A grows with fan-in (d_A = -1), B falls with fan-out (d_B = 1)
    assert [kfac[f"{layer}.weight"].damping for layer in (0, 2, 4)] == pairs
    assert [shampoo[f"{layer}.weight"].damping for layer in (0, 2, 4)] == [(1 / RATIO,) * 2, (1, 1), (RATIO,) * 2]
    groups = maximal_update(mlp(WIDE), mlp(NARROW), family="kfac", lr=1.0, damping=0.5).groups
    assert {group["damping"] for group in groups} >= {
        (0.5, 0.5 / RATIO),
        (0.5 * RATIO, 0.5 / RATIO),
        (0.5 * RATIO, 0.5),
    }
    groups = maximal_update(mlp(WIDE), mlp(NARROW), family="shampoo", lr=1.0, damping=0.5).groups
    assert {group["damping"] for group in groups} == {0.5 / RATIO, 0.5, 0.5 * RATIO}


def inverse_root(matrix, power):
    values, vectors = torch.linalg.eigh(matrix)
    return (vectors * values.clamp(min=1e-30) ** power) @ vectors.T


class OneStep(torch.optim.Optimizer):
    """Naive steps from recorded inputs and output gradients of linear layers, in double precision."""

    def __init__(self, model, scaled):
        super().__init__(scaled.groups, {})
        self.layers = {layer.weight: layer for layer in model if isinstance(layer, nn.Linear)}
        for layer in self.layers.values():
            layer.register_forward_hook(self.watch)

    @staticmethod
    def watch(layer, inputs, output):
        layer.inputs = inputs[0].detach()
        output.register_hook(lambda gradient: setattr(layer, "outs", gradient))

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for weight in group["params"]:
                layer, gradient = self.layers[weight], weight.grad
                if group["family"] == "kfac":
                    on_a, on_b = group["damping"]
                    a, b = (
                        layer.inputs.T @ layer.inputs / len(layer.inputs),
                        len(layer.outs) * layer.outs.T @ layer.outs,
                    )
                    a, b = a + on_a * torch.eye(len(a)).double(), b + on_b * torch.eye(len(b)).double()
                    update = torch.linalg.solve(b, torch.linalg.solve(a, gradient, left=False))
                elif group["family"] == "shampoo":
                    left = gradient @ gradient.T + group["damping"] * torch.eye(len(gradient)).double()
                    right = gradient.T @ gradient + group["damping"] * torch.eye(gradient.shape[1]).double()
                    update = inverse_root(left, -0.25) @ gradient @ inverse_root(right, -0.25)
                elif group["family"].startswith("muon"):
                    u, values, v = torch.linalg.svd(gradient, full_matrices=False)
                    kept = values > 1e-10 * values[0]  # a batch of few rows: the others are rounding's
                    update = u[:, kept] @ v[kept]
                    if group["family"] == "muon_rms":
                        update = update * math.sqrt(max(gradient.shape))
                else:
                    update = gradient.sign() if group["family"] == "adam" else gradient
                weight.sub_(group["lr"] * update)


@pytest.mark.parametrize("damping", [1e-2, 1e2])
@pytest.mark.parametrize("family", RULES)
def test_first_step_changes_features_alike_at_all_widths(family, damping):
    """A wrong exponent puts some layer off by a fifth or more; one of a damping does so where the damping is large."""
    x = torch.randn(4, 10, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    rate = {"sgd": 0.05, "adam": 0.02, "kfac": 0.1, "muon_rms": 0.04}.get(family, 0.3)

    def start(model, seed):
        base = mlp(64, bias=False)
        return OneStep(model, maximal_update(model, base, family=family, lr=rate, damping=damping, seed=seed))

    check = coordinate_check(
        lambda width, seed: mlp(width, bias=False).double(),
        (64, 128, 256),
        start,
        (x, x[:, :1].sign()),
        loss=nn.functional.mse_loss,
        steps=1,
        seeds=4,
    )
    assert all(abs(slope) < 0.15 for slope in check.slopes().values()), check.slopes()


def test_muon_of_adams_size_by_the_matrices_sizes():
    rows = rows_of(mlp(WIDE), mlp(NARROW), family="muon_rms")
    for layer, (out, fan_in) in zip((0, 2, 4), ((WIDE, 10), (WIDE, WIDE), (1, WIDE)), strict=True):
        small = [NARROW if size == WIDE else size for size in (out, fan_in)]
        want = math.sqrt(out / fan_in / max(out, fan_in)) / math.sqrt(small[0] / small[1] / max(small))
        assert rows[f"{layer}.weight"].rate == pytest.approx(want)


def test_layers_are_read_by_their_kind():
    def build(n):
        return nn.ModuleDict(
            {
                "table": nn.Embedding(7, n),
                "convolution": nn.Conv2d(n, 2 * n, 3),
                "transposed": nn.ConvTranspose1d(3, n, 5),
                "depthwise": nn.Conv1d(n, n, 3, groups=n),
                "attention": nn.MultiheadAttention(n, 2, add_bias_kv=True),
                "norm": nn.LayerNorm(n),
                "recurrent": nn.GRU(3, n),
            }
        )

    model = build(WIDE)
    rows = rows_of(model, build(NARROW))
    found = {name: (row.kind, row.std, row.rate) for name, row in rows.items()}
    assert found["table.weight"] == ("input", 1.0, 1)
    assert found["convolution.weight"] == ("hidden", pytest.approx(1 / math.sqrt(9 * WIDE)), 1 / RATIO)
    assert found["transposed.weight"] == ("input", pytest.approx(1 / math.sqrt(15)), 1)
    assert found["depthwise.weight"] == ("input", pytest.approx(1 / math.sqrt(3)), 1)
    assert found["attention.in_proj_weight"] == ("hidden", pytest.approx(1 / math.sqrt(WIDE)), 1 / RATIO)
    assert found["attention.bias_k"] == ("input", None, 1)
    assert found["norm.weight"] == ("vector", None, 1)
    assert found["recurrent.weight_ih_l0"] == ("input", pytest.approx(1 / math.sqrt(3)), 1)
    assert bool((model["norm"].weight == 1).all())
    assert bool((model["convolution"].bias == 0).all())


class Raw(nn.Module):
    def __init__(self, n):
        super().__init__()
        self.place, self.experts = nn.Parameter(torch.zeros(5, n)), nn.Parameter(torch.zeros(3, n, n))


def test_unknown_parameters_need_axes():
    axes = {"place": (1, None), "experts": (1, 2)}
    rows = rows_of(Raw(WIDE), Raw(NARROW), axes=axes)
    assert (rows["place"].kind, rows["place"].std) == ("input", 1.0)
    assert (rows["experts"].kind, rows["experts"].std) == ("hidden", pytest.approx(1 / 8))
    with pytest.raises(BadInput, match=r"axes\['place'\] must be given"):
        maximal_update(Raw(WIDE), Raw(NARROW), family="adam", lr=1.0)
    with pytest.raises(BadInput, match="all dimensions that differ"):
        maximal_update(Raw(WIDE), Raw(NARROW), family="adam", lr=1.0, axes={**axes, "experts": (1, None)})
    with pytest.raises(BadInput, match="of the model's parameters"):
        maximal_update(Raw(WIDE), Raw(NARROW), family="adam", lr=1.0, axes={**axes, "gone": (0, 1)})
    for wrong in ((0, 0), (None, 1), (2, 0), (-1, 0)):
        with pytest.raises(BadInput, match=r"axes\['place'\] must be \(outputs"):
            maximal_update(Raw(WIDE), Raw(NARROW), family="adam", lr=1.0, axes={**axes, "place": wrong})
    assert rows_of(Raw(WIDE), Raw(WIDE))["place"].std is None  # nothing differs: nothing to know


def test_tied_weights_are_asked_about():
    def build(n):
        model = nn.Sequential(nn.Embedding(7, n), nn.Linear(n, 7, bias=False))
        model[1].weight = model[0].weight
        return model

    with pytest.raises(BadInput, match="two layers read differently"):
        maximal_update(build(WIDE), build(NARROW), family="adam", lr=1.0)
    assert rows_of(build(WIDE), build(NARROW), axes={"0.weight": (1, None)})["0.weight"].kind == "input"


@pytest.mark.parametrize(
    ("family", "power"), [("sgd", 0), ("adam", -0.5), ("muon", -0.5), ("shampoo", -0.5), ("kfac", -1)]
)
def test_rates_behind_scaled_branches(family, power):
    def build(n):
        return nn.Sequential(nn.Linear(4, n), *(Residual(nn.Linear(n, n), 9) for _ in range(9)))

    rows = rows_of(build(NARROW), build(NARROW), family=family)
    assert rows["0.weight"].rate == 1
    assert rows["5.branch.weight"].rate == pytest.approx(9.0**power)
    assert rows_of(build(NARROW), build(NARROW), family=family, base_depth=9)["5.branch.weight"].rate == 1
    x = torch.randn(2, NARROW)
    block = build(NARROW)[1]
    assert torch.equal(block(x), x + block.branch(x) / 3)
    for depth in (0, 1.5):
        with pytest.raises(BadInput, match="depth"):
            Residual(nn.Identity(), depth)
    with pytest.raises(BadInput, match="branch"):
        Residual(torch.tanh, 2)


def test_groups_hold_what_the_optimizer_needs():
    model = mlp(WIDE)
    scaled = maximal_update(
        model,
        mlp(NARROW).to("meta"),
        family=lambda name, p: "muon" if name == "2.weight" else "adam",
        lr={"muon": 0.02, "adam": 0.001},
        weight_decay=0.1,
        eps=1e-8,
    )
    by_parameter = {p: group for group in scaled.groups for p in group["params"]}
    assert by_parameter.keys() == set(model.parameters())
    hidden, readout = by_parameter[model[2].weight], by_parameter[model[4].weight]
    assert (hidden["family"], hidden["lr"], "eps" in hidden) == ("muon", 0.02, False)
    assert (readout["family"], readout["lr"], readout["eps"]) == ("adam", pytest.approx(0.001 / RATIO), 1e-8)
    assert by_parameter[model[0].weight]["eps"] == pytest.approx(1e-8 / RATIO)
    for group in scaled.groups:
        assert group["lr"] * group["weight_decay"] == pytest.approx(
            0.1 * (0.02 if group["family"] == "muon" else 0.001)
        )
    adam = [group for group in scaled.groups if group["family"] == "adam"]
    assert len(adam) == 3  # input weights and biases share one group; the readout and its bias have their own
    torch.optim.AdamW(adam)
    assert str(scaled).splitlines()[3].split() == ["2.weight", "64x64", "hidden", "muon", "0.125", "1"]


def test_initialization_depends_on_the_seed_alone():
    state = torch.random.get_rng_state()
    first, second, other = (nn.Linear(4, 8) for _ in range(3))
    state = torch.random.get_rng_state()
    for model, seed in ((first, 1), (second, 1), (other, 2)):
        maximal_update(model, model, family="sgd", lr=1.0, seed=seed)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.equal(first.weight, second.weight)
    assert not torch.equal(first.weight, other.weight)
    half = nn.Linear(4, 8, dtype=torch.bfloat16)
    maximal_update(half, half, family="sgd", lr=1.0)
    assert half.weight.dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"family": "lion"}, "family must be one of sgd"),
        ({"lr": 0.0}, "lr must be"),
        ({"lr": math.nan}, "lr must be"),
        ({"lr": {"sgd": 1.0}}, "lr must be given for the family adam"),
        ({"family": lambda name, p: "lion" if name == "4.bias" else "adam"}, "family must be one of sgd"),
        ({"gain": -1.0}, "gain"),
        ({"weight_decay": -0.1}, "weight_decay"),
        ({"eps": 0.0}, "eps"),
        ({"damping": math.inf}, "damping"),
        ({"base_depth": 0}, "base_depth"),
    ],
)
def test_bad_arguments_are_named_and_change_nothing(options, message):
    model = mlp(WIDE)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(BadInput, match=message):
        rows_of(model, mlp(NARROW), **options)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_bases_of_other_architectures_are_refused():
    with pytest.raises(BadInput, match=r"with the same parameter names; got '0\.bias' in one alone"):
        rows_of(mlp(WIDE), mlp(NARROW, bias=False))
    with pytest.raises(BadInput, match=r"base\.weight must be 2-dimensional"):
        rows_of(nn.Linear(4, 4), nn.Conv1d(4, 4, 1))


def test_attention_scale():
    assert attention_scale(16, 16) == pytest.approx(1 / math.sqrt(16))
    assert attention_scale(64, 16) == pytest.approx(attention_scale(16, 16) / 4)
    with pytest.raises(BadInput, match="base_head_width"):
        attention_scale(4, 0)


def test_padding_rows_stay_zero():
    model, base = (nn.Sequential(nn.Embedding(7, n, padding_idx=3), nn.Linear(n, n)) for n in (32, 16))
    maximal_update(model, base, family="adam", lr=1.0)
    assert torch.equal(model[0].weight.abs().amax(dim=1) == 0, torch.arange(7) == 3)


def test_weights_shared_with_a_residual_branch_have_its_depth():
    class Shared(nn.Module):
        def __init__(self, n):
            super().__init__()
            self.first = nn.Linear(n, n)
            self.block = Residual(self.first, 4)

    rows = maximal_update(Shared(32), Shared(16), family="adam", lr=1.0).rows
    assert [row.rate for row in rows] == [0.25, 0.5]
