"""Unit-scaled operations against their formulas, and their gradients against those of the plain ones."""

import math

import pytest
import torch
from torch import nn
from torch.func import vmap
from torch.nn import functional

from nearly.core.errors import BadInput
from nearly.optim.scaling import UnitEmbedding, UnitLinear, UnitReadout, UnitResidual, unit, unit_groups


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).requires_grad_()


def gradients(out, *tensors, seed=9):
    return torch.autograd.grad(out, tensors, normal(*out.shape, seed=seed).detach(), retain_graph=True)


def test_scaled_has_two_factors():
    x = normal(3)
    out = unit.scaled(x, 2.0, 5.0)
    assert torch.equal(out, 2 * x)
    assert gradients(out, x)[0] == pytest.approx(5 * normal(3, seed=9).detach())
    rows = vmap(lambda row: unit.scaled(row, 2.0, 5.0))(x.reshape(3, 1))
    assert torch.equal(rows, 2 * x.reshape(3, 1))


def test_linear_is_a_scaled_product():
    x, weight, bias = normal(6, 5, 8), normal(4, 8, seed=1), normal(4, seed=2)
    out = unit.linear(x, weight, bias)
    plain = functional.linear(x, weight) / math.sqrt(8) + bias
    torch.testing.assert_close(out, plain)
    ours, theirs = gradients(out, x, weight, bias), gradients(plain, x, weight, bias)
    torch.testing.assert_close(ours[0], theirs[0])  # not a cut edge: exact
    torch.testing.assert_close(ours[1], theirs[1] * math.sqrt(8) / math.sqrt(30))
    torch.testing.assert_close(ours[2], theirs[2] / math.sqrt(30))


def test_readout_scales_its_gradient_apart():
    x, weight = normal(6, 8), normal(4, 8, seed=1)
    out = unit.readout(x, weight)
    plain = functional.linear(x, weight)
    torch.testing.assert_close(out, plain / 8)
    ours, theirs = gradients(out, x, weight), gradients(plain, x, weight)
    torch.testing.assert_close(ours[0], theirs[0] / math.sqrt(4))
    torch.testing.assert_close(ours[1], theirs[1] / math.sqrt(6))


def test_embedding_scales_its_gradient():
    weight, indices = normal(10, 4), torch.tensor([[1, 2, 2], [0, 1, 9]])
    out = unit.embedding(indices, weight)
    assert torch.equal(out, weight[indices])
    torch.testing.assert_close(gradients(out, weight)[0], gradients(weight[indices], weight)[0] * math.sqrt(10 / 6))


@pytest.mark.parametrize("name", ["relu", "gelu", "silu"])
def test_activations_have_scale_one(name):
    z = torch.linspace(-12, 12, 200_001, dtype=torch.float64)
    density = torch.exp(-(z**2) / 2) / math.sqrt(2 * math.pi)
    ours = getattr(unit, name)(z)
    assert float(torch.trapezoid(ours**2 * density, z)) == pytest.approx(1, abs=1e-6)
    scale = float(ours[-1] / getattr(functional, name)(z)[-1])
    torch.testing.assert_close(ours, scale * getattr(functional, name)(z))


def test_norms_have_scale_one():
    x = 5 + 3 * normal(4, 64)
    for norm in (unit.layer_norm, unit.rms_norm):
        torch.testing.assert_close(norm(x).square().mean(dim=-1), torch.ones(4, dtype=torch.float64), rtol=1e-4, atol=0)


@pytest.mark.parametrize("causal", [True, False])
def test_attention_has_scale_one_where_logits_are_flat(causal):
    query, key, value = normal(2, 16, 8) * 1e-6, normal(2, 16, 8, seed=1), normal(2000, 2, 16, 8, seed=2)
    out = unit.attention(query, key, value, causal=causal, multiplier=0.05)
    assert float(out.detach().square().mean()) == pytest.approx(1, rel=0.02)
    plain = functional.scaled_dot_product_attention(query, key, value[0], is_causal=causal, scale=0.05 / 8)
    torch.testing.assert_close(out[0] / out[0, 0, 0, 0], plain / plain[0, 0, 0])
    sharp = unit.attention(100 * normal(2, 16, 8), 100 * key, value, causal=causal, multiplier=1e4)
    assert float(sharp.detach().square().mean()) == pytest.approx(1, rel=0.05)
    with pytest.raises(BadInput, match="multiplier"):
        unit.attention(query, key, query, multiplier=0.0)


@pytest.mark.parametrize("branches", [2, 6])
def test_all_contribute_alike_at_the_end_of_the_stream(branches):
    shares = [1.0]
    for index in range(branches):
        stream, branch = unit.residual_weights(index, branches)
        assert stream**2 + branch**2 == pytest.approx(1)
        shares = [share * stream**2 for share in shares] + [branch**2]
    embedding, attention, mixer = shares[0], sum(shares[1::2]), sum(shares[2::2])
    assert embedding == pytest.approx(1 / 3)
    assert attention == pytest.approx(mixer) == pytest.approx(1 / 3)
    for index in (-1, branches):
        with pytest.raises(BadInput, match="index"):
            unit.residual_weights(index, branches)


def test_residual_gradients_are_exact():
    branch = nn.Sequential(nn.Linear(8, 8), nn.Tanh()).double()
    block = UnitResidual(branch, 1, 4)
    x = normal(5, 8)
    stream, weight = unit.residual_weights(1, 4)
    plain = stream * x + weight * branch(x)
    out = block(x)
    torch.testing.assert_close(out, plain)
    torch.testing.assert_close(gradients(out, x)[0], gradients(plain, x)[0])
    inner = branch[0].weight  # a cut edge: its gradient is not yet weighted
    torch.testing.assert_close(gradients(block(x), inner)[0], gradients(plain, inner)[0] / weight)
    with pytest.raises(BadInput, match="branch"):
        UnitResidual(torch.tanh, 0, 2)


def test_cross_entropy_and_its_gradient():
    logits, targets = normal(6, 5, 7), torch.arange(30).reshape(6, 5) % 7
    loss = unit.cross_entropy(logits, targets)
    plain = functional.cross_entropy(logits.reshape(30, 7), targets.reshape(30))
    torch.testing.assert_close(loss, plain)
    ours, theirs = torch.autograd.grad(loss, logits)[0], torch.autograd.grad(plain, logits)[0]
    torch.testing.assert_close(ours, theirs * 30 * 7 / math.sqrt(6))
    with pytest.raises(BadInput, match="two classes"):
        unit.cross_entropy(logits[..., :1], targets)


def test_eight_bits_are_torchs():
    x = normal(1000).detach().float() * torch.logspace(-8, 4, 1000)
    x.requires_grad_()
    out = unit.as_float8(x, torch.float8_e4m3fn, torch.float8_e5m2)
    inside = x.detach().abs() <= 448
    assert torch.equal(out[inside], x.detach()[inside].to(torch.float8_e4m3fn).float())
    assert torch.equal(out[~inside].abs(), torch.full_like(out[~inside], 448.0))
    upstream = torch.logspace(-6, 6, 1000)
    got = torch.autograd.grad(out, x, upstream)[0]
    assert torch.equal(got, upstream.clamp(max=57344).to(torch.float8_e5m2).float())
    weight, rows = normal(4, 8, seed=1).detach().float(), normal(6, 8).detach().float()
    product = unit.linear(rows, weight, float8=True)
    want = rows.to(torch.float8_e4m3fn).float() @ weight.to(torch.float8_e4m3fn).float().T / math.sqrt(8)
    torch.testing.assert_close(product, want)
    assert not torch.equal(product, unit.linear(rows, weight))


def test_rates_follow_the_table():
    draw = torch.Generator().manual_seed(0)
    layers = UnitEmbedding(10, 64, seed=draw), UnitLinear(64, 64, bias=True, seed=draw), UnitReadout(64, 10, seed=draw)
    model = nn.Sequential(layers[0], UnitResidual(layers[1], 0, 4), layers[2])
    groups = unit_groups(model, lr=2.0, weight_decay=0.01)
    rates = {p: group["lr"] for group in groups for p in group["params"]}
    want = {layers[0].weight: 2 / 8, layers[1].weight: 2 / 8 / 2, layers[1].bias: 2 / 2, layers[2].weight: 2}
    assert rates == {p: pytest.approx(rate) for p, rate in want.items()}
    assert all(group["lr"] * group["weight_decay"] == pytest.approx(0.01) for group in groups)
    assert model(torch.tensor([[1, 2]])).shape == (1, 2, 10)
    assert 0.9 < float(layers[0].weight.detach().std()) < 1.1
    for options in ({"lr": 0.0}, {"lr": 1.0, "weight_decay": -1.0}):
        with pytest.raises(BadInput):
            unit_groups(model, **options)
    with pytest.raises(BadInput, match="sizes"):
        UnitLinear(0, 4, seed=0)


def test_shared_weights_have_one_rate():
    draw = torch.Generator().manual_seed(0)
    first, second = UnitLinear(4, 4, seed=draw), UnitLinear(4, 4, seed=draw)
    second.weight = first.weight
    assert [group["lr"] for group in unit_groups(nn.Sequential(first, second), lr=1.0)] == [0.5]
    stream = nn.Sequential(*(UnitResidual(first, i, 4) for i in range(4)))
    assert [group["lr"] for group in unit_groups(stream, lr=1.0)] == [0.25]
    readout = UnitReadout(4, 4, seed=draw)
    readout.weight = first.weight
    with pytest.raises(BadInput, match="share"):
        unit_groups(nn.Sequential(first, readout), lr=1.0)
