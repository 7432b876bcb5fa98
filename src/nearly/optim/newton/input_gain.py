"""Networks of one hidden layer: output weights by least squares, hidden weights along whitened gradients with a gain per input."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Unpack

import torch
from torch import Tensor, nn

from nearly.core.errors import BadInput
from nearly.core.validate import describe
from nearly.optim._vectors import safe_ratio, wide
from nearly.optim.newton._one_hidden_layer import hidden_weights, output_weights
from nearly.optim.optimizer import Optimizer, Options
from nearly.optim.step import Transform

if TYPE_CHECKING:
    from nearly.optim._layers import Layer
    from nearly.optim.step import Step

CARD = {
    "name": "OptimalInputGain",
    "rows": [217],
    "kind": "one_hidden_layer",
    "replaces": "Levenberg and Marquardt's method on regressions with many inputs or outputs",
    "cost": "two passes over all data; rows x outputs x inputs x (hidden units + inputs) for the gains, rows x hidden units^2 for "
    "the output weights",
    "needs": ["closure", "layers"],
    "state": {"matrix": {}, "vector": {}},
    "parameters": {
        "lr": ["at least", 0, None],
        "direction": ["choice", "hidden_weight", "backpropagation"],
        "gains": ["choice", True, False],
        "halvings": ["integer", 0, None],
    },
    "settings": {},
    "skips": {},
}
SLACK = 10.0  # roots of the rounding unit, of the loss, by which it may differ from a sum of squares


@dataclass(frozen=True)
class _TwoStages(Transform):
    """Moves of the hidden layer, and of the output layer to its least squares after them."""

    activation: nn.Module
    whitened: bool
    gains: bool
    halvings: int
    needs: ClassVar[tuple[str, ...]] = ("closure", "layers")

    def __call__(self, updates: list[Tensor], step: Step) -> list[Tensor]:
        """What is to be subtracted.

        Raises:
            BadInput: in the first step, where the loss is no sum of squares.
        """
        saved = [parameter.clone() for parameter in step.parameters]
        layers, loss = step.layers(), -step.loss if step.group["maximize"] else step.loss
        rows = len(layers[-1].inputs)
        slope = layers[-1].output_gradients.to(wide(loss.dtype))
        # A sum of squared errors e times c / 2 has the gradient c e: loss and gradient tell c.
        unit = safe_ratio(2 * loss.to(slope.dtype), slope.square().sum())
        error = unit * slope
        moves: dict[int, Tensor] = {}
        if step.number == 1:
            found, error = output_weights(layers[-1], error, step)
            _add(moves, found)
            now = self._moved(step, saved, moves)
            squares = safe_ratio(error.square().sum(), unit) / 2
            if bool((now - squares).abs() > SLACK * torch.finfo(loss.dtype).eps ** 0.5 * loss.abs()):
                requirement = "one whose loss is a multiple of the sum of squared errors"
                raise BadInput("closure", requirement, f"one that goes to {float(now):.3g}, not {float(squares):.3g}")
            layers = _last(step, rows)
        hidden: dict[int, Tensor] = {}
        if len(layers) > 1:
            hidden = hidden_weights(layers, error, step, self.activation, whitened=self.whitened, gains=self.gains)
        for trial in range(self.halvings + 1):
            tried = dict(moves)
            _add(tried, {key: 0.5**trial * move for key, move in hidden.items()})
            self._moved(step, saved, tried)
            output = _last(step, rows)[-1]
            slope = output.output_gradients.to(error.dtype)
            found, after = output_weights(output, unit * slope, step)
            _add(tried, found)
            if bool(after.square().sum() <= error.square().sum()):
                moves = tried
                break
        torch._foreach_copy_(step.parameters, saved)
        return [
            -moves[id(parameter)].to(parameter.dtype) if id(parameter) in moves else torch.zeros_like(parameter)
            for parameter in step.parameters
        ]

    def _moved(self, step: Step, saved: list[Tensor], moves: dict[int, Tensor]) -> Tensor:
        """The loss, negative where it is maximized, after these moves."""
        torch._foreach_copy_(step.parameters, saved)
        for parameter in step.parameters:
            if id(parameter) in moves:
                parameter.add_(moves[id(parameter)].to(parameter.dtype), alpha=step.group["lr"])
        loss, _ = step.evaluate()
        return -loss if step.group["maximize"] else loss


def _add(moves: dict[int, Tensor], more: dict[int, Tensor]) -> None:
    for key, move in more.items():
        moves[key] = moves[key] + move if key in moves else move


def _last(step: Step, rows: int) -> list[Layer]:
    """The layers in the last pass: those before have left their rows too."""
    found = step.layers()
    return [type(one)(one.module, one.inputs[-rows:], one.output_gradients[-rows:]) for one in found]


class OptimalInputGain(Optimizer):
    r"""Regression with one hidden layer, $y = V f(W x)$, on all data at once: each step moves W, then solves for V.

    V has its least squares, $V \sum o o^T = \sum t o^T$ with $o = f(W x)$ and targets t ("output weight optimization"). W moves
    along its negative gradient G by whitened inputs, $W \leftarrow W + G A^T \mathrm{diag}(r) A$ with $A^T A$ the inverse of the
    inputs' mean $x x^T$ ("hidden weight optimization", or with A the identity plain backpropagation). Scaling inputs by gains, in a
    network that computes the same, scales the move: the gains r minimize the errors to first order in the move, by the
    Gauss-Newton equations, as many as inputs,

        $$\sum J^T J\, r = \sum J^T e, \qquad J_{im} = (A x)_m \sum_k V_{ik} f'_k (G A^T)_{km}.$$

    Biases count as weights of an input 1. The loss is to be a multiple of the sum of squared errors, which is checked in the first
    step. No rate needs tuning, and no step raises the loss.

    Departures: (1) no weights lead from inputs to outputs directly; (2) the gains are those of whitened inputs, in which hidden
    weight optimization descends: those of the inputs themselves bring less (errors of 0.023, not 0.014, on Friedman's first
    function); (3) singular equations are solved by eigenvalues, not by Gram and Schmidt; (4) a move after which the errors are
    larger is halved, `halvings` times at most, then left out.

    Source: Rane, Tyagi, Malalur, Shinge, Manry 2023, "Optimal Input Gain: All You Need to Supercharge a Feed-Forward Neural
    Network", arXiv:2303.17732.

    Args:
        params: of the module, in one group.
        lr: times both moves; 1 is the paper's.
        direction: "hidden_weight" or "backpropagation", see above.
        gains: one for each input; or, if False, one optimal rate for all.
        halvings: see above.
        options: see `Options`; `module` is an `nn.Sequential` of a linear layer, an elementwise activation without parameters,
            and a linear layer.

    Raises:
        BadInput: for values out of range, by name; for other modules; where `step` gets no closure, or one of another loss.

    Example:
        >>> x = torch.linspace(-1, 1, 50)[:, None]
        >>> model = nn.Sequential(nn.Linear(1, 5), nn.Tanh(), nn.Linear(5, 1))
        >>> optimizer = OptimalInputGain(model.parameters(), module=model)
        >>> losses = [float(optimizer.step(lambda: (model(x) - x**3).square().mean()).detach()) for _ in range(20)]
        >>> losses[-1] < losses[0] / 4
        True
    """

    joint: ClassVar[bool] = True

    def __init__(
        self,
        params: Iterable[Any],
        *,
        lr: float = 1.0,
        direction: str = "hidden_weight",
        gains: bool = True,
        halvings: int = 8,
        **options: Unpack[Options],
    ) -> None:
        module = options.get("module")
        parts = list(module) if isinstance(module, nn.Sequential) else []
        if [isinstance(part, nn.Linear) for part in parts] != [True, False, True] or list(parts[1].parameters()):
            requirement = "an nn.Sequential of a linear layer, an activation without parameters and a linear layer"
            advice = "Write OptimalInputGain(model.parameters(), module=model)."
            raise BadInput("module", requirement, describe(module), advice)
        self._activation = parts[1]
        super().__init__(params, locals(), **options)

    def recipe(self, group: dict[str, Any]) -> Sequence[Transform]:
        """Both stages."""
        whitened = group["direction"] == "hidden_weight"
        return (_TwoStages(self._activation, whitened, group["gains"], group["halvings"]),)

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_activation": self._activation}
