"""Checks of what a method promises about its errors: they fall, and its certificates are of the stated kind, true and sharp."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

import torch

import nearly
from nearly.core.certificate import KINDS, Probable
from nearly.core.certify import certify
from nearly.core.errors import CertificateViolated
from nearly.testing._fitting import accepted, at_reference, fresh_errors, ladder

if TYPE_CHECKING:
    from torch import Tensor

    from nearly.core.method import Method
    from nearly.testing._problems import Problem

SEEDS = 5
CERTIFYING = 1000  # inputs per certificate; so many bring the level close to the quantile that it speaks of
FRESH = {"field": 400}  # pairs per seed that it is held against; a simulation is asked for fewer
MANY = 2000
SHARP = 2.0  # most that a level may exceed the true quantile by, in the median of the seeds
SHARP_BOUND = 10.0  # most that a bound may exceed the error by, in the median
FALL = 0.7  # what must be left of the first budget's error, at most, at the last
ROUGH = 1.5  # a step may rise by so much: errors of random samples are random


def floor(dtype: torch.dtype) -> float:
    """Errors below this are round-off, which falls no further and makes ratios meaningless."""
    return 1e4 * torch.finfo(dtype).eps


def check_error_falls(method_class: type[Method], problems: Sequence[Problem]) -> None:
    """The error falls as the budget grows: medians over fresh inputs and three seeds, over the card's first budgets."""
    for problem, target in accepted(method_class, problems):
        methods = ladder(method_class, target)
        if len(methods) < 2:
            continue
        levels = []
        for method in methods:
            found = []
            for seed in range(3):
                errors, _ = fresh_errors(method.fit(problem.build(), seed=seed), problem, target, 100, seed)
                found.append(float(errors.median()))
            levels.append(statistics.median(found))
        story = f"{problem.name}: median errors {', '.join(f'{level:.3g}' for level in levels)} over growing budgets"
        least = floor(problem.dtype)
        assert levels[-1] <= max(least, FALL * levels[0]), f"{story} do not fall"
        for before, after in pairwise(levels):
            assert after <= max(least, ROUGH * before), f"{story} rise on the way"


def check_certificate_kind(method_class: type[Method], problems: Sequence[Problem]) -> None:
    """`nearly.fit` gives a certificate of exactly the card's kind."""
    kind = KINDS[method_class.card["certificate"]]
    for problem, target in accepted(method_class, problems):
        try:
            surrogate = nearly.fit(target, method=at_reference(method_class, target))
        except CertificateViolated:  # no matter of its kind: `certificate_holds` tells
            continue
        got = type(surrogate.certificate)
        assert got is kind, f"{problem.name}: the card claims a {kind.__name__}, the certificate is a {got.__name__}"


class _Trial(NamedTuple):
    certificate: Probable | None
    errors: Tensor
    bounds: Tensor | None
    violation: str


@lru_cache(maxsize=32)
def _trials(method_class: type[Method], problem: Problem) -> list[_Trial]:
    """Certificates at the reference budget from several seeds, and fresh errors and bounds to hold them against.

    A method that claims bounds is tried at the last budget of its ladder too, where round-off rules.
    """
    trials = []
    methods = [at_reference(method_class, problem.build())] * SEEDS
    if method_class.card["certificate"] == "Bound":
        methods.append(ladder(method_class, problem.build())[-1])
    for seed, method in enumerate(methods):
        target = problem.build()
        surrogate, violation = method.fit(target, seed=seed), ""
        try:
            certify(surrogate, target, samples=CERTIFYING, seed=seed)
        except CertificateViolated as error:
            violation = f"{method}: {error}"
        errors, pairs = fresh_errors(surrogate, problem, target, FRESH.get(problem.noun, MANY), seed)
        bounds = None
        if surrogate.model.theorem is not None:
            with torch.no_grad():
                bounds = surrogate.bound(pairs.inputs.clone())
        assert surrogate.certificate is None or isinstance(surrogate.certificate, Probable)
        trials.append(_Trial(surrogate.certificate, errors, bounds, violation))
    return trials


def check_certificate_holds(method_class: type[Method], problems: Sequence[Problem]) -> None:
    """Fresh errors exceed the level no more often than stated, and no bound lies below its error.

    A certificate is wrong with probability at most 1%, so that one of the seeds may be contradicted, but not two.
    """
    for problem, _ in accepted(method_class, problems):
        contradicted = []
        for trial in _trials(method_class, problem):
            assert not trial.violation, f"{problem.name}: {trial.violation}"
            assert trial.certificate is not None
            contradiction = trial.certificate.contradicted_by(trial.errors, alarm=0.01)
            if contradiction is not None:
                contradicted.append(contradiction)
            if trial.bounds is not None:
                below = int((~(trial.errors <= trial.bounds)).sum())
                count = len(trial.errors)
                assert not below, f"{problem.name}: the bound lies below the error on {below} of {count} inputs"
        assert len(contradicted) < 2, f"{problem.name}: certificates do not hold: {'; '.join(contradicted)}"


def check_certificate_sharp(method_class: type[Method], problems: Sequence[Problem]) -> None:
    """Certificates are not vacuous: the level is near the true quantile, and bounds are near the errors."""
    for problem, _ in accepted(method_class, problems):
        levels, ratios = [], []
        for certificate, errors, bounds, _ in _trials(method_class, problem)[:SEEDS]:
            if certificate is None:  # false rather than vacuous: `certificate_holds` tells
                continue
            true = float(errors.quantile(certificate.quantile))
            levels.append(certificate.error / max(true, floor(problem.dtype)))
            if bounds is not None and true > floor(problem.dtype):
                ratios.append(float((bounds / errors).median()))
        level = statistics.median(levels or [1.0])
        assert level <= SHARP, f"{problem.name}: the certified level is {level:.3g} times the true quantile"
        ratio = statistics.median(ratios or [1.0])
        assert ratio <= SHARP_BOUND, f"{problem.name}: the bound is {ratio:.3g} times the error in the median"
