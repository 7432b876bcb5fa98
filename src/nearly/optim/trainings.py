"""Small real trainings: digits, Python's own reference text, and flow through porous rock."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from nearly.core.errors import BadInput, MissingExtra
from nearly.optim.training import Training

BATCH = 64


def digits() -> Training:
    """A perceptron (64, 128, 128, 10) on scikit-learn's 1,797 digits; what counts is the loss on all of them.

    Returns:
        The training; losses are cross-entropies in nats.

    Raises:
        MissingExtra: without scikit-learn.

    Example:
        >>> digits().make_model(0)[0]
        Linear(in_features=64, out_features=128, bias=True)
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise MissingExtra("scikit-learn", "learn", "the digits") from error
    points, classes = (torch.from_numpy(part) for part in load_digits(return_X_y=True))
    points = points.float() / 16

    def make_model(seed: int) -> nn.Module:
        return nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 10))

    def make_data(seed: int) -> Iterator[tuple[Tensor, Tensor]]:
        for rows in _epochs(len(points), seed):
            yield points[rows], classes[rows]

    def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        return nn.functional.cross_entropy(model(batch[0]), batch[1])

    return Training(make_model, make_data, loss, lambda model: loss(model, (points, classes)))


class Transformer(nn.Module):
    """A decoder with pre-normalization: symbols in, scores of the next ones out.

    Args:
        symbols: how many there are.
        width: of the residual stream.
        layers: of attention and perceptron.
        heads: of attention.
        context: most symbols at a time.
    """

    def __init__(self, symbols: int, *, width: int = 64, layers: int = 2, heads: int = 4, context: int = 64) -> None:
        super().__init__()
        self.symbol, self.place = nn.Embedding(symbols, width), nn.Embedding(context, width)
        self.blocks = nn.ModuleList(_Block(width, heads) for _ in range(layers))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, symbols)

    def forward(self, symbols: Tensor) -> Tensor:
        """Scores, shape (rows, places, symbols)."""
        x = self.symbol(symbols) + self.place.weight[: symbols.shape[1]]
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


class _Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.before, self.between = nn.LayerNorm(width), nn.LayerNorm(width)
        self.queries_keys_values, self.mixed = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.wide, self.narrow = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        rows, places, width = x.shape
        parts = self.queries_keys_values(self.before(x)).view(rows, places, 3, self.heads, -1)
        # Written out, as the fused kernels of attention have no second derivatives, which some optimizers ask for.
        queries, keys, values = parts.permute(2, 0, 3, 1, 4)
        scores = queries @ keys.mT / queries.shape[-1] ** 0.5
        later = torch.ones(places, places, dtype=torch.bool, device=x.device).triu(1)
        attended = scores.masked_fill(later, -torch.inf).softmax(dim=-1) @ values
        x = x + self.mixed(attended.transpose(1, 2).reshape(rows, places, width))
        return x + self.narrow(nn.functional.gelu(self.wide(self.between(x))))


def characters(*, context: int = 64, batch: int = 32) -> Training:
    """A character-level transformer of two layers of width 64 on the texts of Python's own help, whose last tenth validates.

    Args:
        context: characters at a time.
        batch: stretches of text.

    Returns:
        The training; losses are nats per character.

    Example:
        >>> characters().make_model(0).blocks[0].wide
        Linear(in_features=64, out_features=256, bias=True)
    """
    from pydoc_data import topics

    text = "\n".join(topics.topics[name] for name in sorted(topics.topics))
    alphabet = {symbol: i for i, symbol in enumerate(sorted(set(text)))}
    symbols = torch.tensor([alphabet[symbol] for symbol in text])
    kept = round(0.9 * len(symbols))

    def make_data(seed: int) -> Iterator[Tensor]:
        generator = torch.Generator().manual_seed(seed)
        while True:
            starts = torch.randint(kept - context - 1, (batch, 1), generator=generator)
            yield symbols[starts + torch.arange(context + 1)]

    def loss(model: nn.Module, stretches: Tensor) -> Tensor:
        scores = model(stretches[:, :-1])
        return nn.functional.cross_entropy(scores.flatten(0, 1), stretches[:, 1:].flatten())

    places = torch.linspace(kept, len(symbols) - context - 1, 128).long()[:, None] + torch.arange(context + 1)
    return Training(
        lambda seed: Transformer(len(alphabet), context=context),
        make_data,
        loss,
        lambda model: loss(model, symbols[places]),
    )


class FourierOperator(nn.Module):
    """A Fourier neural operator on a grid, all of whose parameters are real.

    Source: Li et al. 2021, "Fourier Neural Operator for Parametric Partial Differential Equations", arXiv:2010.08895.

    Args:
        width: channels.
        modes: frequencies kept in each direction.
        layers: of them.
    """

    def __init__(self, *, width: int = 16, modes: int = 6, layers: int = 4) -> None:
        super().__init__()
        self.modes = modes
        self.lift = nn.Linear(3, width)
        self.local = nn.ModuleList(nn.Linear(width, width) for _ in range(layers))
        # Real and imaginary part last; positive and negative frequencies of the first direction.
        self.spectral = nn.ParameterList(torch.randn(width, width, 2 * modes, modes, 2) / width for _ in range(layers))
        self.first, self.last = nn.Linear(width, 4 * width), nn.Linear(4 * width, 1)

    def forward(self, inputs: Tensor) -> Tensor:
        """Fields, shape (rows, n, n), of coefficients of that shape."""
        n = inputs.shape[-1]
        line = torch.linspace(0, 1, n, dtype=inputs.dtype, device=inputs.device)
        places = torch.stack(torch.meshgrid(line, line, indexing="ij"), dim=-1).expand(*inputs.shape, 2)
        x = self.lift(torch.cat([inputs[..., None], places], dim=-1))
        for i, (local, weights) in enumerate(zip(self.local, self.spectral, strict=True)):
            x = local(x) + self._filtered(x, torch.view_as_complex(weights))
            x = nn.functional.gelu(x) if i + 1 < len(self.local) else x
        return self.last(nn.functional.gelu(self.first(x)))[..., 0]

    def _filtered(self, x: Tensor, weights: Tensor) -> Tensor:
        n, modes = x.shape[1], self.modes
        spectrum = torch.fft.rfft2(x, dim=(1, 2))
        low = torch.cat([spectrum[:, :modes, :modes], spectrum[:, -modes:, :modes]], dim=1)
        found = torch.einsum("rxyi,ioxy->rxyo", low, weights)
        full = torch.nn.functional.pad(found, (0, 0, 0, n // 2 + 1 - modes))
        middle = full.new_zeros(len(x), n - 2 * modes, *full.shape[2:])
        whole = torch.cat([full[:, :modes], middle, full[:, modes:]], dim=1)
        return torch.fft.irfft2(whole, s=(n, n), dim=(1, 2))


def darcy(path: str | Path, *, batch: int = 20) -> Training:
    """A Fourier neural operator from coefficients to pressures on a 16 x 16 grid.

    Args:
        path: of an .npz file with `train_x`, `train_y`, `test_x`, `test_y`, each (rows, n, n).
        batch: rows.

    Returns:
        The training; losses are mean relative L2 errors.

    Raises:
        BadInput: for a file without these.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: torch.from_numpy(file[name]).float() for name in ("train_x", "train_y", "test_x", "test_y")}
    except (OSError, KeyError, ValueError) as error:
        raise BadInput("path", "an .npz file with train_x, train_y, test_x, test_y", f"{path}: {error}") from error
    scale = arrays["train_y"].std()
    inputs, outputs = arrays["train_x"] - arrays["train_x"].mean(), arrays["train_y"] / scale
    test = arrays["test_x"] - arrays["train_x"].mean(), arrays["test_y"] / scale

    def make_data(seed: int) -> Iterator[tuple[Tensor, Tensor]]:
        for rows in _epochs(len(inputs), seed, batch):
            yield inputs[rows], outputs[rows]

    def loss(model: nn.Module, rows: tuple[Tensor, Tensor]) -> Tensor:
        gaps, sizes = (part.flatten(1).norm(dim=1) for part in (model(rows[0]) - rows[1], rows[1]))
        return (gaps / sizes).mean()

    return Training(lambda seed: FourierOperator(), make_data, loss, lambda model: loss(model, test))


def _epochs(rows: int, seed: int, batch: int = BATCH) -> Iterator[Tensor]:
    """Row numbers of batches, all rows in a new order each time."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        yield from torch.randperm(rows, generator=generator).split(batch)
