"""What one fit asks of its target: the same pairs for every method, kept, counted, and never the ones that certify."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

from nearly.core.domain import Cloud, Domain
from nearly.core.errors import BadInput, SolverFailed, TooFewSamples
from nearly.core.target import Pairs

if TYPE_CHECKING:
    from torch import Tensor

    from nearly.core.surrogate import Model
    from nearly.core.target import Target

# Independent streams of one seed: the inputs that fit, choose and certify never meet.
FITTING, VALIDATING, CERTIFYING, METHOD, LOOKING, RECERTIFYING = range(6)
CHUNK = 256  # rows answered at once where a model tells what they look like
# Strange inputs move outputs along directions that hardly vary otherwise: of sentences on other topics than those fitted, an
# encoder's embeddings told none by 16 principal axes, 55% by 128 and all by 384, at 1% false alarms.
OUTPUT_AXES = 384
LOOKS = 1024  # inputs that show what a target's inputs look like; no outputs are needed
Progress = Callable[[str, int, int], None]


def stream(seed: int, purpose: int) -> torch.Generator:
    """A generator for one purpose of one seed.

    The seeds are mixed by the finalizer of SplitMix64 (Steele, Lea, Flood 2014, doi:10.1145/2714064.2660195), so that neighboring
    seeds and purposes are unrelated.
    """
    mask = 2**64 - 1
    z = (seed * 8 + purpose + 1) * 0x9E3779B97F4A7C15 & mask
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 & mask
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB & mask
    return torch.Generator().manual_seed((z ^ (z >> 31)) >> 1)


class Supply:
    """Hands out fitting and validating pairs of a target. The fitting stream grows: `fitting(n)` is the first n of it.

    Args:
        target: the expensive thing.
        seed: fixes all draws.
        validating: pairs set aside to choose among methods; with data, rows taken from the fitting ones.
        most: the most target evaluations to spend, or None.
        progress: called with (what, done, total).
    """

    def __init__(
        self,
        target: Target,
        seed: int,
        *,
        validating: int = 0,
        most: int | None = None,
        progress: Progress | None = None,
    ) -> None:
        self.target, self.seed, self.most, self.progress = target, seed, most, progress
        self.evaluations = self.solved = 0
        self.failures: list[str] = []
        self.kept: dict[Any, Any] = {}  # what a method keeps from one budget for the next, under a key of its own
        self._generator = stream(seed, FITTING)
        self._fitting: Pairs | None = None
        self._validating: Pairs | None = None
        self._domain: Domain | None = None
        rows = target.rows
        if rows is not None:
            order = rows.fitting[torch.randperm(len(rows.fitting), generator=self._generator)]
            self._kept, self._order = order[:validating], order[validating:]
        self.validating_size = validating

    @property
    def available(self) -> int:
        """The most fitting pairs that can be had."""
        if self.target.rows is not None:
            return len(self._order)
        return 2**31 if self.most is None else max(0, self.most - self.validating_size - self.solved)

    def fitting(self, n: int) -> Pairs:
        """The first n fitting pairs.

        Raises:
            TooFewSamples: when the data or the allowed evaluations have fewer.
        """
        if n > self.available:
            raise TooFewSamples("samples", n, self.available, "fitting pairs that this method asks for")
        have = 0 if self._fitting is None else len(self._fitting)
        if n > have:
            if self.target.rows is not None:
                new = self._rows(self._order[have:n])  # a network answers here, so that none is asked twice
            else:
                new = self._draw("snapshots", n - have, self._generator)
            self._fitting = new if self._fitting is None else _join(self._fitting, new)
        assert self._fitting is not None
        return self._fitting[:n]

    def validating(self) -> Pairs:
        """The pairs that choose."""
        if self._validating is None:
            if self.target.rows is not None:
                self._validating = self._rows(self._kept)
            else:
                self._validating = self._draw("validation", self.validating_size, stream(self.seed, VALIDATING))
        return self._validating

    def certifying(self, n: int, attempt: int = 0) -> Pairs:
        """Pairs that certify, fresh for every attempt; not counted as spent on the fit."""
        return self._drawn("certifying", n, stream(self.seed + attempt * 2**32, CERTIFYING))

    def release(self) -> None:
        """With data and the choice made: let the validating rows be fitted too."""
        if self.target.rows is not None:
            self._order = torch.cat([self._order, self._kept])
            self._kept = self._kept[:0]

    def solve(self, inputs: Tensor) -> Tensor:
        """The target at inputs that a method chose itself; counted.

        Raises:
            BadInput: when the target is made from data.
            SolverFailed: when it fails there.
            TooFewSamples: when the allowed evaluations have fewer left.
        """
        if self.target.rows is not None:
            raise BadInput("target", "able to answer inputs that a method chooses", "a target made from data")
        drawn = 0 if self._fitting is None else len(self._fitting)
        if len(inputs) > self.available - drawn:
            raise TooFewSamples(
                "evaluations", len(inputs), self.available - drawn, "left, for what this method chooses"
            )
        self.evaluations += len(inputs)
        self.solved += len(inputs)
        return self.target(inputs)

    def domain(self, model: Model) -> Domain:
        """A copy of the target's domain, or what its inputs look like where it has only data or a sampler.

        Args:
            model: whose outputs tell what the inputs look like, where those are whole numbers.
        """
        if model.takes_integers:
            assert self.target.rows is not None
            rows = self.target.rows.pairs.inputs[self._order[:LOOKS]]
            with torch.no_grad():
                outputs = torch.cat([model(part) for part in rows.split(CHUNK)])
            return Cloud.fit(outputs, of_outputs=True, most_axes=OUTPUT_AXES, most=LOOKS)
        if self._domain is None:
            if self.target.domain is not None:
                self._domain = self.target.domain
            elif self.target.rows is not None:
                self._domain = Cloud.fit(self.target.rows.pairs.inputs[self._order[:LOOKS]])
            else:
                self._domain = Cloud.fit(self.target.sample(LOOKS, stream(self.seed, LOOKING)))
        return copy.deepcopy(self._domain)

    @property
    def seen(self) -> Tensor:
        """Fingerprints of all data rows that fits and choices of this supply could have used."""
        rows = self.target.rows
        return torch.zeros(0, dtype=torch.int64) if rows is None else rows.hashes[torch.cat([self._kept, self._order])]

    def _rows(self, index: Tensor) -> Pairs:
        assert self.target.rows is not None
        pairs = self.target.rows.pairs
        inputs = pairs.inputs[index]
        if self.target.noun == "network":
            return Pairs(inputs, self.target(inputs))
        return _in_one_precision(Pairs(inputs, pairs.outputs[index]))

    def _draw(self, what: str, n: int, generator: torch.Generator) -> Pairs:
        pairs = self._drawn(what, n, generator)
        self.evaluations += n + len(pairs.failures)
        self.failures += pairs.failures
        return _in_one_precision(pairs)

    def _drawn(self, what: str, n: int, generator: torch.Generator) -> Pairs:
        done = 0

        def advance(count: int) -> None:
            nonlocal done
            done += count
            if self.progress is not None:
                self.progress(what, done, n)

        return self.target.draw(n, generator, advance)


def _in_one_precision(pairs: Pairs) -> Pairs:
    """Inputs and outputs in the higher of their precisions: many a solver answers in single what is drawn in double."""
    if not pairs.inputs.is_floating_point():
        return pairs
    dtype = torch.promote_types(pairs.inputs.dtype, pairs.outputs.dtype)
    return Pairs(pairs.inputs.to(dtype), pairs.outputs.to(dtype), pairs.failures)


def _join(first: Pairs, second: Pairs) -> Pairs:
    if first.outputs.shape[1:] != second.outputs.shape[1:]:
        raise SolverFailed(
            f"the target returned outputs of shape {tuple(second.outputs.shape[1:])} after {tuple(first.outputs.shape[1:])}"
        )
    return Pairs(torch.cat([first.inputs, second.inputs]), torch.cat([first.outputs, second.outputs]))
