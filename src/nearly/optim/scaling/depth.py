"""Residual branches scaled by 1/sqrt(depth), with which hyperparameters transfer over depth."""

from __future__ import annotations

import math

from torch import Tensor, nn

from nearly.core.errors import BadInput
from nearly.core.validate import describe, require_int


class Residual(nn.Module):
    r"""`x + branch(x) / sqrt(depth)`: one of `depth` residual branches.

    It replaces `x + branch(x)`, whose stream grows and whose best learning rate falls with depth. L branches at random add up to
    order 1; under the rates of `maximal_update`, which finds these modules by itself, each branch changes by order 1/sqrt(L) and
    all changes, aligned, move the stream by order 1: networks of growing depth have a limit that learns features.

    Source: Bordelon, Noci, Li, Hanin and Pehlevan 2023, Depthwise hyperparameter transfer in residual networks, arXiv 2309.16620,
    equation 1; Yang, Yu, Zhu and Hayou 2023, Tensor Programs VI, arXiv 2310.02244 (Adam's 1/sqrt(depth)).

    Args:
        branch: maps a tensor to one of its own shape; one layer and its nonlinearity in the theory.
        depth: the number of branches along the stream.

    Raises:
        BadInput: for a branch that is no module, and depths below 1.

    Example:
        >>> import torch
        >>> stream = nn.Sequential(*(Residual(nn.Sequential(nn.Linear(8, 8), nn.Tanh()), depth=16) for _ in range(16)))
        >>> round(Residual(nn.Identity(), depth=4)(torch.ones(1)).item(), 3)
        1.5
    """

    def __init__(self, branch: nn.Module, depth: int) -> None:
        super().__init__()
        if not isinstance(branch, nn.Module):
            raise BadInput("branch", "a torch.nn.Module", describe(branch))
        self.branch, self.depth = branch, require_int("depth", depth, least=1)

    def forward(self, x: Tensor) -> Tensor:
        """The stream behind the branch, in the shape of `x`."""
        out: Tensor = self.branch(x)
        return x + out / math.sqrt(self.depth)

    def extra_repr(self) -> str:
        """The depth, for printing."""
        return f"depth={self.depth}"
