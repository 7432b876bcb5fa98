"""The contest of a race: contenders climb growing budgets on shared pairs, losers stop early."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import TYPE_CHECKING

import torch

from nearly.core.certify import measure
from nearly.core.errors import BadInput

if TYPE_CHECKING:
    from torch import Tensor

    from nearly.core.method import Method
    from nearly.core.supply import Supply
    from nearly.core.surrogate import Surrogate

BISECTIONS = 3  # fits spent on a smaller budget, once a budget that is no sample count meets the tolerance
MARGIN = 0.85  # share of the tolerance that the smaller budget must meet: one just inside would fail its certificate half the time
LEAST_RUNGS = 3  # budgets tried before a method's rate is believed
DEAR = "dearer than one that meets the tolerance"
HOPELESS = "its rate cannot reach the tolerance"
MEETS = "meets the tolerance"
CLOSE = 1.5  # levels within this factor of each other are alike
RIVAL = 2.0  # methods given up climb on when their level is within this factor of the least one
OPTIMISM = 2.0  # a method is given up when even twice its measured rate misses the tolerance


@dataclass(frozen=True)
class Rung:
    """One fit of the race: what was spent, how well it chose, what it costs to ask."""

    budget: int | None
    level: float
    operations: int
    seconds: float
    typical: float = 0.0  # root mean square of the errors that the level is the place of


@dataclass
class Contender:
    """A method in the race, with its rungs so far and the budgets that are still ahead."""

    method: Method
    ahead: list[int | None]
    rungs: list[Rung] = field(default_factory=list)
    surrogate: Surrogate | None = None
    stopped: str = ""
    refused: dict[int, float] = field(
        default_factory=dict
    )  # number of rungs -> certified level that missed the tolerance

    @property
    def name(self) -> str:
        """The method's id."""
        return self.method.id()

    @property
    def level(self) -> float:
        """Validation level of the last rung."""
        return self.rungs[-1].level if self.rungs else math.inf

    def hopeless(self, tolerance: float) -> bool:
        """Whether twice the best rate measured lately, carried on to the largest budget, still misses the tolerance."""
        if len(self.rungs) < LEAST_RUNGS or self.level <= tolerance or not self.ahead or not math.isfinite(self.level):
            return False
        last, most = self.rungs[-1].budget, self.ahead[-1]
        lately = self.rungs[-LEAST_RUNGS:]
        rates = [
            math.log(a.level / b.level) / math.log(b.budget / a.budget)
            for a, b in pairwise(lately)
            if a.budget and b.budget and math.isfinite(a.level) and b.level > 0
        ]
        if last is None or most is None or not rates:
            return False
        return self.level * (most / last) ** (-OPTIMISM * max(0.0, *rates)) > tolerance


@dataclass
class Contest:
    """Contenders, the pairs that all of them share, and what they are judged by.

    Attributes:
        contenders: all that started.
        supply: fitting and validating pairs.
        seed: of every fit.
        tolerance: to be met, or None.
        share: the share of validation errors that the level leaves below it, that of the certificate to come.
    """

    contenders: list[Contender]
    supply: Supply
    seed: int
    tolerance: float | None
    share: float

    def climb(self, contender: Contender) -> bool:
        """Fit the next rung and judge it, or note why not: one method's failure must not cost what the others found."""
        try:
            self._climb(contender)
        except Exception as error:
            contender.stopped, contender.ahead = f"{type(error).__name__}: {error}", []
            return False
        return True

    def fit_once(self, contender: Contender) -> None:
        """Fit without judging, where there is nothing to choose."""
        start, budget = time.perf_counter(), contender.ahead.pop(0)
        growth = contender.method.card.get("budget")
        if budget is not None and growth is not None and growth["parameter"] == "samples":
            # Methods that choose their own points may have spent some since the budgets were planned.
            budget = min(budget, self.supply.available)
        method = contender.method if budget is None else contender.method.with_budget(budget)
        surrogate = method.fit(self.supply.target, seed=self.seed, supply=self.supply)
        contender.rungs.append(Rung(budget, 0.0, surrogate.model.operations, time.perf_counter() - start))
        contender.surrogate = surrogate

    def _climb(self, contender: Contender) -> None:
        before = contender.surrogate
        self.fit_once(contender)
        rung = contender.rungs.pop()
        assert contender.surrogate is not None
        try:
            errors, _ = measure(contender.surrogate, self.supply.target, self.supply.validating())
        except BaseException:
            contender.surrogate = before
            raise
        typical = float(errors.square().mean().sqrt())
        contender.rungs.append(Rung(rung.budget, self._level(errors), rung.operations, rung.seconds, typical))

    def _level(self, errors: Tensor) -> float:
        """The level that the certificate to come would state, were its errors distributed like these."""
        errors = torch.nan_to_num(errors, nan=math.inf, posinf=math.inf)
        place = min(len(errors), math.ceil(self.share * (len(errors) + 1)))
        return float(errors.sort().values[place - 1])

    def run(self) -> None:
        """Let all contenders climb, rung by rung, until each has met the tolerance, run out, or been given up.

        Raises:
            BadInput: when no method could be fitted at all.
        """
        assert self.tolerance is not None
        running = list(self.contenders)
        while running:
            for contender in list(running):
                if contender.rungs and self._dear(contender):
                    contender.stopped = DEAR
                elif contender.ahead:
                    self.climb(contender)
                else:
                    contender.stopped = "largest budget" if contender.rungs else "no samples to fit on"
                if not contender.stopped:
                    contender.stopped = self._verdict(contender)
                    if contender.stopped == MEETS:
                        self._shrink(contender)
                if contender.stopped:
                    running.remove(contender)
        if all(c.level > self.tolerance for c in self.contenders):
            self._revive()
        if all(c.surrogate is None for c in self.contenders):
            reasons = "; ".join(f"{c.name}: {c.stopped}" for c in self.contenders)
            raise BadInput("methods", "able to fit the target", reasons)

    def _verdict(self, contender: Contender) -> str:
        """Why a contender need not climb on, or nothing."""
        assert self.tolerance is not None
        if contender.level <= self.tolerance:
            return MEETS
        if self._dear(contender):
            return DEAR
        return HOPELESS if contender.hopeless(self.tolerance) else ""

    def _dear(self, contender: Contender) -> bool:
        """Whether another meets the tolerance for less; more budget never makes a surrogate cheaper to ask."""
        assert self.tolerance is not None
        cheapest = min((c.rungs[-1].operations for c in self.contenders if c.level <= self.tolerance), default=math.inf)
        return contender.rungs[-1].operations >= cheapest

    def _revive(self) -> None:
        """Nobody met the tolerance: let the most accurate of those given up climb to their end, in case a rate was misjudged.

        Levels of so few inputs are uncertain, so all climb whose level is within a factor of the least.
        """
        assert self.tolerance is not None
        given_up = [c for c in self.contenders if c.ahead and c.stopped == HOPELESS]
        least = min((c.level for c in given_up), default=math.inf)
        for leader in sorted(given_up, key=lambda c: c.level):
            if leader.level > RIVAL * least:
                break
            while leader.ahead and leader.level > self.tolerance:
                if not self.climb(leader):
                    break
            else:
                leader.stopped = MEETS if leader.level <= self.tolerance else "largest budget"
            if leader.stopped == MEETS:
                self._shrink(leader)
                return

    def _shrink(self, contender: Contender) -> None:
        """Bisect between the last two budgets for a cheaper surrogate that still meets the tolerance, with a margin.

        Only for budgets that steer the surrogate's price, as a rank does; fewer samples would save nothing that is not spent.
        """
        assert self.tolerance is not None
        growth = contender.method.card.get("budget")
        if growth is None or growth["parameter"] == "samples" or len(contender.rungs) < 2:
            return
        low, high = contender.rungs[-2].budget, contender.rungs[-1].budget
        assert low is not None
        assert high is not None
        kept, rung = contender.surrogate, contender.rungs[-1]
        ahead = contender.ahead
        for _ in range(BISECTIONS):
            middle = (low + high) // 2
            if middle <= low:
                break
            contender.ahead = [middle]
            if self.climb(contender) and contender.level <= MARGIN * self.tolerance:
                high, kept, rung = middle, contender.surrogate, contender.rungs[-1]
            else:
                low = middle
        contender.rungs.remove(rung)  # the last rung is the one in force
        contender.rungs.append(rung)
        # A larger budget stays ahead, for a certificate that misses.
        contender.stopped = MEETS
        contender.surrogate, contender.ahead = kept, [high + max(1, high // 4), *ahead]

    def best(self) -> Contender:
        """The cheapest that meets the tolerance in validation and was not refused at this budget, else the most accurate."""
        fitted = [c for c in self.contenders if c.surrogate is not None]
        if self.tolerance is not None:
            meeting = [c for c in fitted if c.level <= self.tolerance and len(c.rungs) not in c.refused]
            if meeting:
                return min(meeting, key=lambda c: (c.rungs[-1].operations, c.name))
        # A level that was certified says more than the one it was chosen by. Levels are extremes of few errors: among those
        # close to the least, the mean square tells better.
        levels = {c.name: c.refused.get(len(c.rungs), c.level) for c in fitted}
        close = [c for c in fitted if levels[c.name] <= CLOSE * min(levels.values())]
        return min(close, key=lambda c: (c.rungs[-1].typical, c.rungs[-1].operations, c.name))

    def refit_on_all(self, contender: Contender) -> None:
        """With data, the choice made: fit the chosen method again with the validation rows too, where it took all there were."""
        growth, last = contender.method.card.get("budget"), contender.rungs[-1]
        if self.supply.target.rows is None or growth is None or growth["parameter"] != "samples":
            return
        if last.budget != self.supply.available:
            return
        self.supply.release()
        budget = min(growth["most"], self.supply.available)
        contender.surrogate = contender.method.with_budget(budget).fit(
            self.supply.target, seed=self.seed, supply=self.supply
        )
        contender.rungs[-1] = replace(last, budget=budget, operations=contender.surrogate.model.operations)
