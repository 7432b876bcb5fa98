"""Tolerance in, method out: methods race on growing budgets, losers stop early, the winner is certified on unseen inputs."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nearly.core.certificate import Asked, Probable, least_samples
from nearly.core.certify import certifying_count, measure, state
from nearly.core.contest import Contender, Contest
from nearly.core.cost import measure_cost
from nearly.core.errors import BadInput, CertificateViolated, Interrupted, ToleranceNotReached
from nearly.core.method import Method
from nearly.core.registry import resolve
from nearly.core.supply import Progress, Supply
from nearly.core.target import Pairs, Target
from nearly.core.validate import describe, require_float, require_int

if TYPE_CHECKING:
    from torch import Tensor

    from nearly.core.surrogate import Surrogate

ATTEMPTS = 2  # certifications tried before giving up; each on its own draw, the confidence shared among them


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
        evaluations: the most target evaluations to spend on fitting and choosing; inputs at which the target fails, and the 64
            draws that set a function's spread, come on top.
        seed: fixes every draw: same seed, same bits.
        progress: called with (what, done, total) while the target works.

    Returns:
        The surrogate, with `.certificate` and `.cost`.

    Raises:
        ToleranceNotReached: carries the best surrogate, certified, and says what would help.
        Interrupted: on Ctrl-C; carries the best so far.
        CertificateViolated: when every bound that was tried lies below its error.
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
        CertificateViolated: when every bound that was tried lies below its error.
        BadInput: for arguments that are not as above.
    """
    start = time.perf_counter()
    if not isinstance(target, Target):
        raise BadInput("target", "a target such as nearly.Field or nearly.Function", describe(target))
    if tolerance is not None:
        require_float("tolerance", tolerance, above=0.0)
    if evaluations is not None:
        require_int("evaluations", evaluations, least=1)
    seed = require_int("seed", seed, least=0)
    single = method is not None
    if single and methods is not None:
        raise BadInput("methods", "left out when method is given", describe(methods))
    if not single and tolerance is None:
        raise BadInput("tolerance", "given when no method is", None)
    chosen = resolve(target, methods if method is None else [method])
    attempts = 1 if single or target.rows is not None else ATTEMPTS
    asked = Asked(quantile, confidence, statements=attempts)
    count = certifying_count(target, samples, asked)  # refuses before any work what could not be certified
    validating = 0 if single else _validation_size(target, asked.least, evaluations)
    supply = Supply(target, seed, validating=validating, most=evaluations, progress=progress)
    contenders = [Contender(m, [None] if single else m.budgets(target, supply.available)) for m in chosen]
    contest = Contest(contenders, supply, seed, tolerance, share=asked.place(count) / (count + 1))
    outcome = Race(contenders, supply)
    least = math.inf  # certified so far
    try:
        if single:
            contest.fit_once(contenders[0])
        else:
            contest.run()
        for attempt in range(attempts):
            contender = contest.best()
            if not single:
                contest.refit_on_all(contender)
            surrogate = contender.surrogate
            assert surrogate is not None
            pairs = supply.certifying(count, attempt)
            errors, bounds = measure(surrogate, target, pairs)
            try:
                surrogate.certificate = state(surrogate, target, pairs, errors, bounds, asked)
            except CertificateViolated as error:  # a bound that is none: this surrogate is out, the next may do
                contender.surrogate, contender.ahead, contender.stopped = None, [], str(error)
                if attempt + 1 == attempts or all(c.surrogate is None for c in contenders):
                    raise
                continue
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
                contest.climb(contender)
        outcome.seconds = time.perf_counter() - start
        assert outcome.winner is not None
        assert outcome.fresh is not None
        outcome.winner.cost = measure_cost(
            outcome.winner, target, outcome.fresh.inputs, evaluations=supply.evaluations, seconds_fit=outcome.seconds
        )
    except KeyboardInterrupt:
        fitted = sorted((c for c in outcome.contenders if c.surrogate is not None), key=lambda c: c.level)
        best = fitted[0].surrogate if fitted else None
        raise Interrupted(best if outcome.winner is None else outcome.winner) from None
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


def _validation_size(target: Target, least: int, evaluations: int | None) -> int:
    if target.rows is not None:
        return max(4, min(least, len(target.rows.fitting) // 5))
    return least if evaluations is None else max(4, min(least, evaluations // 4))
