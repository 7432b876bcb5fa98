"""A counter-based random generator: any of its numbers at once, from a key and a place, without a state."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from jaxtyping import Float, Int

# Salmon, Moraes, Dror and Shaw 2011, Parallel random numbers: as easy as 1, 2, 3, doi:10.1145/2063384.2063405:
# Philox4x32 with 10 rounds, its multipliers and its Weyl constants (golden ratio and square root of 3 less 1).
ROUNDS = 10
MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
WEYL = (0x9E3779B9, 0xBB67AE85)
WORD = 0xFFFFFFFF


def philox(
    counter: tuple[Int[Tensor, "*shape"], ...], key: tuple[Int[Tensor, "*shape"], ...]
) -> tuple[Int[Tensor, "*shape"], ...]:
    """Four random 32-bit words from a counter of four words and a key of two: Philox4x32-10.

    It replaces a generator with a state wherever numbers are needed out of order, or for many seeds at once: all places and all
    keys are computed together, on any device, with the same bits. It passes the tests of TestU01's BigCrush (its paper).

    Args:
        counter: four integer tensors, or numbers, that broadcast with each other and the key; each in 0..2^32 - 1.
        key: two.

    Returns:
        Four int64 tensors with entries in 0..2^32 - 1, independent and uniform over different (counter, key).

    Source: Salmon, Moraes, Dror and Shaw 2011, Parallel random numbers: as easy as 1, 2, 3, doi:10.1145/2063384.2063405.

    Example:
        >>> zero = torch.tensor(0)
        >>> [f"{int(word):08x}" for word in philox((zero,) * 4, (zero,) * 2)]
        ['6627e8d5', 'e169c58d', 'bc57ac4c', '9b00dbd8']
    """
    # Products of words take 64 bits.
    a, b, c, d, left, right = (word.long() if isinstance(word, Tensor) else word for word in (*counter, *key))
    for turn in range(ROUNDS):
        if turn:
            left, right = (left + WEYL[0]) & WORD, (right + WEYL[1]) & WORD
        first, second = MULTIPLIERS[0] * a, MULTIPLIERS[1] * c  # modulo 2^64, which keeps all bits of the product
        a, b, c, d = (second >> 32) & WORD ^ b ^ left, second & WORD, (first >> 32) & WORD ^ d ^ right, first & WORD
    return a, b, c, d


def counted_normals(
    seed: Int[Tensor, "*shape"], place: Int[Tensor, "*shape"], part: Int[Tensor, "*shape"], dtype: torch.dtype
) -> tuple[Float[Tensor, "*shape"], Float[Tensor, "*shape"]]:
    """Two independent standard normal numbers for every (seed, place, part), by Box and Muller's transform of 53-bit uniforms.

    Args:
        seed: any 64 bits.
        place: any 64 bits.
        part: in 0..2^32 - 1.
        dtype: of the numbers; they are computed in float64.

    Returns:
        Two tensors of the broadcast shape; the same bits for the same place, whatever is asked beside it.

    Example:
        >>> one, other = counted_normals(torch.tensor(7), torch.arange(100_000), torch.tensor(0), torch.float64)
        >>> round(float(one.var()), 2), abs(round(float((one * other).mean()), 2))
        (1.0, 0.0)
    """
    seed, place = seed.long(), place.long()
    zero = torch.zeros_like(place)
    words = philox((place & WORD, (place >> 32) & WORD, part, zero), (seed & WORD, (seed >> 32) & WORD))
    first, second = ((words[i] << 21) + (words[i + 1] >> 11) for i in (0, 2))  # 53 bits each
    radius = torch.sqrt(-2 * torch.log((first.double() + 0.5) * 2.0**-53))
    angle = second.double() * (2.0**-53 * 2 * math.pi)
    return (radius * torch.cos(angle)).to(dtype), (radius * torch.sin(angle)).to(dtype)
