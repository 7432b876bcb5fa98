"""A tiny pre-norm transformer decoder, and text that ships with Python to train it on.

Not that of `nearly.optim.trainings`, whose biases, gains and fixed scale of logits claims on widths and rates vary or leave out.
"""

from __future__ import annotations

import pydoc_data.topics
from collections.abc import Iterator

import torch
from torch import Tensor, nn

HEADS, LENGTH = 4, 16


class Attention(nn.Module):
    """Causal attention with a fixed number of heads; `scale` multiplies the logits."""

    def __init__(self, width: int, scale: float) -> None:
        super().__init__()
        self.scale = scale
        self.inward, self.outward = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, width = x.shape
        query, key, value = (
            self.inward(x).reshape(batch, length, 3, HEADS, width // HEADS).permute(2, 0, 3, 1, 4).unbind(0)
        )
        future = torch.ones(length, length, device=x.device).triu(1).bool()
        logits = (self.scale * query @ key.transpose(-1, -2)).masked_fill(future, -torch.inf)
        return self.outward((logits.softmax(-1) @ value).transpose(1, 2).reshape(batch, length, width))


class Transformer(nn.Module):
    """Tokens of shape (batch, length) to logits of shape (batch, length, vocabulary)."""

    def __init__(self, vocabulary: int, width: int, scale: float, *, layers: int = 1, gains: bool = False) -> None:
        super().__init__()

        def norm() -> nn.Module:
            return nn.LayerNorm(width, elementwise_affine=gains)

        self.token, self.place = nn.Embedding(vocabulary, width), nn.Embedding(LENGTH, width)
        attention = [nn.Sequential(norm(), Attention(width, scale)) for _ in range(layers)]
        mixer = [
            nn.Sequential(
                norm(), nn.Linear(width, 2 * width, bias=False), nn.ReLU(), nn.Linear(2 * width, width, bias=False)
            )
            for _ in range(layers)
        ]
        self.branches = nn.ModuleList(block for pair in zip(attention, mixer, strict=True) for block in pair)
        self.norm, self.readout = norm(), nn.Linear(width, vocabulary, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.token(tokens) + self.place(torch.arange(tokens.shape[1], device=tokens.device))
        for branch in self.branches:
            x = x + branch(x)
        return self.readout(self.norm(x))


def text() -> tuple[Tensor, int]:
    """The Python manual's topics as character codes, and the number of different ones."""
    written = "".join(pydoc_data.topics.topics.values()).encode("ascii", "replace")
    return torch.tensor(list(written)).unique(return_inverse=True)[1], len(set(written))


def batches(stream: Tensor, count: int, rows: int, seed: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
    """Windows of a stream of tokens and the same, one further."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(count):
        starts = torch.randint(len(stream) - LENGTH - 1, (rows, 1), generator=generator)
        window = stream[starts + torch.arange(LENGTH + 1)]
        yield window[:, :-1], window[:, 1:]


def next_token_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean cross-entropy."""
    return nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())
