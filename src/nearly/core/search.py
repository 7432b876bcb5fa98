"""Tolerance in, method out: methods race on growing budgets, losers stop early, the winner is certified on unseen inputs."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING

import torch

from nearly.core.certificate import Probable, least_samples, level_place
from nearly.core.certify import fresh_pairs, measure, state
from nearly.core.cost import measure_cost
from nearly.core.errors import BadInput, Interrupted, ToleranceNotReached
from nearly.core.method import Method
from nearly.core.registry import method_class, methods_for
from nearly.core.supply import Progress, Supply
from nearly.core.target import Pairs, Target
from nearly.core.validate import describe, require_float, require_int

if TYPE_CHECKING:
    from torch import Tensor

    from nearly.core.surrogate import Surrogate

ATTEMPTS = 2  # certifications tried before giving up; each on its own draw, the confidence shared among them
BISECTIONS = 3  # fits spent on a smaller budget, once a budget that is no sample count meets the tolerance
LEAST_RUNGS = 3  # budgets tried before a method's rate is believed
HOPELESS = "its rate cannot reach the tolerance"
OPTIMISM = 2.0  # a method is given up when even twice its measured rate misses the tolerance


@dataclass(frozen=True)
class Rung:
    """One fit of the race: what was spent, how well it chose, what it costs to ask."""

    budget: int | None
    level: float
    operations: int
    seconds: float


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
class Race:
    """The outcome of a race: all contenders, and the winner with its certificate and the pairs and errors that made it."""

    contenders: list[Contender]
    supply: Supply
    seconds: float = 0.0
    winner: Surrogate | None = None
    reached: bool = False
    fresh: Pairs | None = None
    errors: Tensor | None = None
    bounds: Tensor | None = None


def fit(
    target: Target,
    tolerance: float | None = None,
    *,
    method: Method | str | None = None,
    methods: Sequence[Method | str] | None = None,
    quantile: float = 0.95,
    confidence: float = 0.99,
    samples: int | None = None,
    evaluations: int | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Surrogate:
    """Replace a target by a certified surrogate.

    With a `tolerance` and no `method`, all fitting methods of the target's noun race on growing budgets against one
    validation set; losers stop early; the cheapest that meets the tolerance is certified on inputs never used before.

    Args:
        target: what to replace.
        tolerance: the certified error wanted, in the target's unit.
        method: fit this one instead of racing; a method or its id.
        methods: race these instead of all.
        quantile: share of fresh inputs on which the error must stay below the tolerance.
        confidence: of that statement.
        samples: fresh inputs that certify; by default 200 or the least needed, with data all rows kept for it.
        evaluations: the most target evaluations to spend on fitting and choosing.
        seed: fixes every draw: same seed, same bits.
        progress: called with (what, done, total) while the target works.

    Returns:
        The surrogate, with `.certificate` and `.cost`.

    Raises:
        ToleranceNotReached: carries the best surrogate, certified, and says what would help.
        Interrupted: on Ctrl-C; carries the best so far.
        BadInput: for arguments that are not as above.

    Example:
        >>> import torch, nearly
        >>> f = nearly.Function(lambda x: torch.exp(x.sum(dim=1)), nearly.Box([0, 0], [1, 1]))
        >>> nearly.fit(f, tolerance=1e-4).certificate.error < 1e-4
        True
    """
    outcome = race(
        target,
        tolerance,
        method=method,
        methods=methods,
        quantile=quantile,
        confidence=confidence,
        samples=samples,
        evaluations=evaluations,
        seed=seed,
        progress=progress,
    )
    if not outcome.reached:
        error = not_reached(outcome, tolerance)
        raise error
    assert outcome.winner is not None
    return outcome.winner


def race(
    target: Target,
    tolerance: float | None = None,
    *,
    method: Method | str | None = None,
    methods: Sequence[Method | str] | None = None,
    quantile: float = 0.95,
    confidence: float = 0.99,
    samples: int | None = None,
    evaluations: int | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Race:
    """As `fit`, but returns the whole race, and says in `reached` whether the tolerance was met instead of raising.

    Args:
        target: as in `fit`, and so are all others.
        tolerance: may be None with `method`.
        method: as in `fit`.
        methods: as in `fit`.
        quantile: as in `fit`.
        confidence: as in `fit`.
        samples: as in `fit`.
        evaluations: as in `fit`.
        seed: as in `fit`.
        progress: as in `fit`.

    Returns:
        The race.

    Raises:
        Interrupted: on Ctrl-C; carries the best so far.
        BadInput: for arguments that are not as above.
    """
    start = time.perf_counter()
    if not isinstance(target, Target):
        raise BadInput("target", "a target such as nearly.Field or nearly.Function", describe(target))
    if tolerance is not None:
        require_float("tolerance", tolerance, above=0.0)
    if evaluations is not None:
        require_int("evaluations", evaluations, least=1)
    require_int("seed", seed, least=0)
    chosen = _resolve(target, tolerance, method, methods)
    single = method is not None
    attempts = 1 if single or target.rows is not None else ATTEMPTS
    _refuse_early(target, samples, quantile, confidence, attempts)
    validating = 0 if single else _validation_size(target, quantile, confidence, attempts, evaluations)
    supply = Supply(target, seed, validating=validating, most=evaluations, progress=progress)
    outcome = Race([Contender(m, [None] if single else m.budgets(target, supply.available)) for m in chosen], supply)
    least = math.inf  # certified so far
    try:
        if single:
            _climb(outcome.contenders[0], supply, seed, None)
        else:
            assert tolerance is not None
            _run(outcome, tolerance, quantile, seed)
        for attempt in range(attempts):
            contender = _best(outcome, tolerance)
            surrogate = contender.surrogate
            assert surrogate is not None
            pairs = fresh_pairs(target, samples, quantile, confidence, seed + attempt * 2**32, statements=attempts)
            errors, bounds = measure(surrogate, target, pairs)
            surrogate.certificate = state(
                surrogate, target, pairs, errors, bounds, quantile=quantile, confidence=confidence, statements=attempts
            )
            level = surrogate.certificate.error
            # All attempts' statements hold together, so the better one may be kept.
            if surrogate is outcome.winner or level < least or outcome.winner is None:
                least, outcome.winner = level, surrogate
                outcome.fresh, outcome.errors, outcome.bounds = pairs, errors, bounds
            outcome.reached = tolerance is None or level <= tolerance
            if outcome.reached or attempt + 1 == attempts:
                break
            contender.refused[len(contender.rungs)] = level
            if contender.ahead:
                _try_climb(contender, supply, seed, quantile)
        outcome.seconds = time.perf_counter() - start
        assert outcome.winner is not None
        assert outcome.fresh is not None
        outcome.winner.cost = measure_cost(
            outcome.winner, target, outcome.fresh.inputs, evaluations=supply.evaluations, seconds_fit=outcome.seconds
        )
    except KeyboardInterrupt:
        best = min(outcome.contenders, key=lambda c: c.level)
        raise Interrupted(best.surrogate if outcome.winner is None else outcome.winner) from None
    return outcome


def not_reached(outcome: Race, tolerance: float | None) -> ToleranceNotReached:
    """The error of a race that missed its tolerance, with what would help."""
    best, supply = outcome.winner, outcome.supply
    assert best is not None
    assert isinstance(best.certificate, Probable)
    level, advice = best.certificate.error, []
    leader = next(c for c in outcome.contenders if c.name == best.method)
    growth = leader.method.card.get("budget")
    if growth is not None and leader.rungs and leader.rungs[-1].budget is not None:
        if growth["parameter"] == "samples":
            advice.append(_more_samples(leader, supply, tolerance))
        elif leader.rungs[-1].budget >= growth["most"]:
            advice.append(f"a higher {growth['parameter']} than {growth['most']}: method={leader.name} with it")
    if best.certificate.samples < 2 * least_samples(best.certificate.quantile, best.certificate.confidence):
        advice.append("more certifying samples: so few make the level the largest error seen")
    advice.append(
        f"another metric or a lower quantile than {best.certificate.quantile:g}, if a few large errors are harmless"
    )
    return ToleranceNotReached(
        f"tolerance {tolerance:.3g} not reached: the best of {len(outcome.contenders)} methods, {best.method}, is certified at "
        f"{level:.3g} ({best.unit}).",
        best,
        advice,
    )


def _more_samples(leader: Contender, supply: Supply, tolerance: float | None) -> str:
    first, last = leader.rungs[0], leader.rungs[-1]
    what = "rows of data" if supply.target.rows is not None else "samples (evaluations=...)"
    assert first.budget is not None
    assert last.budget is not None
    if tolerance and last.budget > first.budget and 0 < last.level < first.level:
        rate = math.log(first.level / last.level) / math.log(last.budget / first.budget)
        needed = last.budget * (last.level / tolerance) ** (1 / rate)
        if needed < 1e9:
            return f"more {what}: the error fell like n^-{rate:.2g}, so about {needed:.2g} would do"
    return f"more {what}"


def _resolve(
    target: Target, tolerance: float | None, method: Method | str | None, methods: Sequence[Method | str] | None
) -> list[Method]:
    """The methods to fit, as instances that can fit this target.

    Raises:
        BadInput: for contradicting arguments, or a method that cannot fit it.
    """
    if method is not None and methods is not None:
        raise BadInput("methods", "left out when method is given", describe(methods))
    if method is None and tolerance is None:
        raise BadInput("tolerance", "given when no method is", None)
    if method is not None:
        methods = [method]
    if methods is None:
        chosen = [cls() for cls in methods_for(target.noun) if cls.refuses(target) is None]
    else:
        chosen = [_instance(m) for m in methods]
        for m in chosen:
            reason = m.refuses(target)
            if reason is not None:
                raise BadInput("method", f"able to fit {target.name}", f"{m.id()}: {reason}")
    if not chosen:
        raise BadInput("methods", f"at least one that fits {target.name}", "none")
    return chosen


def _instance(method: Method | str) -> Method:
    if isinstance(method, str):
        return method_class(method)()
    if not isinstance(method, Method):
        raise BadInput("method", "a method such as nearly.fields.ReducedBasis(rank=20), or its id", describe(method))
    return method


def _refuse_early(target: Target, samples: int | None, quantile: float, confidence: float, attempts: int) -> None:
    """Raise before any work where the certificate cannot be had.

    Raises:
        BadInput: for more samples than there are rows to certify.
    """
    least = least_samples(quantile, 1 - (1 - confidence) / attempts)
    if samples is not None:
        require_int("samples", samples, least=1)
        level_place(samples, quantile, 1 - (1 - confidence) / attempts)
    if target.rows is not None:
        left = len(target.rows.certifying) - target.rows.handed
        level_place(min(left, left if samples is None else samples), quantile, confidence)
        if samples is not None and samples > left:
            raise BadInput("samples", f"at most the {left} rows kept to certify", samples)
    assert least > 0


def _validation_size(target: Target, quantile: float, confidence: float, attempts: int, evaluations: int | None) -> int:
    least = least_samples(quantile, 1 - (1 - confidence) / attempts)
    if target.rows is not None:
        return max(4, min(least, len(target.rows.fitting) // 5))
    return least if evaluations is None else max(4, min(least, evaluations // 4))


def _validation_level(errors: Tensor, quantile: float, confidence: float) -> float:
    """The level that a certificate on these errors would state; their maximum where they are too few for one."""
    errors = torch.nan_to_num(errors, nan=math.inf, posinf=math.inf)
    place = len(errors)
    if len(errors) >= least_samples(quantile, confidence):
        place = level_place(len(errors), quantile, confidence)
    return float(errors.sort().values[place - 1])


def _climb(contender: Contender, supply: Supply, seed: int, quantile: float | None) -> None:
    """Fit the next rung and measure it on the validation pairs (if `quantile` is given)."""
    start, budget = time.perf_counter(), contender.ahead.pop(0)
    method = contender.method if budget is None else contender.method.with_budget(budget)
    surrogate = method.fit(supply.target, seed=seed, supply=supply)
    level = 0.0
    if quantile is not None:
        errors, _ = measure(surrogate, supply.target, supply.validating())
        level = _validation_level(errors, quantile, 0.9)
    contender.rungs.append(Rung(budget, level, surrogate.model.operations, time.perf_counter() - start))
    contender.surrogate = surrogate


def _try_climb(contender: Contender, supply: Supply, seed: int, quantile: float) -> bool:
    """Climb, or note why not: one method's failure must not cost what the others found."""
    try:
        _climb(contender, supply, seed, quantile)
    except Exception as error:
        contender.stopped, contender.ahead = f"{type(error).__name__}: {error}", []
        return False
    return True


def _run(outcome: Race, tolerance: float, quantile: float, seed: int) -> None:
    """Let all contenders climb, rung by rung, until each has met the tolerance, run out, or been given up.

    Raises:
        BadInput: when no method could be fitted at all.
    """
    supply, running = outcome.supply, list(outcome.contenders)
    while running:
        for contender in list(running):
            if not contender.ahead:
                contender.stopped = "largest budget" if contender.rungs else "no samples to fit on"
            else:
                _try_climb(contender, supply, seed, quantile)
            cheapest = min(
                (c.rungs[-1].operations for c in outcome.contenders if c.level <= tolerance), default=math.inf
            )
            if not contender.stopped:
                if contender.level <= tolerance:
                    contender.stopped = "meets the tolerance"
                    _shrink(contender, supply, seed, quantile, tolerance)
                elif contender.rungs[-1].operations >= cheapest:
                    contender.stopped = "dearer than one that meets the tolerance"
                elif contender.hopeless(tolerance):
                    contender.stopped = HOPELESS
            if contender.stopped:
                running.remove(contender)
    if all(c.level > tolerance for c in outcome.contenders):
        _revive(outcome, tolerance, quantile, seed)
    if all(c.surrogate is None for c in outcome.contenders):
        reasons = "; ".join(f"{c.name}: {c.stopped}" for c in outcome.contenders)
        raise BadInput("methods", "able to fit the target", reasons)


def _revive(outcome: Race, tolerance: float, quantile: float, seed: int) -> None:
    """Nobody met the tolerance: let the most accurate of those given up climb to its end, in case its rate was misjudged."""
    given_up = [c for c in outcome.contenders if c.ahead and c.stopped == HOPELESS]
    if not given_up:
        return
    leader = min(given_up, key=lambda c: c.level)
    while leader.ahead and leader.level > tolerance:
        if not _try_climb(leader, outcome.supply, seed, quantile):
            return
    leader.stopped = "meets the tolerance" if leader.level <= tolerance else "largest budget"
    if leader.level <= tolerance:
        _shrink(leader, outcome.supply, seed, quantile, tolerance)


def _shrink(contender: Contender, supply: Supply, seed: int, quantile: float, tolerance: float) -> None:
    """Bisect between the last two budgets for a cheaper surrogate that still meets the tolerance.

    Only for budgets that steer the surrogate's price, as a rank does; fewer samples would save nothing that is not spent.
    """
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
        if _try_climb(contender, supply, seed, quantile) and contender.level <= tolerance:
            high, kept, rung = middle, contender.surrogate, contender.rungs[-1]
        else:
            low = middle
    contender.rungs.remove(rung)  # the last rung is the one in force
    contender.rungs.append(rung)
    # A larger budget stays ahead, for a certificate that misses.
    contender.stopped = "meets the tolerance"
    contender.surrogate, contender.ahead = kept, [high + max(1, high // 4), *ahead]


def _best(outcome: Race, tolerance: float | None) -> Contender:
    """The cheapest contender that meets the tolerance in validation and was not refused at this budget, else the most accurate."""
    fitted = [c for c in outcome.contenders if c.surrogate is not None]
    meeting = [c for c in fitted if tolerance is not None and c.level <= tolerance and len(c.rungs) not in c.refused]
    if meeting:
        return min(meeting, key=lambda c: (c.rungs[-1].operations, c.name))
    # A level that was certified says more than the one it was chosen by.
    return min(fitted, key=lambda c: (c.refused.get(len(c.rungs), c.level), c.rungs[-1].operations, c.name))
