"""Stochastic differential equations along given Brownian paths, with steps of each path's own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from nearly.calculus._evaluations import Pure
from nearly.calculus.steppers._entry import as_state, error_scale, scaled_error
from nearly.calculus.steppers.brownian import BrownianTree, Increment
from nearly.core.errors import BadInput
from nearly.core.solution import Solution, conclude
from nearly.core.validate import describe, require_parameters

if TYPE_CHECKING:
    from jaxtyping import Float

CARD = {
    "name": "integrate_sde",
    "kind": "sde",
    "rows": [200],
    "replaces": "constant steps for stochastic differential equations whose difficulty depends on where the path is",
    "residual": "the largest accepted local error: root mean square over components of |one step - two halves| / (scale + |state|)",
    "rate": "the strong order of the step, in the mean number of steps, also where constant steps lose it",
    "order": None,
    "differentiable": [],
    "limit": "steps",
    "parameters": {
        "tolerance": ["real", 0, 1],
        "scale": ["optional real", 0, None],
        "steps": ["integer", 1, None],
    },
    "skips": {},
}
Flow = Callable[[Tensor, Tensor], Tensor]
SdeStep = Callable[[Tensor, Tensor, Increment], Tensor]
GROW = 0.25  # share of the tolerance below which the next step may be twice as long: a step of strong order 1.5 on rough paths


class SdePaths(NamedTuple):
    """Numerical solutions.

    Attributes:
        states: at the last time; NaN where it was not reached.
        lengths: of the accepted steps, in order, 0 behind a path's last.
    """

    states: Float[Tensor, "*batch n"]
    lengths: Float[Tensor, "steps ..."]


def splitting_step(drift: Flow, noise: Flow) -> SdeStep:
    """A step of strong order 1.5 for commutative noise, from the exact flows of drift and noise.

    For `dy = f(y) dt + g(y) o dW` (Stratonovich) the path (time, W) is replaced by five straight pieces that keep its W and H:
    time by `(3 - sqrt 3)/6 h`, noise by `W/2 + sqrt 3 H`, time by `h / sqrt 3`, noise by `W/2 - sqrt 3 H`, time by
    `(3 - sqrt 3)/6 h`. Where the flows keep a set, such as the positive numbers, so does the step.

    Source: Foster, dos Reis and Strange 2022, High order splitting methods for SDEs satisfying a commutativity condition, arXiv
    2210.17543, whose five-piece path this is up to our derivation of its weights from W and H.

    Args:
        drift: takes states and lengths of time; gives the solution of `y' = f(y)`.
        noise: takes states and increments; gives the solution of `y' = g(y)` after that "time", which may be negative.

    Returns:
        A step for `integrate_sde`.

    Example:
        >>> step = splitting_step(lambda y, h: y * torch.exp(-h), lambda y, w: y + w)
        >>> still = Increment(torch.zeros(1, 1), torch.zeros(1, 1))
        >>> round(float(step(torch.ones(1, 1), torch.full((1, 1), 1.0), still)), 6)
        0.367879
    """
    outer = (3 - 3**0.5) / 6

    def step(state: Tensor, length: Tensor, increment: Increment) -> Tensor:
        middle, shift = increment.change / 2, 3**0.5 * increment.area
        state = noise(drift(state, outer * length), middle + shift)
        return drift(noise(drift(state, (1 - 2 * outer) * length), middle - shift), outer * length)

    return step


def integrate_sde(
    step: SdeStep,
    initial: Float[Tensor, "*batch n"],
    path: BrownianTree,
    *,
    tolerance: float = 1e-3,
    scale: float | None = None,
    steps: int = 100_000,
    check: bool = True,
) -> Solution:
    """Solve a stochastic differential equation along Brownian paths, each path with steps of its own.

    It replaces constant steps. Steps are intervals of the tree of halves: one is accepted where it and its two halves agree,
    `sqrt(mean_i (|one_i - two_i| / (scale + max(|y_i|, |two_i|)))^2) <= tolerance`, and the halves' state is kept; else the first
    half is tried. After an error below a quarter of the tolerance the next step is twice as long where the tree has such an
    interval. So no time that was looked at is skipped, and every step is dyadic: what Foster and Jelincic 2023 (arXiv
    2311.14201) ask of adaptive steps, which else may converge to the wrong solution. All paths advance together, in batches.

    Source: Jelincic, Foster and Kidger 2024, Single-seed generation of Brownian paths and integrals for adaptive and high order SDE
    solvers, arXiv 2405.06464; there steps follow a proportional-integral controller.

    Args:
        step: takes states (m, n), lengths of time (m, 1) and increments (m, *path.shape); gives states. `splitting_step` makes one.
        initial: shape (*batch, n); its batch is that of the tree's seeds.
        path: Brownian paths; integrated from its start to its end.
        tolerance: of the local error, relative to `scale + |y|`.
        scale: size below which errors count absolutely; by default each path's largest initial entry, or 1 where that is 0.
        steps: at most, per path, rejected ones included.
        check: whether to raise where a path does not reach the end.

    Returns:
        `SdePaths`; `iterations` counts accepted steps, each of which takes three of `step`.

    Raises:
        BadInput: for arguments that are not as above, and a step that works in place or whose value is not like its state.
        NotConverged: where steps ran out, or no step of the tree is short enough.

    Example:
        >>> step = splitting_step(lambda y, h: y * torch.exp(-h), lambda y, w: y + w)
        >>> tree = BrownianTree(torch.arange(4), 0.0, 1.0, shape=(1,))
        >>> integrate_sde(step, torch.ones(4, 1), tree).value.states.shape
        torch.Size([4, 1])
    """
    require_parameters(CARD, tolerance=tolerance, scale=scale, steps=steps)
    initial = as_state("initial", initial).detach()
    if not callable(step):
        raise BadInput("step", "a function of states, lengths and increments", describe(step))
    step = Pure("step", step)
    if not isinstance(path, BrownianTree):
        raise BadInput("path", "a BrownianTree", describe(path))
    seeds = torch.as_tensor(path.seed, device=initial.device)
    batch = initial.shape[:-1]
    if seeds.shape != batch:
        raise BadInput(
            "initial", f"of shape {(*seeds.shape, 'n')}, a state for each of the tree's seeds", describe(initial)
        )
    states, scales = initial.flatten(0, -2) if batch else initial[None], error_scale(initial, scale).reshape(-1, 1)
    states, paths = states.clone(), replace(path, seed=seeds.reshape(-1), dtype=initial.dtype)
    count, finest = len(states), path.levels - 1
    span = path.end - path.start
    place, level, taken, accepted = (torch.zeros(count, dtype=torch.int64, device=initial.device) for _ in range(4))
    worst = torch.zeros(count, dtype=states.dtype, device=states.device)
    lengths: list[tuple[Tensor, Tensor]] = []
    live = torch.arange(count, device=initial.device)
    stuck = torch.zeros(count, dtype=torch.bool, device=initial.device)
    while len(live):
        state, spot, depth = states[live], place[live], level[live]
        size = span * 2.0 ** -depth.double()
        one, two = _one_and_two(step, state, path.start + size * spot, size, paths[live])
        error = scaled_error(one - two, state, two, scales[live])
        good = error <= tolerance
        states[live] = torch.where(good[:, None], two, state)
        worst[live] = torch.where(good, torch.maximum(worst[live], error), worst[live])
        lengths.append((live, torch.where(good, size, 0.0)))
        taken[live] += 1
        accepted[live] += good
        ahead = spot + 1
        # A step up also where the place demands none: level 0 has one place only, and then the path has arrived.
        longer = good & (ahead % 2 == 0) & (depth > 0) & (error <= GROW * tolerance)
        stuck[live] = ~good & (depth >= finest)
        place[live] = torch.where(good, torch.where(longer, ahead // 2, ahead), 2 * spot)
        level[live] = torch.where(good, depth - longer.long(), depth + 1)
        live = live[(place[live] < 2 ** level[live]) & (taken[live] < steps) & ~stuck[live]]
    arrived = place == 2**level
    states[~arrived] = torch.nan
    most = int(accepted.max())
    table, row = states.new_zeros(most + 1, count), torch.zeros_like(taken)
    for some, size in lengths:  # of rejected steps 0, where the next accepted one is put
        table[row[some], some] = size.to(table.dtype)
        row[some] += size > 0
    return conclude(
        "integrate_sde",
        SdePaths(states.reshape(initial.shape), table[:most].reshape(-1, *batch)),
        residual=torch.where(arrived, worst, torch.inf).reshape(batch),
        tolerance=tolerance,
        iterations=accepted.reshape(batch),
        advice=f"after {steps} steps they had not reached time {path.end:g}; raise steps= or tolerance=",
        broken=stuck.reshape(batch),
        why="no interval of the tree is short enough for the tolerance; raise it, lower the tree's, or look for NaN in the step",
        check=check,
    )


def _one_and_two(
    step: SdeStep, states: Tensor, begin: Tensor, size: Tensor, path: BrownianTree
) -> tuple[Tensor, Tensor]:
    """States after one step and after its two halves."""
    half = size / 2
    middle = begin + half
    both = path(torch.stack([begin, middle]), torch.stack([middle, begin + size]))
    left, right = Increment(both.change[0], both.area[0]), Increment(both.change[1], both.area[1])
    short = half.to(states.dtype)[:, None]
    wide = short.reshape(-1, *[1] * len(path.shape)) if path.shape else short[:, 0]
    change = left.change + right.change
    integral = left.integral(wide) + right.integral(wide) + wide * left.change
    whole = Increment(change, integral / (2 * wide) - change / 2)
    one = _taken(step, states, 2 * short, whole)
    return one, _taken(step, _taken(step, states, short, left), short, right)


def _taken(step: SdeStep, states: Tensor, length: Tensor, increment: Increment) -> Tensor:
    value = step(states, length, increment)
    if not isinstance(value, Tensor) or value.shape != states.shape or value.dtype != states.dtype:
        raise BadInput("step", f"a function whose value is {describe(states)}, as its states", describe(value))
    return value
