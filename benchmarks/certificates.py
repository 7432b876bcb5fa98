"""Do certificates hold? Many fits over small problems of every noun, each certified, each then faced with 2,000 further inputs."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass

import scipy.sparse
import torch

import nearly
from benchmarks.harness import Table
from nearly.core.certificate import Bound, Probable
from nearly.core.certify import measure
from nearly.core.method import Method
from nearly.core.target import Pairs, Target
from nearly.fields import KernelRegression, PODRegression, ReducedBasis
from nearly.functions import PolynomialLeastSquares
from nearly.matrices import IncompleteFactorization, TruncatedSVD
from nearly.measures import RandomSubsample
from nearly.networks import TruncatedLayers
from nearly.problems import digits_classifier, smooth_function, thermal_block

FRESH = 2000
QUANTILE, CONFIDENCE, SAMPLES = 0.95, 0.99, 200


@dataclass
class Case:
    """A problem with a method, and how to get a target for a seed."""

    name: str
    method: Method
    target: Callable[[int], Target]


@dataclass
class Outcome:
    """One seed of one case."""

    case: str
    exceeded: float  # share of the further inputs whose error exceeds the certified level
    sharpness: float  # certified level over the true quantile, from the further inputs
    least_ratio: float | None  # bound over error, for a Bound
    median_ratio: float | None


def cases() -> list[Case]:
    """Ten cases over the five nouns."""
    block, function = thermal_block((2, 1), cells=12), smooth_function("oscillatory")
    smooth = smooth_function("entire")
    digits = digits_classifier(width=64)
    turn = torch.linalg.qr(torch.randn(60, 60, dtype=torch.float64, generator=torch.Generator().manual_seed(0)))[0]
    matrix = nearly.Matrix(turn * 0.7 ** torch.arange(60.0, dtype=torch.float64) @ turn.T)
    line = scipy.sparse.diags_array([-1.0, 2.1, -1.0], offsets=[-1, 0, 1], shape=(20, 20))
    plane = scipy.sparse.kronsum(line, line).tocsr()
    solve = nearly.Solve(plane)
    cloud = torch.randn(5000, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    measure_ = nearly.Measure(torch.cat([cloud, cloud[:2500] / 2 + 3]))

    def rows(seed: int) -> Target:
        return nearly.Network(digits.module, digits.rows.pairs.inputs, seed=seed, certify=SAMPLES + FRESH)

    def data(seed: int) -> Target:
        generator = torch.Generator().manual_seed(1000 + seed)
        inputs = block.domain.sample(200 + SAMPLES + FRESH, generator)
        return nearly.Field.from_data(inputs, block(inputs), product=block.product, certify=SAMPLES + FRESH, seed=seed)

    return [
        Case("field, reduced basis", ReducedBasis(rank=4, candidates=100), lambda _: block),
        Case("field, POD regression", PODRegression(samples=40), lambda _: block),
        Case("field from data, kernel regression", KernelRegression(samples=60), data),
        Case("function, polynomials", PolynomialLeastSquares(samples=100), lambda _: function),
        Case("function, kernel regression", KernelRegression(samples=60), lambda _: smooth),
        Case("matrix, truncated SVD", TruncatedSVD(rank=8), lambda _: matrix),
        Case("solve, incomplete factorization", IncompleteFactorization(digits=2), lambda _: solve),
        Case("network, truncated layers", TruncatedLayers(percent=40), rows),
        Case("measure, random subsample of 64", RandomSubsample(size=64), lambda _: measure_),
        Case("measure, random subsample of 512", RandomSubsample(size=512), lambda _: measure_),
    ]


def study(seeds: int) -> list[Outcome]:
    """Fit and certify every case with as many seeds; face each fit with 2,000 further inputs."""
    outcomes = []
    for case in cases():
        for seed in range(seeds):
            target = case.target(seed)
            surrogate = nearly.fit(
                target, method=case.method, quantile=QUANTILE, confidence=CONFIDENCE, samples=SAMPLES, seed=seed
            )
            pairs: Pairs = target.draw(FRESH, torch.Generator().manual_seed(10**6 + seed))
            errors, bounds = measure(surrogate, target, pairs)
            assert isinstance(surrogate.certificate, Probable)
            ratio = None if bounds is None else bounds / errors
            assert (bounds is not None) == isinstance(surrogate.certificate, Bound)
            outcomes.append(
                Outcome(
                    case.name,
                    float((errors > surrogate.certificate.error).double().mean()),
                    surrogate.certificate.error / float(errors.double().quantile(QUANTILE)),
                    None if ratio is None else float(ratio.min()),
                    None if ratio is None else float(ratio.median()),
                )
            )
    return outcomes


def run() -> list[Table]:
    """Twenty seeds a case, 200 fits in all."""
    torch.set_num_threads(1)
    outcomes = study(20)
    table = Table(
        "Certificates on fresh inputs",
        f"200 fits certified at Probable({QUANTILE}, {CONFIDENCE}) on {SAMPLES} fresh inputs, each then faced with {FRESH:,} "
        "further inputs. A fit is broken if more than 5% of those exceed its level.",
        [
            "case",
            "fits",
            "broken",
            "median share above the level",
            "median level / true quantile",
            "least bound / error",
            "median",
        ],
    )
    for name in dict.fromkeys(o.case for o in outcomes):
        mine = [o for o in outcomes if o.case == name]
        ratios = [o for o in mine if o.least_ratio is not None]
        table.rows.append(
            [
                name,
                str(len(mine)),
                str(sum(o.exceeded > 1 - QUANTILE for o in mine)),
                f"{statistics.median(o.exceeded for o in mine):.3f}",
                f"{statistics.median(o.sharpness for o in mine):.2f}",
                f"{min(o.least_ratio for o in ratios):.2f}" if ratios else "",
                f"{statistics.median(o.median_ratio for o in ratios):.2f}" if ratios else "",
            ]
        )
    broken = sum(o.exceeded > 1 - QUANTILE for o in outcomes)
    share = broken / len(outcomes)
    table.remarks.append(
        f"Broken: {broken} of {len(outcomes)} ({share:.1%}); the confidence allows 1% in the long run."
    )
    return [table]
