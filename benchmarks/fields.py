"""Thermal block, 3x3 blocks, 20,201 unknowns, 9 parameters: the certified reduced basis beside pyMOR's."""

from __future__ import annotations

import numpy as np
import torch

from benchmarks.harness import Table, interleaved, once, seconds
from nearly.fields import ReducedBasis
from nearly.fields._projection import Projection
from nearly.problems import thermal_block

RANK = 90  # of both
CANDIDATES = 200  # of pyMOR's greedy search


def run() -> list[Table]:
    """Measure on one thread."""
    from pymor.basic import (
        CoerciveRBReductor,
        ExpressionParameterFunctional,
        StationaryRBReductor,
        discretize_stationary_cg,
        rb_greedy,
        set_log_levels,
        thermal_block_problem,
    )
    from threadpoolctl import threadpool_limits

    torch.set_num_threads(1)
    set_log_levels({"pymor": "ERROR"})
    with threadpool_limits(1):
        block = thermal_block()
        problem = thermal_block_problem(num_blocks=(3, 3), parameter_range=(0.1, 1))
        fom, _ = discretize_stationary_cg(problem, diameter=1 / 100)
        product = fom.h1_0_semi_product
        inputs = block.sample(50, 2026)
        truth = block(inputs)
        peer_inputs = [fom.parameters.parse(x.numpy()) for x in inputs]
        peer_truth = fom.solution_space.empty()
        for mu in peer_inputs:
            peer_truth.append(fom.solve(mu))
        energies = block.norm(truth).numpy()
        agreement = float(np.max(np.abs(energies - fom.h1_0_semi_norm(peer_truth)) / energies))
        assert agreement < 1e-10, f"the two discretizations differ by {agreement:.1e}"

        alpha = ExpressionParameterFunctional("min(diffusion)", fom.parameters)
        reductor = CoerciveRBReductor(fom, product=product, coercivity_estimator=alpha)
        candidates = fom.parameters.space(0.1, 1).sample_randomly(CANDIDATES)
        ours_build, surrogate = once(lambda: ReducedBasis(rank=RANK).fit(block))
        peer_build, greedy = once(lambda: rb_greedy(fom, reductor, candidates, max_extensions=RANK))
        rom = greedy["rom"]

        peer_errors, peer_ratios = [], []
        for mu, u in zip(peer_inputs, peer_truth, strict=True):
            answer = rom.compute(solution=True, solution_error_estimate=True, mu=mu)
            error = fom.h1_0_semi_norm(u - reductor.reconstruct(answer["solution"]))[0]
            peer_errors.append(error / fom.h1_0_semi_norm(u)[0])
            peer_ratios.append(float(np.ravel(answer["solution_error_estimate"])[0]) / error)

        table = Table(
            "Thermal block 3x3, 20,201 unknowns, 9 parameters",
            "Build a reduced basis by greedy search, then solve at fresh parameters; errors are relative in the H1 seminorm "
            f"over the same 50 parameters. The two discretizations' energies agree to {agreement:.0e}.",
            ["", f"Nearly, rank {RANK}", f"pyMOR greedy, rank {RANK}"],
        )
        model = surrogate.model
        error = block.error(truth, model(inputs))
        ratio = model.bound(inputs) / error
        many, turn = block.sample(1000, 7), iter(range(10**9))
        singles = [x[None] for x in inputs]

        def each(call):
            return lambda: call(singles[next(turn) % 50])

        def peer_each(call):
            return lambda: call(peer_inputs[next(turn) % 50])

        def peer_bounded(mu):
            return rom.compute(solution=True, solution_error_estimate=True, mu=mu)

        with torch.no_grad():
            alone = interleaved({"ours": each(model.coordinates), "peer": peer_each(rom.solve)}, repeats=401)
            bounded = interleaved(
                {"ours": each(model.coordinates_and_bound), "peer": peer_each(peer_bounded)}, repeats=401
            )
            full = interleaved({"ours": each(block), "peer": peer_each(fom.solve)}, repeats=25)
            batch = interleaved(
                {
                    "plain": lambda: model.coordinates(many),
                    "bounded": lambda: model.coordinates_and_bound(many),
                    "lifted": lambda: model(many),
                },
                repeats=11,
            )
        per_input = {name: value / len(many) for name, value in batch.items()}
        table.rows += [
            ["largest error", f"{float(error.max()):.2e}", f"{max(peer_errors):.2e}"],
            [
                "bound / error",
                f"{float(ratio.min()):.2f} to {float(ratio.max()):.2f}",
                f"{min(peer_ratios):.2f} to {max(peer_ratios):.2f}",
            ],
            ["build", seconds(ours_build), seconds(peer_build)],
            ["full solve", seconds(full["ours"]), seconds(full["peer"])],
            ["one reduced solve", seconds(alone["ours"]), seconds(alone["peer"])],
            ["one with its bound", seconds(bounded["ours"]), seconds(bounded["peer"])],
            ["each of 1,000 at once", seconds(per_input["plain"]), "(no batches)"],
            ["the same with bounds", seconds(per_input["bounded"]), "(no batches)"],
        ]
        table.remarks += [
            f"Building: {peer_build / ours_build:.1f} times as fast.",
            f"One solve with its bound: {bounded['peer'] / bounded['ours']:.1f} times as fast.",
            f"Each of 1,000 with its bound: {bounded['peer'] / per_input['bounded']:.1f} times as fast as pyMOR's one.",
            f"Each of 1,000 without: {alone['peer'] / per_input['plain']:.1f} times as fast as pyMOR's one.",
            f"Each of 1,000 with all 20,201 nodal values written out: {seconds(per_input['lifted'])} (162 kB each).",
        ]
        # Any 90 solutions do: nearby ones, beside which the next are small, are the hardest on round-off.
        snapshots = block(block.sample(RANK, 11)).numpy()
        return [table, _bound_cost(block, snapshots, fom, reductor, alpha, StationaryRBReductor, CoerciveRBReductor)]


def _bound_cost(block, snapshots, fom, reductor, alpha, plain, stable) -> Table:
    """Offline cost of the round-off-stable bound, given as many snapshots as pyMOR's basis has vectors."""
    vectors = reductor.bases["RB"]
    options = {"RB": vectors, "product": fom.h1_0_semi_product, "check_orthonormality": False}
    peer_without, _ = once(lambda: plain(fom, **options).reduce())
    peer_with, _ = once(lambda: stable(fom, coercivity_estimator=alpha, **options).reduce())

    def project(residual: bool) -> Projection:
        projection = Projection(block.system, residual=residual)
        projection.extend(snapshots)
        return projection

    ours = interleaved({"without": lambda: project(False), "with": lambda: project(True)}, repeats=5)
    table = Table(
        f"Offline cost of the stable bound, rank {len(snapshots)}",
        "Projecting the operators alone, and with the residual's coordinates in an orthonormal basis (valid to round-off). Ours "
        "starts from snapshots and orthonormalizes them, pyMOR's is given its orthonormal basis.",
        ["", "Nearly", "pyMOR"],
        [
            ["without a bound", seconds(ours["without"]), seconds(peer_without)],
            ["with the stable bound", seconds(ours["with"]), seconds(peer_with)],
            ["ratio", f"{ours['with'] / ours['without']:.0f}", f"{peer_with / peer_without:.0f}"],
        ],
    )
    floor = _floor()
    table.remarks += [
        f"The stable bound: {peer_with / ours['with']:.0f} times as fast as pyMOR's, and {ours['with'] / peer_without:.1f} times "
        "as long as pyMOR's reduction without one.",
        f"2x2 blocks at ranks up to 40: median error down to {floor[0]:.1e}, bound / error never below {floor[1]:.2f} "
        f"(2,000 parameters a rank); the median bound goes down to {floor[2]:.1e}.",
    ]
    return table


def _floor() -> tuple[float, float, float]:
    """Least median error, least bound / error, and least median bound on the way down to round-off."""
    block = thermal_block(blocks=(2, 2), cells=20)
    inputs = block.sample(2000, 5)
    truth = block(inputs)
    least_error, least_ratio, least_bound = np.inf, np.inf, np.inf
    for rank in (5, 10, 15, 20, 25, 30, 40):
        model = ReducedBasis(rank=rank).fit(block).model
        error, bound = block.error(truth, model(inputs)), model.bound(inputs)
        least_error = min(least_error, float(error.median()))
        least_ratio = min(least_ratio, float((bound / error).min()))
        least_bound = min(least_bound, float(bound.median()))
    return least_error, least_ratio, least_bound
