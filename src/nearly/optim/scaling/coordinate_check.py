"""Whether training changes activations alike at all widths: the test that a parametrization is right."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from nearly.core.drawing import new_figure
from nearly.core.errors import BadInput
from nearly.core.validate import describe, require_int

if TYPE_CHECKING:
    from jaxtyping import Float
    from matplotlib.figure import Figure
    from torch.optim import Optimizer

Loss = Callable[[Any, Any], Tensor]


@dataclass(frozen=True)
class CoordinateCheck:
    """Root-mean-square changes of activations, and how they grow with width.

    Attributes:
        widths: ascending.
        layers: names of the modules watched, in order of their first call.
        changes: shape (widths, steps, layers): the change of the layer's output since initialization, on the first batch,
            root mean square over entries and seeds.
    """

    widths: tuple[int, ...]
    layers: tuple[str, ...]
    changes: Float[Tensor, "widths steps layers"]

    def slopes(self, step: int = -1) -> dict[str, float]:
        """Per layer the least-squares slope of log(change) against log(width): 0 learns features at any width, below is frozen.

        Args:
            step: after which the change is taken; the last one unless told.

        Returns:
            The slopes; NaN for a layer whose output did not change at some width.
        """
        x = torch.tensor(self.widths, dtype=torch.float64).log()
        x = x - x.mean()
        y = self.changes[:, step].log()
        slopes = (x @ (y - y.mean(dim=0))) / (x @ x)
        return dict(zip(self.layers, slopes.tolist(), strict=True))

    def plot(self) -> Figure:
        """Change against width, a line per step, a panel per layer, with the last step's slope.

        Returns:
            A figure outside matplotlib's global state.

        Raises:
            MissingExtra: matplotlib is not installed.
        """
        figure = new_figure(2.6 * len(self.layers) + 0.6, 3.0, "drawing a coordinate check")
        panels = figure.subplots(1, len(self.layers), sharey=True, squeeze=False)[0]
        steps = self.changes.shape[1]
        for place, (panel, (layer, slope)) in enumerate(zip(panels, self.slopes().items(), strict=True)):
            for step in range(steps):
                shade = str(0.8 * (1 - (step + 1) / steps))
                panel.plot(self.widths, self.changes[:, step, place].numpy(), color=shade, marker="o", ms=3, lw=1)
            panel.set(xscale="log", yscale="log", xlabel="width")
            panel.set_xticks(self.widths, [str(width) for width in self.widths])
            panel.set_xticks([], minor=True)
            panel.set_title(f"{layer}\nslope {slope:+.2f}", fontsize="medium")
        panels[0].set_ylabel("RMS change (darker: later)")
        return figure


def coordinate_check(
    make_model: Callable[[int, int], nn.Module],
    widths: Sequence[int],
    make_optimizer: Callable[[nn.Module, int], Optimizer],
    batch: tuple[Any, Any],
    *,
    loss: Loss,
    steps: int = 4,
    seeds: int = 1,
    layers: Sequence[str] | None = None,
) -> CoordinateCheck:
    r"""Train copies of different widths a few steps on one batch, and measure how much each layer's output changes.

    It replaces the sweep over widths by which a wrong parametrization would show: in a right one every layer's change has the same
    order at all widths (slope 0); with the rates of standard parametrization it blows up (slope 1/2 or 1), in the kernel regime
    it dies (slope -1/2).

    Source: Yang et al. 2022, Tensor Programs V, arXiv 2203.03466, appendix D.1 (coordinate checking).

    Args:
        make_model: from a width and a seed to a module, initialized from that seed.
        widths: two or more, different.
        make_optimizer: from a module and the seed to its optimizer; the place to call `maximal_update`, with that seed.
        batch: inputs and targets, the same for all; the module is called on the inputs.
        loss: of the module's outputs and the targets.
        steps: of training; the change is measured after each.
        seeds: models per width.
        layers: names of modules to watch whose outputs are tensors; unless told, all modules without submodules of which that is
            true and that the model calls. Of a module called several times the last output counts.

    Returns:
        The changes and their slopes.

    Raises:
        BadInput: for fewer than two widths, layers that are not there or were not called, and a loss that is not finite.

    Example:
        >>> from nearly.optim.scaling import maximal_update
        >>> mlp = lambda n: nn.Sequential(nn.Linear(4, n), nn.Tanh(), nn.Linear(n, n), nn.Tanh(), nn.Linear(n, 1))
        >>> def make(model, seed):
        ...     return torch.optim.SGD(maximal_update(model, mlp(32), family="sgd", lr=0.1, seed=seed).groups)
        >>> batch = torch.ones(3, 4), torch.ones(3, 1)
        >>> check = coordinate_check(lambda n, seed: mlp(n), [32, 64, 128], make, batch, loss=nn.functional.mse_loss)
        >>> check.changes.shape
        torch.Size([3, 4, 5])
    """
    widths = tuple(sorted({require_int("widths", width, least=1) for width in widths}))
    if len(widths) < 2:
        raise BadInput("widths", "two or more, different", widths)
    require_int("steps", steps, least=1)
    require_int("seeds", seeds, least=1)
    names: tuple[str, ...] = ()
    changes = []
    for width in widths:
        squares: Tensor | float = 0.0
        for seed in range(seeds):
            model = make_model(width, seed)
            watched = _Watch(model, layers)
            try:
                squares = squares + _train(model, make_optimizer(model, seed), batch, loss, steps, watched)
            finally:
                for hook in watched.hooks:
                    hook.remove()
            names = names or tuple(watched.outputs)
        changes.append((torch.as_tensor(squares) / seeds).sqrt())
    return CoordinateCheck(widths, names, torch.stack(changes))


class _Watch:
    """Keeps the last output of each watched module, in the order of the calls."""

    def __init__(self, model: nn.Module, layers: Sequence[str] | None) -> None:
        modules = dict(model.named_modules())
        self.outputs: dict[str, Tensor] = {}
        self.asked = tuple(layers or ())
        self.hooks = []
        unknown = [name for name in self.asked if name not in modules]
        if unknown:
            raise BadInput("layers", "names of the model's modules", repr(unknown[0]))
        leaves = [name for name, module in modules.items() if not any(True for _ in module.children())]
        for name in leaves if layers is None else layers:
            self.hooks.append(modules[name].register_forward_hook(self._keep(name)))

    def _keep(self, name: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            if isinstance(output, Tensor):
                self.outputs[name] = output.detach().clone()  # a following layer may work in place
            elif name in self.asked:
                raise BadInput("layers", "modules whose outputs are tensors", f"{name!r}, {describe(output)}")

        return hook


def _train(
    model: nn.Module, optimizer: Optimizer, batch: tuple[Any, Any], loss: Loss, steps: int, watched: _Watch
) -> Tensor:
    """Mean squared changes, shape (steps, layers), in double precision on the CPU.

    Raises:
        BadInput: for layers that were not called and a loss that is not finite.
    """
    inputs, targets = batch
    rows = []
    first: dict[str, Tensor] = {}
    for step in range(steps + 1):
        optimizer.zero_grad()
        value = loss(model(inputs), targets)
        missing = [name for name in watched.asked if name not in watched.outputs]
        if missing or not watched.outputs:
            raise BadInput("layers", "modules that the model calls", repr(missing[0]) if missing else "none")
        if not bool(torch.isfinite(value)):
            raise BadInput("loss", "finite", f"{value.item()} after {step} steps", "Lower the learning rate.")
        if step == 0:
            first = dict(watched.outputs)
        else:
            squares = [(watched.outputs[name] - first[name]).double().square().mean().cpu() for name in first]
            rows.append(torch.stack(squares))
        if step < steps:
            value.backward()
            optimizer.step()
    return torch.stack(rows)
