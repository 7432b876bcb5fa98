"""Ranks of all layers of a network at once, for one budget of parameters."""

from __future__ import annotations

import heapq
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def choose_ranks(energies: dict[str, Tensor], sizes: dict[str, tuple[int, int]], budget: int) -> dict[str, int]:
    """Spend parameters where they remove most error, when that is the sum of the energies that the layers leave out.

    A layer of rank r costs r times its parameters per rank and leaves the error `sum(energies[r:])`; kept dense it leaves none.
    So its error falls convexly, rank by rank, and ends in one long step to dense, which is taken from the rank where it removes
    more per parameter than the next rank would (the lower convex hull of the layer's choices). Steps of all layers are taken
    in the order of error removed per parameter, the greedy algorithm for separable convex problems (Fox 1966,
    doi:10.1287/opre.14.2.210): as long as every step fits, no choice of the same cost leaves less error. Near the end of the
    budget, a step to dense that does not fit is replaced by further ranks, and layers whose next step does not fit are done.

    Args:
        energies: per layer, the error that each further rank removes, decreasing.
        sizes: per layer, parameters per rank and of the dense layer.
        budget: parameters; rank one everywhere is chosen where it buys no more.

    Returns:
        The rank of each layer that is factorized, at least one; the others stay dense.

    Example:
        >>> import torch
        >>> spectra = {"a": torch.tensor([9.0, 1.0, 0.0]), "b": torch.tensor([5.0, 4.0, 3.0])}
        >>> choose_ranks(spectra, {"a": (6, 20), "b": (6, 20)}, 18)
        {'a': 1, 'b': 2}
    """
    ranks: dict[str, int] = {}
    squares: dict[str, list[float]] = {}
    tails: dict[str, list[float]] = {}
    no_dense: set[str] = set()
    steps: list[tuple[float, str, int]] = []

    def offer(name: str) -> None:
        """Put the layer's next step into the queue: one rank more (its cost), or all the rest."""
        rank, (per_rank, dense) = ranks[name], sizes[name]
        rest = tails[name][rank] / (dense - rank * per_rank)
        fits = rank < len(squares[name]) and (rank + 1) * per_rank < dense
        more = squares[name][rank] / per_rank if fits else -1.0
        if more > rest or (fits and name in no_dense):
            heapq.heappush(steps, (-more, name, per_rank))
        elif name not in no_dense:
            heapq.heappush(steps, (-rest, name, dense - rank * per_rank))

    for name, (per_rank, dense) in sizes.items():
        squares[name] = energies[name].double().tolist()
        tails[name] = [*energies[name].double().flip(0).cumsum(0).flip(0).tolist(), 0.0]
        if per_rank < dense:
            ranks[name] = 1
            offer(name)
        budget -= min(per_rank, dense)
    while steps:
        _, name, cost = heapq.heappop(steps)
        per_rank, dense = sizes[name]
        whole = cost == dense - ranks[name] * per_rank
        if cost <= budget:
            budget -= cost
            if whole:
                del ranks[name]
            else:
                ranks[name] += 1
                offer(name)
        elif whole:
            no_dense.add(name)
            offer(name)
    return ranks
