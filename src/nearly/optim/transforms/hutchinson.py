"""The Hessian's diagonal, estimated from one product."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from nearly.optim._vectors import parts

if TYPE_CHECKING:
    from torch import Tensor

    from nearly.optim.step import Step


def hutchinson(step: Step) -> list[Tensor]:
    r"""$z \odot H z$ for random signs z: unbiased for the diagonal of H, with the variance $\sum_{j \ne i} H_{ij}^2$.

    Source: Bekas, Kokiopoulou, Saad 2007, "An estimator for the diagonal of a matrix", doi:10.1016/j.apnum.2007.01.003.

    Args:
        step: of a member that asks for curvature.

    Returns:
        One tensor per parameter.
    """
    count = sum(one.numel() for one in step.parameters)
    # One draw, and one copy to the device, for all.
    bits = torch.randint(2, (count,), generator=step.generator(), dtype=torch.int8)
    signs = parts(bits.to(step.parameters[0].device).to(step.parameters[0].dtype).mul_(2).sub_(1), step.parameters)
    return list(torch._foreach_mul(signs, step.product(signs)))
