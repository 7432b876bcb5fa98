"""Maximal-update parametrization: initialization and per-parameter rates that let hyperparameters transfer over width and depth."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from nearly.core.errors import BadInput
from nearly.core.validate import describe, generator_from, require_float, require_int
from nearly.optim.scaling._fans import Axes, Reading, fan_ratios, fans, matching_shapes, readings_of
from nearly.optim.scaling.depth import Residual

Powers = tuple[float, float, float, float]  # of fan-out, fan-in, the larger of them, and depth, each over the base's


class Rule(NamedTuple):
    """How one family's hyperparameters follow from width and depth.

    Attributes:
        rate: powers of the learning rate.
        damping: powers of the dampings of the input-side and the output-side factor; None for a family without.
    """

    rate: Powers
    damping: tuple[Powers, Powers] | None = None


# With h an activation and d its gradient, |h|^2 grows with fan-in and |d|^2 falls with fan-out (and with depth, behind a branch
# scaled by 1/sqrt(depth)); a step must change h by order 1, all branches of a depth together also.
# sgd, adam: Yang et al. 2022, arXiv 2203.03466, table 3. kfac, shampoo: Ishikawa and Karakida 2023, arXiv 2312.12226: A = h h' and
# B = d d' are damped at the size of their own eigenvalues; (d h')(d h')' likewise. muon: as shampoo, whose step has spectral
# norm 1 too on a gradient of rank one (Yang, Simon and Bernstein 2023, arXiv 2310.17813, condition 1: sqrt(fan-out / fan-in)).
# muon_rms: a step of spectral norm sqrt(max(rows, columns)), as Liu et al. 2025, arXiv 2502.16982, scale it.
RULES = {
    "sgd": Rule((1, -1, 0, 0)),
    "adam": Rule((0, -1, 0, -0.5)),
    "muon": Rule((0.5, -0.5, 0, -0.5)),
    "muon_rms": Rule((0.5, -0.5, -0.5, -0.5)),
    "shampoo": Rule((0.5, -0.5, 0, -0.5), ((-1, 1, 0, -1), (-1, 1, 0, -1))),
    "kfac": Rule((0, 0, 0, -1), ((0, 1, 0, 0), (-1, 0, 0, -1))),
}
_EPS: Powers = (-1, 0, 0, -0.5)  # of Adam: the size of the gradient's entries


@dataclass(frozen=True)
class Scaled:
    """What the parametrization makes of one parameter.

    Attributes:
        name: as in `named_parameters()`.
        shape: of the parameter.
        kind: "input" (outputs alone grow with width), "hidden" (both), "output" (inputs alone), "vector" (input, below two
            dimensions) or "fixed".
        family: of its optimizer.
        std: of the normal numbers drawn; 0 for zeros; None where the module's own initialization was left alone.
        rate: factor of the learning rate.
        damping: factors of the input-side and output-side damping, or None.
    """

    name: str
    shape: tuple[int, ...]
    kind: str
    family: str
    std: float | None
    rate: float
    damping: tuple[float, float] | None


@dataclass(frozen=True)
class MaximalUpdate:
    """Parameter groups for `torch.optim` and the table they come from; `print` shows the table.

    Attributes:
        groups: ready for the optimizer: `params`, `lr`, `weight_decay`, `family`, and where asked `eps` or `damping`.
        rows: one per parameter, in the module's order.
    """

    groups: list[dict[str, Any]]
    rows: list[Scaled]

    def __str__(self) -> str:
        head = ("parameter", "shape", "kind", "family", "initial std", "rate")
        lines = [head, *(self._cells(row) for row in self.rows)]
        widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
        return "\n".join("  ".join(map(str.ljust, line, widths)).rstrip() for line in lines)

    @staticmethod
    def _cells(row: Scaled) -> tuple[str, ...]:
        std = "its own" if row.std is None else f"{row.std:.4g}"
        return row.name, "x".join(map(str, row.shape)), row.kind, row.family, std, f"{row.rate:.4g}"


def maximal_update(
    model: nn.Module,
    base: nn.Module,
    *,
    family: str | Callable[[str, Tensor], str],
    lr: float | Mapping[str, float],
    weight_decay: float = 0.0,
    eps: float | None = None,
    damping: float | None = None,
    gain: float = 1.0,
    base_depth: int = 1,
    axes: Mapping[str, Axes] | None = None,
    seed: int | torch.Generator = 0,
) -> MaximalUpdate:
    r"""Initialize a module for feature learning at any width, and give each parameter the rate that goes with it.

    It replaces the sweep of learning rates at full width: the best rate of a narrow base is, nearly, that of the wide model.
    The dimensions in which a parameter differs from the base's are its width. With `o`, `i`, `m` the ratios of its fan-out, its
    fan-in and the larger of them to the base's, and `l` that of depth (`Residual.depth / base_depth` inside a `Residual`, else 1),

        standard deviation   gain / sqrt(fan_in) * min(1, sqrt(o / i))
        rate                 sgd o / i;  adam 1 / (i sqrt(l));  muon, shampoo sqrt(o / (i l));  muon_rms sqrt(o / (i m l));
                             kfac 1 / l
        damping              shampoo i / (o l) on both sides;  kfac i on A (inputs), 1 / (o l) on B (gradients)
        eps of Adam          1 / (o sqrt(l)), the size of the gradient's entries

    with no multiplier in the module. With `base` as wide as the model this is the standard parametrization. Of the base only names
    and shapes are read: it may be on the meta device.

    What is left to the caller: attention logits are to be scaled by `attention_scale(head_width, base_head_width)`, since trained
    queries and keys align; a readout tied to an embedding needs its logits divided by its fan-in's ratio (a tied weight has one
    rate, so no initialization stands in for that); branches deeper than the base's go in `Residual`. Yang et al. advise zero
    readouts and queries: set them to zero after the call.

    Source: Yang and Hu 2021, arXiv 2011.14522 (abc-parametrizations); Yang et al. 2022, Tensor Programs V, arXiv 2203.03466,
    table 3 (no multipliers); Ishikawa and Karakida 2023, arXiv 2312.12226 (K-FAC, Shampoo, dampings); Yang, Simon and Bernstein
    2023, arXiv 2310.17813 (spectral form, any shape; Muon); Bordelon et al. 2023, arXiv 2309.16620, and Yang et al. 2023,
    arXiv 2310.02244 (depth); Everett et al. 2024, arXiv 2407.05872 (eps).

    Departures:
        1. The spectral form serves all kinds at once; at the tables' shapes it is the tables'.
        2. Powers of depth for Muon, Shampoo and K-FAC are not in these papers; they follow by their argument: L branches scaled by
           1/sqrt(L), whose updates are aligned, move the stream by L * (update / sqrt(L)).
        3. Shampoo's damping follows the paper's argument for K-FAC's: the size of its factors' own eigenvalues.
        4. "muon" is for steps of unit spectral norm, `nearly.optim.Muon(groups, adjust_lr_fn="none")`; "muon_rms" is for steps of
           Adam's size, sqrt(max(rows, columns)) times as large: `adjust_lr_fn="match_rms_adamw"`, as in torch.optim.Muon. The
           default of both, "original", has a factor sqrt(max(1, rows / columns)), the same at all widths for hidden matrices of
           fixed aspect, for which Muon is meant: there it goes with "muon", at inputs and outputs with neither. "spectral" has
           the factor of width in itself and needs no other.

    Args:
        model: changed in place: weights of linear, convolutional, recurrent, attention and embedding layers are drawn anew, their
            biases become 0; all other parameters, and those that are frozen, keep their values.
        base: the same architecture, narrower: the same parameter names.
        family: a key of `RULES` ("adam" also for AdamW, RMSprop, Lion and others with steps of fixed entries); or a function of a
            parameter's name and value that says which: Muon for hidden matrices, Adam for the rest.
        lr: the base's learning rate; per family if there are several.
        weight_decay: the base's decoupled decay; divided by each rate's factor, so that `lr * weight_decay` is the same for all.
        eps: the base's eps of Adam; without it the groups leave the optimizer's own.
        damping: the base's damping, absolute (one relative to the factors' eigenvalues needs no scaling). Groups hold a number for
            shampoo, added to both of its factors, and a pair (inputs, gradients) for kfac.
        gain: of the initialization: sqrt(2) for ReLU, say.
        base_depth: of the base's rates.
        axes: for parameters of two or more dimensions in layers not listed above: the dimension that counts outputs and the one
            that counts inputs, None for none; dimensions behind both are a kernel's, those before number independent weights. They
            are then drawn anew, too.
        seed: of the initialization.

    Returns:
        The groups and the table.

    Raises:
        BadInput: for parameters that do not match the base's, those of unknown layers whose dimensions differ and have no
            `axes`, weights shared by layers that read them differently, lazy layers not yet initialized, unknown families and
            numbers out of range.

    Example:
        >>> mlp = lambda n: nn.Sequential(nn.Linear(8, n), nn.Tanh(), nn.Linear(n, n), nn.Tanh(), nn.Linear(n, 2, bias=False))
        >>> scaled = maximal_update(mlp(256), mlp(64), family="adam", lr=1e-2)
        >>> print(scaled)
        parameter  shape    kind    family  initial std  rate
        0.weight   256x8    input   adam    0.3536       1
        0.bias     256      vector  adam    0            1
        2.weight   256x256  hidden  adam    0.0625       0.25
        2.bias     256      vector  adam    0            1
        4.weight   2x256    output  adam    0.03125      0.25
        >>> optimizer = torch.optim.AdamW(scaled.groups)
    """
    require_float("gain", gain, above=0)
    if not 0 <= weight_decay < math.inf:
        raise BadInput("weight_decay", "finite and >= 0", describe(weight_decay))
    for name, value in (("eps", eps), ("damping", damping)):
        if value is not None:
            require_float(name, value, above=0)
    require_int("base_depth", base_depth, least=1)
    generator = generator_from(seed)
    shapes = matching_shapes(model, base)
    readings = readings_of(model, axes or {})
    depths = _depths(model)
    rows: list[Scaled] = []
    settings: list[tuple[dict[str, Any], Tensor]] = []
    for name, parameter in model.named_parameters():
        widths = fan_ratios(name, parameter, shapes[name], readings[name])
        ratios = (*widths, depths.get(parameter, base_depth) / base_depth)
        chosen = family if isinstance(family, str) else family(name, parameter)
        if chosen not in RULES:
            raise BadInput("family", "one of " + ", ".join(RULES), repr(chosen))
        rule = RULES[chosen]
        std = _deviation(name, parameter, readings[name], ratios, gain)
        rate = _power(ratios, rule.rate)
        dampings = None
        if rule.damping is not None:
            dampings = (_power(ratios, rule.damping[0]), _power(ratios, rule.damping[1]))
        rows.append(Scaled(name, tuple(parameter.shape), _kind(parameter, ratios), chosen, std, rate, dampings))
        setting = {"lr": _rate_of(lr, chosen) * rate, "weight_decay": weight_decay / rate, "family": chosen}
        if eps is not None and chosen == "adam":
            setting["eps"] = eps * _power(ratios, _EPS)
        if damping is not None and dampings is not None:
            pair = damping * dampings[0], damping * dampings[1]
            setting["damping"] = pair if chosen == "kfac" else pair[0]
        settings.append((setting, parameter))
    for row, (_, drawn) in zip(rows, settings, strict=True):  # nothing has changed before all is checked
        if row.std is not None:
            _draw(drawn, row.std, generator)
    for module in model.modules():
        if not isinstance(module, nn.Embedding | nn.EmbeddingBag) or not module.weight.requires_grad:
            continue
        if module.padding_idx is not None:
            module.weight.detach()[module.padding_idx] = 0  # where no gradient would ever move it
    return MaximalUpdate(_merged(settings), rows)


def attention_scale(head_width: int, base_head_width: int) -> float:
    """What to multiply attention logits by: sqrt(base_head_width) / head_width, which is 1/sqrt(d) at the base and falls as 1/d.

    It replaces 1/sqrt(d): trained queries and keys are correlated, their products grow as d.

    Source: Yang et al. 2022, arXiv 2203.03466, definition 4.1.

    Args:
        head_width: of one head of the model.
        base_head_width: of one head of the base.

    Returns:
        The factor.

    Raises:
        BadInput: for widths below 1.

    Example:
        >>> attention_scale(16, 16), attention_scale(64, 16)
        (0.25, 0.0625)
    """
    require_int("head_width", head_width, least=1)
    return math.sqrt(require_int("base_head_width", base_head_width, least=1)) / head_width


def _depths(model: nn.Module) -> dict[Tensor, int]:
    blocks = (block for block in model.modules() if isinstance(block, Residual))
    return {parameter: block.depth for block in blocks for parameter in block.parameters()}


def _deviation(name: str, parameter: Tensor, reading: Reading, ratios: Powers, gain: float) -> float | None:
    axes, drawn = reading
    if not drawn or axes is None or not parameter.requires_grad:
        return None
    if parameter.numel() == 0:
        raise BadInput(name, "of one entry at least", describe(parameter))
    if parameter.ndim < 2:
        return 0.0
    return gain / math.sqrt(fans(tuple(parameter.shape), axes)[1]) * min(1.0, math.sqrt(ratios[0] / ratios[1]))


def _draw(parameter: Tensor, std: float, generator: torch.Generator) -> None:
    if std == 0:
        parameter.detach().zero_()
        return
    numbers = torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype, device=generator.device)
    parameter.detach().copy_(numbers).mul_(std)


def _kind(parameter: Tensor, ratios: Powers) -> str:
    if ratios[0] == 1:
        return "fixed" if ratios[1] == 1 else "output"
    if ratios[1] != 1:
        return "hidden"
    return "vector" if parameter.ndim < 2 else "input"


def _power(ratios: Powers, powers: Powers) -> float:
    return math.prod(ratio**power for ratio, power in zip(ratios, powers, strict=True))


def _rate_of(lr: float | Mapping[str, float], family: str) -> float:
    if isinstance(lr, Mapping):
        if family not in lr:
            raise BadInput("lr", f"given for the family {family}", f"families {sorted(lr)}")
        lr = lr[family]
    return require_float("lr", lr, above=0)


def _merged(settings: list[tuple[dict[str, Any], Tensor]]) -> list[dict[str, Any]]:
    groups: dict[tuple[tuple[str, Any], ...], list[Tensor]] = {}
    for setting, parameter in settings:
        groups.setdefault(tuple(setting.items()), []).append(parameter)
    return [{"params": parameters, **dict(key)} for key, parameters in groups.items()]
