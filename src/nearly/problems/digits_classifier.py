"""A small classifier of handwritten digits, trained on the spot."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import nn

from nearly.core.errors import MissingExtra
from nearly.core.nouns import Network
from nearly.core.validate import require_int

if TYPE_CHECKING:
    from torch import Tensor

_TRAINED_ON = 1200  # of 1797 images; the others are the data
_EPOCHS, _BATCH, _RATE = 60, 100, 2e-3
_NOISE = 0.05
_ROWS = 8192


def digits_classifier(seed: int = 0, width: int = 256) -> Network:
    """A trained network of three layers, 64 -> width -> width -> 10 with ReLU between, and fresh rows to run it on.

    Images: the 1797 digits of 8 x 8 pixels that come with scikit-learn (Alpaydin and Kaynak 1998, UCI Optical Recognition of
    Handwritten Digits), scaled to [0, 1]. 1,200 of them, drawn by the seed, train it by Adam on cross-entropy, in float32. The
    data are 8,192 rows made of the other 597: an image drawn with replacement, moved by up to one pixel in each direction with
    zeros moved in, plus Gaussian noise of deviation 0.05. Given those images, the rows are independent and of one
    distribution. The same seed gives the same bits on the same machine and number of threads; the global random state is
    untouched.

    Args:
        seed: of the split, the start, the batches and the data; nonnegative.
        width: of both hidden layers, at least 1.

    Returns:
        The target: inputs (n, 64), outputs (n, 10) logits, both float32. Of the untouched 597 images and of the rows,
        about 97% and 96% are classified rightly at width 256 (seeds 0 to 2: 96.6 to 97.5% and 95.6 to 96.9%).

    Raises:
        BadInput: a seed or width that is no integer in its range.
        MissingExtra: scikit-learn is not installed.

    Example:
        >>> digits_classifier(width=16)(torch.zeros(2, 64)).shape
        torch.Size([2, 10])
    """
    require_int("seed", seed, least=0, most=2**63 - 1)
    require_int("width", width, least=1)
    generator = torch.Generator().manual_seed(seed)
    images, labels = _images()
    order = torch.randperm(len(images), generator=generator)
    module = _train(images[order[:_TRAINED_ON]], labels[order[:_TRAINED_ON]], width, generator)
    held_out = images[order[_TRAINED_ON:]]
    rows = _vary(held_out[torch.randint(len(held_out), (_ROWS,), generator=generator)], generator)
    return Network(module, rows, name=f"digits classifier of width {width}")


def _images() -> tuple[Tensor, Tensor]:
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise MissingExtra("scikit-learn", "learn", "the digits classifier") from error
    bundle = load_digits()
    return torch.tensor(bundle.data / 16.0, dtype=torch.float32), torch.tensor(bundle.target)


def _vary(rows: Tensor, generator: torch.Generator) -> Tensor:
    """Move each image by -1, 0 or 1 pixels in both directions and add noise."""
    padded = nn.functional.pad(rows.reshape(-1, 8, 8), (1, 1, 1, 1))
    moves = torch.randint(3, (2, len(rows), 1, 1), generator=generator)
    pixel = torch.arange(8)
    moved = padded[torch.arange(len(rows))[:, None, None], moves[0] + pixel[:, None], moves[1] + pixel]
    return moved.reshape(len(rows), 64) + _NOISE * torch.randn(rows.shape, generator=generator)


def _train(images: Tensor, labels: Tensor, width: int, generator: torch.Generator) -> nn.Sequential:
    layers = [
        nn.Linear(*shape, device="meta").to_empty(device="cpu") for shape in ((64, width), (width, width), (width, 10))
    ]
    with torch.no_grad():
        for layer in layers:
            # He et al. (2015), equation 10; drawn by hand, because nn.Linear draws from the global random state.
            layer.weight.normal_(0.0, math.sqrt(2.0 / layer.in_features), generator=generator)
            layer.bias.zero_()
    module = nn.Sequential(layers[0], nn.ReLU(), layers[1], nn.ReLU(), layers[2])
    optimizer = torch.optim.Adam(module.parameters(), lr=_RATE)
    with torch.enable_grad():
        for _ in range(_EPOCHS):
            varied = _vary(images, generator)
            for batch in torch.split(torch.randperm(len(images), generator=generator), _BATCH):
                optimizer.zero_grad()
                nn.functional.cross_entropy(module(varied[batch]), labels[batch]).backward()
                optimizer.step()
    return module.eval().requires_grad_(False)
