"""Gradients of perceptrons from values of the loss alone, all coordinates of a layer at once, and which of them to take."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from nearly.core.errors import BadInput
from nearly.core.validate import as_floating, describe, require_float
from nearly.optim._vectors import put

ELEMENTWISE = {nn.ELU, nn.GELU, nn.Identity, nn.LeakyReLU, nn.ReLU, nn.Sigmoid, nn.SiLU, nn.Softplus, nn.Tanh}
TOGETHER = 2**20  # numbers that changed outputs may hold at a time, so that they stay in a core's cache


@torch.no_grad()
def coordinate_gradient(
    module: nn.Sequential,
    loss: Callable[[Tensor], Tensor],
    inputs: Tensor,
    *,
    masks: Sequence[Tensor] | None = None,
    spread: float = 1e-3,
) -> list[Tensor]:
    r"""$(L(p + \mu e_i) - L(p)) / \mu$ for all coordinates i of a sequence of layers, or for those of masks; zero elsewhere.

    It replaces a forward pass of the module for each coordinate. A change of one weight of a linear layer moves one of its
    outputs by $\mu$ times an input: the layers before it are not evaluated again (features are reused), outputs of the next linear
    layer change by a product of two vectors, and many coordinates go through what follows in one batch. Behind wide layers this
    takes a twentieth of the time of the forward passes; in small perceptrons the time is that of the loss.

    Source: Chen et al. 2024, "DeepZero", arXiv:2310.02025, equation 2 (coordinate-wise estimation) and section 4 (feature reuse,
    parallel forward passes).

    Args:
        module: layers one after another, of which `nn.Linear` alone have parameters; the others treat rows by themselves.
        loss: of outputs (k, rows, outputs), k values; a mean over rows as a rule.
        inputs: shape (rows, inputs), in the module's precision.
        masks: one boolean tensor for each of `module.parameters()`, in its shape.
        spread: $\mu$.

    Returns:
        Tensors like the parameters; put them into `.grad`, and any optimizer steps by them.

    Raises:
        BadInput: for a module of other layers with parameters, inputs in another precision, or masks that do not fit.

    Example:
        >>> layer = nn.Sequential(nn.Linear(2, 1, bias=False)).double()
        >>> (slope,) = coordinate_gradient(layer, lambda y: y.mean(dim=(1, 2)), torch.tensor([[1.0, 3.0]], dtype=torch.float64))
        >>> [round(value, 6) for value in slope[0].tolist()]
        [1.0, 3.0]
    """
    require_float("spread", spread, above=0.0)
    parameters = _parameters(module)
    x = as_floating("inputs", inputs, dimensions=2)
    if x.dtype != parameters[0].dtype:
        raise BadInput("inputs", f"in {parameters[0].dtype} as the module", describe(inputs))
    chosen = [torch.ones_like(p, dtype=torch.bool) for p in parameters] if masks is None else list(masks)
    if [mask.shape for mask in chosen] != [p.shape for p in parameters] or any(m.dtype != torch.bool for m in chosen):
        raise BadInput("masks", "one boolean tensor for each parameter, of its shape", [describe(m) for m in chosen])
    base = _values(loss, module(x)[None])
    found, at = [], iter(chosen)
    for place, layer in enumerate(module):
        outputs = layer(x)
        if type(layer) is nn.Linear:
            later = _Later(outputs, list(module)[place + 1 :])
            for parameter in layer.parameters():
                mask = next(at)
                values = [base[:0]]
                for part in mask.nonzero().split(later.together):
                    change = spread * x.T[part[:, 1]] if parameter.ndim == 2 else spread
                    values.append(_values(loss, later(part[:, 0], change)))
                slopes = torch.zeros_like(parameter)
                slopes[mask] = (torch.cat(values) - base) / spread
                found.append(slopes)
        x = outputs
    return found


class _Later:
    """The layers after some outputs, shape (rows, outputs), of which one column is changed at a time."""

    def __init__(self, outputs: Tensor, layers: list[nn.Module]) -> None:
        alone = list(itertools.takewhile(lambda layer: type(layer) in ELEMENTWISE, layers))
        after = layers[len(alone) :]
        self.before, self.alone = outputs, nn.Sequential(*alone)
        self.inputs = self.outputs = self.alone(outputs.clone())  # some activations work in place
        self.weight: Tensor | None = None
        if after and type(after[0]) is nn.Linear:
            self.weight, self.outputs = after[0].weight, after[0](self.inputs)
            after = after[1:]
        self.rest = nn.Sequential(*after)
        self.together = max(1, TOGETHER // self.outputs.numel())

    def __call__(self, columns: Tensor, change: Tensor | float) -> Tensor:
        """Final outputs (k, rows, ...) for k columns, each of which is changed alone, by its row of `change` (k, rows)."""
        column = self.alone(self.before.T[columns] + change)
        if self.weight is not None:
            column = column - self.inputs.T[columns]
            return self.rest(self.outputs + column[:, :, None] * self.weight.T[columns][:, None])
        changed = self.outputs.repeat(len(columns), 1, 1)
        changed[torch.arange(len(columns), device=columns.device), :, columns] = column
        return self.rest(changed)


@torch.no_grad()
def grasp_densities(
    module: nn.Sequential,
    loss: Callable[[Tensor], Tensor],
    inputs: Tensor,
    *,
    density: float,
    spread: float = 1e-3,
) -> list[float]:
    r"""Which share of each parameter's coordinates to estimate: those of the largest $|p \odot H g|$, by values alone.

    $H g \approx (g(p + \mu g) - g(p)) / \mu$, g by `coordinate_gradient`. The share of each tensor among the chosen is kept in
    training, while the coordinates themselves are drawn anew (`draw_masks`), so that all are stepped in time.

    Source: Chen et al. 2024, "DeepZero", arXiv:2310.02025, section 3 (pruning by gradient signal preservation, layer-wise ratios).

    Departures:
        1. g is found by coordinates, where the authors' code takes 192 random directions.
        2. Biases are chosen among, too; that code estimates all of them at every step.

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
    parameters = _parameters(module)
    first = coordinate_gradient(module, loss, inputs, spread=spread)
    kept = [parameter.clone() for parameter in parameters]
    torch._foreach_add_(parameters, first, alpha=spread)
    try:
        second = coordinate_gradient(module, loss, inputs, spread=spread)
    finally:
        put(parameters, kept)
    scores = torch.cat([(p * (b - a)).abs().flatten() for p, a, b in zip(kept, first, second, strict=True)])
    kept_ones = torch.zeros_like(scores)
    kept_ones[scores.topk(max(1, round(density * len(scores)))).indices] = 1.0
    return [float(part.mean()) for part in kept_ones.split([p.numel() for p in parameters])]


def draw_masks(module: nn.Module, densities: Sequence[float], generator: torch.Generator) -> list[Tensor]:
    """Random masks with these shares of ones, at least one in each tensor.

    Example:
        >>> masks = draw_masks(nn.Linear(10, 4), [0.25, 0.0], torch.Generator().manual_seed(0))
        >>> [int(mask.sum()) for mask in masks]
        [10, 1]
    """
    masks = []
    for parameter, density in zip(module.parameters(), densities, strict=True):
        mask = torch.zeros(parameter.numel(), dtype=torch.bool)
        mask[torch.randperm(len(mask), generator=generator)[: max(1, round(density * len(mask)))]] = True
        masks.append(mask.reshape(parameter.shape).to(parameter.device))
    return masks


def _parameters(module: nn.Module) -> list[Tensor]:
    """The parameters, in the order of the layers.

    Raises:
        BadInput: where others than linear layers have any, or two layers the same.
    """
    layers = list(module) if isinstance(module, nn.Sequential) else []
    found: list[Tensor] = [
        parameter for layer in layers if type(layer) is nn.Linear for parameter in layer.parameters()
    ]
    if not found or len(found) != len(list(module.parameters())):
        raise BadInput(
            "module", "an nn.Sequential whose parameters are those of nn.Linear, each its own", describe(module)
        )
    return found


def _values(loss: Callable[[Tensor], Tensor], outputs: Tensor) -> Tensor:
    found = loss(outputs)
    if not isinstance(found, Tensor) or found.shape != outputs.shape[:1]:
        raise BadInput("loss", "a function of outputs (k, rows, outputs) to k values", describe(found))
    return found
