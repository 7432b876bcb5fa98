"""Networks with pairs of thin layers in place of thick ones: which layers, by which factors, and the model that holds them."""

from __future__ import annotations

import copy
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from nearly.core.errors import BadInput
from nearly.core.surrogate import Model
from nearly.core.validate import describe
from nearly.networks._ranks import choose_ranks

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from jaxtyping import Float

    from nearly.core.nouns import Network
    from nearly.core.supply import Supply
    from nearly.core.target import Target

Layer = nn.Linear | nn.Conv1d | nn.Conv2d
# A subclass may use its weight otherwise (attention's output projection does), so that exactly these types are meant.
TYPES = (nn.Linear, nn.Conv1d, nn.Conv2d)


def find_layers(module: nn.Module) -> dict[str, list[str]]:
    """The layers that can be factorized: ungrouped linear and convolutional ones, by the first of their names.

    Layers that hold one weight together (a module that stands at several places, or modules that share a Parameter) are one entry.
    Left alone, and so still tied, is a weight that some other kind of module holds too, as an embedding tied to its output head;
    so are convolutions that share a weight, and the layers of `nn.TransformerEncoderLayer`, whose fast path reads their weights.

    Returns:
        First name -> all names.
    """
    holders: dict[int, list[tuple[str, nn.Module]]] = defaultdict(list)
    shut = tuple(f"{n}." if n else "" for n, m in module.named_modules() if isinstance(m, nn.TransformerEncoderLayer))
    for name, owner in module.named_modules(remove_duplicate=False):
        for parameter in owner._parameters.values():
            holders[id(parameter)].append((name, owner))
    found = {}
    for name, layer in module.named_modules():
        held = holders[id(layer._parameters.get("weight"))] if _is_layer(layer) else []
        alike = all(type(owner) is nn.Linear or owner is layer for _, owner in held)
        if held and held[0][0] == name and alike and not any(other.startswith(shut) for other, _ in held):
            found[name] = [other for other, _ in held]
    return found


def weights_of(module: nn.Module) -> dict[str, Tensor]:
    """The weights that can be factorized, by the names of `find_layers`."""
    return {name: module.get_parameter(f"{name}.weight" if name else "weight").detach() for name in find_layers(module)}


def _is_layer(module: nn.Module) -> bool:
    weight = module._parameters.get("weight")  # absent where weights are normalized on the fly
    return (
        type(module) in TYPES
        and weight is not None
        and weight.is_floating_point()
        and getattr(module, "groups", 1) == 1
    )


def thin_pair(layer: Layer, rank: int) -> nn.Sequential:
    """Two plain torch layers, the first to `rank` channels, the second with the bias; their weights are not yet set."""
    kind: dict[str, Any] = {"dtype": layer.weight.dtype, "device": layer.weight.device}
    has_bias = layer.bias is not None
    if isinstance(layer, nn.Linear):
        first: Layer = nn.utils.skip_init(nn.Linear, layer.in_features, rank, bias=False, **kind)
        second: Layer = nn.utils.skip_init(nn.Linear, rank, layer.out_features, bias=has_bias, **kind)
    else:
        names = ("kernel_size", "stride", "padding", "dilation", "padding_mode")
        same = {name: getattr(layer, name) for name in names}
        first = nn.utils.skip_init(type(layer), layer.in_channels, rank, bias=False, **same, **kind)
        second = nn.utils.skip_init(type(layer), rank, layer.out_channels, kernel_size=1, bias=has_bias, **kind)
    return nn.Sequential(first, second).requires_grad_(False)


def replace_layers(
    module: nn.Module, ranks: dict[str, int]
) -> tuple[nn.Module, dict[str, list[tuple[Layer, nn.Sequential]]]]:
    """Put unfilled pairs in place of layers, in the module itself; what was shared is shared again.

    Args:
        module: changed.
        ranks: by the names of `find_layers`.

    Returns:
        The module (a pair where it is itself the layer), and per name the layers taken out with their pairs.

    Raises:
        BadInput: for a name that is no such layer of the module.
    """
    layers = find_layers(module)
    taken: dict[str, list[tuple[Layer, nn.Sequential]]] = {}
    for name, rank in ranks.items():
        if name not in layers:
            raise BadInput("target", f"a Network whose layer {name!r} can be factorized", describe(module))
        pairs: dict[int, tuple[Layer, nn.Sequential]] = {}
        # Looked up before any is replaced: names that lead through a shared parent lead to one place.
        held: list[Any] = [module.get_submodule(other) for other in layers[name]]
        for other, layer in zip(layers[name], held, strict=True):
            if id(layer) not in pairs:
                pair: Any = thin_pair(layer, rank)
                if pairs:  # another module with the same weight
                    leader: Any = next(iter(pairs.values()))[1]
                    pair[0].weight, pair[1].weight = leader[0].weight, leader[1].weight
                pairs[id(layer)] = layer, pair
            pair = pairs[id(layer)][1]
            parent, _, last = other.rpartition(".")
            if other:
                setattr(module.get_submodule(parent), last, pair)
            else:
                module = pair
        taken[name] = list(pairs.values())
    return module, taken


@dataclass(frozen=True)
class Factors:
    """A weight W (o, i) as `second @ first` at full rank, best directions first, and the error that each rank removes.

    `mean` is that of the layer's inputs (i,): the bias takes up what the left-out ranks would have added to it on average.
    """

    first: Tensor
    second: Tensor
    energies: Tensor
    mean: Tensor | None = None


def factorize(
    weight: Float[Tensor, "o ..."],
    *,
    left: Float[Tensor, "o o"] | None = None,
    right: Float[Tensor, "i i"] | None = None,
    scale: float = 1.0,
    mean: Tensor | None = None,
) -> Factors:
    """Factors whose first r rows and columns minimize `tr(left E right E^T)` over `E = W - W'` with W' of rank r.

    That is the Frobenius norm of `left^(1/2) E right^(1/2)`, so the truncated singular value decomposition of
    `left^(1/2) W right^(1/2)`, mapped back, does it (Eckart, Young 1936, doi:10.1007/BF02288367). Computed in float64.
    Eigenvalues of `left` and `right` below round-off of the largest (dimension times eps of the weight's dtype) are raised to it.

    Args:
        weight: of a linear or convolutional layer; all but the first dimension are inputs.
        left: symmetric, positive semidefinite; None is the identity.
        right: the same, of the inputs.
        scale: of the energies.
        mean: kept with the factors.
    """
    matrix = weight.detach().double().flatten(1)
    eps = torch.finfo(weight.dtype).eps
    (to_left, from_left), (to_right, from_right) = _roots(left, eps), _roots(right, eps)
    weighted = matrix if to_left is None else to_left @ matrix
    weighted = weighted if to_right is None else weighted @ to_right
    u, s, vt = torch.linalg.svd(weighted, full_matrices=False)
    root = s.sqrt()
    second, first = u * root, root[:, None] * vt
    second = second if from_left is None else from_left @ second
    first = first if from_right is None else first @ from_right
    return Factors(first, second, scale * s.square(), mean)


def _roots(matrix: Tensor | None, eps: float) -> tuple[Tensor, Tensor] | tuple[None, None]:
    if matrix is None:
        return None, None
    values, vectors = torch.linalg.eigh(matrix.double())
    largest = values[-1] if values[-1] > 0 else torch.ones_like(values[-1])
    root = values.clamp(min=len(values) * eps * largest).sqrt()
    return (vectors * root) @ vectors.T, (vectors / root) @ vectors.T


def compress(target: Network, factors: dict[str, Factors], percent: int) -> ThinNetwork:
    """A copy of the module with `percent` of its layers' parameters (weights, without biases), ranks chosen over all layers."""
    module = copy.deepcopy(target.module).requires_grad_(False)
    sizes = {name: (len(w) + w[0].numel(), w.numel()) for name, w in weights_of(module).items()}
    budget = percent * sum(dense for _, dense in sizes.values()) // 100
    ranks = choose_ranks({name: factors[name].energies for name in sizes}, sizes, budget)
    module, taken = replace_layers(module, ranks)
    for name, pairs in taken.items():
        for layer, pair in pairs:
            _fill(pair, layer, factors[name], ranks[name])
    assert target.rows is not None
    whole = not target.rows.pairs.inputs.is_floating_point()
    return ThinNetwork(ranks=ranks, takes_integers=whole, module=module)


def compress_by_data(
    method: Any,
    target: Network,
    supply: Supply,
    factors: Callable[[dict[str, Tensor], Tensor], dict[str, Factors]],
) -> ThinNetwork:
    """As `compress`, with factors that rows of data weight; they are found once for all budgets.

    Args:
        method: with `samples` and `percent`.
        target: the network.
        supply: of its rows.
        factors: from the layers' weights and the rows.
    """
    rows = supply.fitting(min(method.samples, supply.available)).inputs
    key = method.id(), len(rows)
    if key not in supply.kept:
        supply.kept[key] = factors(weights_of(target.module), rows)
    return compress(target, supply.kept[key], method.percent)


def _fill(pair: Any, layer: Layer, factors: Factors, rank: int) -> None:
    first, second = factors.first[:rank], factors.second[:, :rank]
    pair[0].weight.copy_(first.reshape(pair[0].weight.shape))
    pair[1].weight.copy_(second.reshape(pair[1].weight.shape))
    if layer.bias is not None:
        bias = layer.bias.double()
        if factors.mean is not None:
            mean = factors.mean.double()
            bias = bias + layer.weight.double().flatten(1) @ mean - second @ (first @ mean)
        pair[1].bias.copy_(bias)


class ThinNetwork(Model):
    """A copy of a module with thin pairs in it. `module` is made of the original's and of torch's own classes alone."""

    needs_target = True

    def __init__(self, *, ranks: dict[str, int], takes_integers: bool, module: nn.Module) -> None:
        super().__init__(ranks=ranks, takes_integers=takes_integers)
        self.module = module.eval()

    def train(self, mode: bool = True) -> ThinNetwork:
        """As of any module, but that the network inside stays in evaluation mode, in which it was compressed and certified."""
        super().train(mode)
        self.module.eval()
        return self

    @classmethod
    def restore(cls, settings: dict[str, Any], tensors: dict[str, Tensor], target: Target | None) -> ThinNetwork:
        """Take the skeleton from the target's module, and all weights from the artifact.

        Raises:
            BadInput: when the target is another network.
        """
        module = copy.deepcopy(getattr(target, "module", None))
        if module is None:
            raise BadInput("target", "a Network of the module that was compressed", describe(target))
        module, _ = replace_layers(module.requires_grad_(False), settings["ranks"])
        model = cls(**settings, module=module)
        model.load_state_dict(tensors)
        return model

    @property
    def operations(self) -> int:
        """Two per weight of every linear and convolutional layer: for one row of activations, or one position of an image."""
        return sum(2 * weight.numel() for weight in _weights(self.module))

    def forward(self, inputs: Float[Tensor, "n ..."]) -> Float[Tensor, "n ..."]:
        """The thin network's outputs."""
        return self.module(inputs)


def _weights(module: nn.Module) -> Iterator[Tensor]:
    return (m.weight for m in module.modules() if isinstance(m, TYPES))


def refuses(target: Target) -> str | None:
    """Why no layer of this target can be factorized, or None."""
    module = getattr(target, "module", nn.Identity())
    return None if find_layers(module) else "it needs layers (torch.nn.Linear, Conv1d, Conv2d) that can be factorized"
