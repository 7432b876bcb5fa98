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
    signs = parts(_signs(sum(one.numel() for one in step.parameters), step), step.parameters)
    return list(torch._foreach_mul(signs, step.product(signs)))


def _signs(count: int, step: Step) -> Tensor:
    """Random signs for all parameters in one draw of a bit each, which is also what goes to their device."""
    like = step.parameters[0]
    words = torch.empty(-(-count // 64), dtype=torch.int64).random_(-(2**63), None, generator=step.generator())
    shifts = torch.arange(8, dtype=torch.uint8, device=like.device)[:, None]
    bits = (words.view(torch.uint8).to(like.device) >> shifts).bitwise_and_(1)
    return bits.view(-1)[:count].to(like.dtype).mul_(2).sub_(1)
