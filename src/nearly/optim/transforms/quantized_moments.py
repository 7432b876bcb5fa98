"""Adam's moments in one byte each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch

from nearly.linalg.quantize import Quantized, quantize
from nearly.optim.step import Transform
from nearly.optim.transforms.moments import adam_directions

if TYPE_CHECKING:
    from torch import Tensor

    from nearly.optim.step import Step

BLOCK = 256  # entries that share a scale; with it a moment takes 1 + 4 / 256 bytes
FEW = 4096  # below it moments stay as they are (Dettmers et al. 2021, section 2.2: small tensors gain nothing)


@dataclass(frozen=True)
class QuantizedMoments(Transform):
    r"""Adam's direction, as by `Moments`, of moments that are kept in 8 bits: codes of dynamic mappings and a scale for each block.

    Source: Dettmers, Lewis, Shleifer, Zettlemoyer 2021, "8-bit Optimizers via Block-wise Quantization", arXiv:2110.02861.

    Args:
        betas: decay of both means.
        eps: as of `Moments`.
    """

    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    separate: ClassVar[bool] = True

    def __call__(self, updates: list[Tensor], step: Step) -> list[Tensor]:
        """The directions."""
        found = list(updates)
        for large in (False, True):
            places = [i for i, update in enumerate(updates) if (update.numel() >= FEW) == large]
            if not places:
                continue
            part, given = step.subset(places), [updates[i] for i in places]
            if large:
                mean, square = (_read(part, name, signed=name == "mean") for name in ("mean", "square"))
            else:
                mean, square = part.state("mean"), part.state("square")
            for i, direction in zip(
                places, adam_directions(given, mean, square, step.number, self.betas, self.eps), strict=True
            ):
                found[i] = direction
            if large:
                _write(part, "mean", mean, signed=True)
                _write(part, "square", square, signed=False)
        return found


def _read(step: Step, name: str, *, signed: bool) -> list[Tensor]:
    if step.number == 1:
        return [torch.zeros_like(parameter) for parameter in step.parameters]
    codes, scales = step.state(f"{name}_codes"), step.state(f"{name}_scales")
    return [
        Quantized(code, scale, parameter.shape, parameter.dtype, 8, "dynamic", signed, BLOCK).dequantize()
        for code, scale, parameter in zip(codes, scales, step.parameters, strict=True)
    ]


def _write(step: Step, name: str, values: list[Tensor], *, signed: bool) -> None:
    # What a gradient of finite entries gives is finite: nothing has to be looked at.
    kept = [quantize(value, 8, "dynamic", BLOCK, signed=signed, check=False) for value in values]
    step.keep(f"{name}_codes", [one.codes for one in kept])
    step.keep(f"{name}_scales", [one.scales for one in kept])
