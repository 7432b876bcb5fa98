"""The reach of a planar robot arm: a smooth function with a square-root point where the arm folds onto its shoulder."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from nearly.core.domain import Box
from nearly.core.nouns import Function
from nearly.core.validate import require_int

if TYPE_CHECKING:
    from torch import Tensor


def robot_arm(links: int = 2) -> Function:
    """Distance of the hand from the shoulder of a planar arm, uniform over lengths and angles.

    Inputs alternate: length L_i in [0, 1], then angle t_i in [0, 2 pi] of link i against the link before it:

        (u^2 + v^2)^(1/2),  u = sum_i L_i cos(t_1 + ... + t_i),  v = sum_i L_i sin(t_1 + ... + t_i)

    It is not differentiable where the hand meets the shoulder, and does not depend on the first angle.

    Source: An, Owen 2001, Quasi-regression, doi:10.1006/jcom.2001.0588, section 5, there with four links.

    Args:
        links: at least 1; two make a function of four variables.

    Returns:
        The target: inputs (n, 2 links), outputs (n, 1); errors in units of its spread.

    Raises:
        BadInput: fewer than one link.

    Example:
        >>> import torch
        >>> robot_arm()(torch.tensor([[1.0, 0.3, 1.0, 0.0]]))
        tensor([[2.]])
    """
    require_int("links", links, least=1)
    return Function(_reach, Box([0.0, 0.0] * links, [1.0, 2 * math.pi] * links), name="robot arm")


def _reach(x: Tensor) -> Tensor:
    lengths, angles = x[:, 0::2], x[:, 1::2].cumsum(dim=1)
    return ((lengths * angles.cos()).sum(dim=1).square() + (lengths * angles.sin()).sum(dim=1).square()).sqrt()
