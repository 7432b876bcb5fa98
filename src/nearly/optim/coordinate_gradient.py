"""Gradients of perceptrons from values of the loss alone, all coordinates of a layer at once, and which of them to take."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from nearly.core.errors import BadInput
from nearly.core.validate import as_floating, describe, require_float

TOGETHER = 2**22  # numbers that outputs of changed layers may hold at a time


@torch.no_grad()
def coordinate_gradient(
    module: nn.Sequential,
    loss: Callable[[Tensor], Tensor],
    inputs: Tensor,
    *,
    masks: Sequence[Tensor] | None = None,
    spread: float = 1e-3,
    reuse: bool = True,
) -> list[Tensor]:
    r"""$(L(p + \mu e_i) - L(p)) / \mu$ for all coordinates i of a sequence of layers, or for those of masks; zero elsewhere.

    A change of one weight of a linear layer moves one of its outputs by $\mu$ times an input: the layers before it are not
    evaluated again (features are reused), and the changed outputs of many coordinates go through the layers after it in one batch.

    Source: Chen et al. 2024, "DeepZero", arXiv:2310.02025, section 4 (coordinate-wise estimation, feature reuse, parallel forward
    passes).

    Args:
        module: layers one after another, of which `nn.Linear` have the parameters that count; the others treat rows by themselves.
        loss: of outputs (k, rows, outputs), k values; a mean over rows as a rule.
        inputs: shape (rows, inputs).
        masks: one boolean tensor per parameter of the linear layers, in the order of `module.parameters()`.
        spread: $\mu$.
        reuse: whether features are reused; else the whole module is evaluated for each coordinate.

    Returns:
        Tensors like the parameters; put them into `.grad`, and any optimizer steps by them.

    Raises:
        BadInput: for a module of other layers with parameters, or masks that do not fit.

    Example:
        >>> layer = nn.Sequential(nn.Linear(2, 1, bias=False)).double()
        >>> (slope,) = coordinate_gradient(layer, lambda y: y.mean(dim=(1, 2)), torch.tensor([[1.0, 3.0]], dtype=torch.float64))
        >>> [round(value, 6) for value in slope[0].tolist()]
        [1.0, 3.0]
    """
    require_float("spread", spread, above=0.0)
    x = as_floating("inputs", inputs, dimensions=2)
    layers = list(module) if isinstance(module, nn.Sequential) else []
    wrong = [one for one in layers if not isinstance(one, nn.Linear) and any(True for _ in one.parameters())]
    if wrong or not any(isinstance(one, nn.Linear) for one in layers):
        raise BadInput("module", "an nn.Sequential whose parameters are those of nn.Linear", describe(module))
    parameters = list(module.parameters())
    chosen = [torch.ones_like(p, dtype=torch.bool) for p in parameters] if masks is None else list(masks)
    if [mask.shape for mask in chosen] != [p.shape for p in parameters] or any(m.dtype != torch.bool for m in chosen):
        raise BadInput("masks", "one boolean tensor for each parameter, of its shape", [describe(m) for m in chosen])
    base = _values(loss, module(x)[None])
    found, at = [], iter(chosen)
    for place, layer in enumerate(layers):
        if isinstance(layer, nn.Linear):
            outputs, rest = layer(x), layers[place + 1 :]
            for name, _ in layer.named_parameters():
                mask = next(at)
                slope = torch.zeros_like(mask, dtype=x.dtype)
                places = mask.nonzero()
                size = max(1, TOGETHER // max(1, outputs.numel()))
                values = []
                for part in places.split(size):
                    if reuse:
                        changed = outputs.expand(len(part), *outputs.shape).clone()
                        moved = (
                            x[:, part[:, 1]].T
                            if name == "weight"
                            else torch.ones_like(x[:, :1]).T.expand(len(part), -1)
                        )
                        changed[torch.arange(len(part)), :, part[:, 0]] += spread * moved
                        values.append(_values(loss, _through(rest, changed)))
                    else:
                        values.append(
                            torch.cat([_alone(module, loss, inputs, layer, name, one, spread) for one in part])
                        )
                if values:
                    slope[mask] = (torch.cat(values) - base) / spread
                found.append(slope)
        x = layer(x)
    return found


def grasp_densities(
    module: nn.Sequential,
    loss: Callable[[Tensor], Tensor],
    inputs: Tensor,
    *,
    density: float,
    spread: float = 1e-3,
) -> list[float]:
    r"""Which share of each parameter's coordinates to estimate: those of the largest $-p \odot H g$, by values alone.

    $H g \approx (g(p + \mu g) - g(p)) / \mu$, g by `coordinate_gradient`. The share of each tensor among the chosen is
    kept in training, while the coordinates themselves are drawn anew (`draw_masks`), so that all are stepped in time.

    Source: Chen et al. 2024, "DeepZero", arXiv:2310.02025, section 3 (pruning by gradient signal preservation, layer-wise ratios).

    Args:
        module: as of `coordinate_gradient`.
        loss: likewise.
        inputs: likewise.
        density: of all coordinates together, in (0, 1).
        spread: likewise.

    Returns:
        A share for each parameter.

    Raises:
        BadInput: for a density out of range.
    """
    require_float("density", density, above=0.0, below=1.0)
    parameters: list[Tensor] = list(module.parameters())
    first = coordinate_gradient(module, loss, inputs, spread=spread)
    kept = [parameter.detach().clone() for parameter in parameters]
    with torch.no_grad():
        torch._foreach_add_(parameters, first, alpha=spread)
        try:
            second = coordinate_gradient(module, loss, inputs, spread=spread)
        finally:
            torch._foreach_copy_(parameters, kept)
    scores = [-p * (b - a) / spread for p, a, b in zip(kept, first, second, strict=True)]
    flat = torch.cat([score.flatten() for score in scores])
    least = flat.topk(max(1, round(density * len(flat)))).values[-1]
    return [float((score >= least).double().mean()) for score in scores]


def draw_masks(module: nn.Module, densities: Sequence[float], generator: torch.Generator) -> list[Tensor]:
    """Random masks with these shares of ones, at least one in each tensor whose share is above zero.

    Example:
        >>> masks = draw_masks(nn.Linear(10, 4), [0.25, 0.0], torch.Generator().manual_seed(0))
        >>> [int(mask.sum()) for mask in masks]
        [10, 0]
    """
    masks = []
    for parameter, density in zip(module.parameters(), densities, strict=True):
        count = max(1, round(density * parameter.numel())) if density > 0 else 0
        mask = torch.zeros(parameter.numel(), dtype=torch.bool)
        mask[torch.randperm(parameter.numel(), generator=generator)[:count]] = True
        masks.append(mask.reshape(parameter.shape).to(parameter.device))
    return masks


def _through(layers: Sequence[nn.Module], x: Tensor) -> Tensor:
    for layer in layers:
        x = layer(x)
    return x


def _values(loss: Callable[[Tensor], Tensor], outputs: Tensor) -> Tensor:
    found = loss(outputs)
    if not isinstance(found, Tensor) or found.shape != outputs.shape[:1]:
        raise BadInput("loss", "a function of outputs (k, rows, outputs) to k values", describe(found))
    return found


def _alone(
    module: nn.Sequential,
    loss: Callable[[Tensor], Tensor],
    inputs: Tensor,
    layer: nn.Linear,
    name: str,
    place: Tensor,
    spread: float,
) -> Tensor:
    parameter = layer.get_parameter(name)
    index = tuple(place.tolist())
    kept = parameter[index].clone()
    parameter[index] += spread
    value = _values(loss, module(inputs)[None])
    parameter[index] = kept
    return value
