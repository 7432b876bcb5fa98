"""Checks of iterations: what they let in, what they return, and that they say so when they fail."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nearly.core.errors import BadInput, NearlyError, NotConverged
from nearly.core.registry import read_card
from nearly.core.solution import CONVERGED, Solution
from nearly.testing._cards import bad_values, require_constraints, require_keys, require_skips
from nearly.testing._fitting import same_bits
from nearly.testing._globals import global_state, odd_globals
from nearly.testing._nested import in_precision, is_inexact, on_device, tensors_of
from nearly.testing.second_device import elsewhere
from nearly.testing.solver_problems import SolverProblem

KEYS = {
    "name": str,
    "kind": str,
    "rows": list,
    "replaces": str,
    "residual": str,
    "rate": str,
    "differentiable": list,
    "parameters": dict,
    "skips": dict,
}
SINGLE = 1e-4  # the tolerance asked in single precision, at least
SCALES = (2.0**-996, 2.0**996)  # 1e-300 and 1e300, without rounding
SOME = 20  # steps on another device, where all takes longer
STEP = 1e-4  # of finite differences, relative: the tolerance leaves an error of tolerance / STEP in them
WORDS = 8  # a status that says what is wrong and what would help has more


@dataclass(frozen=True)
class Iteration:
    """A function that iterates, and its card."""

    function: Callable[..., Solution]
    card: Mapping[str, Any]

    @property
    def limit(self) -> str:
        """The parameter that caps the steps."""
        return str(self.card.get("limit", "iterations"))

    @property
    def complex_arguments(self) -> Sequence[str]:
        """Those that may be complex."""
        return tuple(self.card.get("complex", ()))

    def __call__(self, problem: SolverProblem, changed: Mapping[str, Any] | None = None, **keywords: Any) -> Solution:
        given = {**problem.arguments, **(changed or {})}
        return self.function(**{**given, "tolerance": problem.tolerance, **keywords})

    def capped(self, problem: SolverProblem, *, check: bool = True) -> Solution:
        """After one step at most."""
        keywords: dict[str, Any] = {self.limit: 1, "check": check}
        return self(problem, **keywords)


def check_card_complete(member: Iteration, problems: Sequence[SolverProblem]) -> None:
    """The card is a literal that can be read without importing its module, says all it must, and fits the function."""
    from nearly.testing.solver_contract import solver_checks

    card = member.card
    require_keys(card, KEYS)
    source = inspect.getsourcefile(member.function)
    assert source is not None, "the function has no source file, so no card can be read"
    literal = read_card(Path(source))
    assert literal is None or literal == card, (
        f"the literal CARD in {Path(source).name} is not the card of the function"
    )
    assert card["name"] == member.function.__name__, f"the card is named {card['name']!r}, not as the function"
    taken = inspect.signature(member.function).parameters
    keywords = {name for name, parameter in taken.items() if parameter.kind is inspect.Parameter.KEYWORD_ONLY}
    for name in ("tolerance", member.limit, *card["parameters"]):
        assert name in card["parameters"], f"the card's parameters lack {name!r}"
        assert name in keywords, f"{name!r} is no keyword-only parameter of the function"
    assert "check" in keywords, "the function has no keyword-only check=, which returns what has not converged"
    for name in card["differentiable"]:
        assert name in taken, f"the card calls {name!r} differentiable, which is no argument"
    for name in member.complex_arguments:
        assert name in taken, f"the card lets {name!r} be complex, which is no argument"
        assert any(name in problem.complex_arguments for problem in problems), (
            f"in no problem of the kind is {name!r} complex"
        )
    require_constraints(card)
    require_skips(card, solver_checks())
    assert problems, f"there are no problems of the kind {card['kind']!r}"


def check_bad_parameters(member: Iteration, problems: Sequence[SolverProblem]) -> None:
    """Every value that the card's constraints forbid is refused with a `BadInput` that names the parameter.

    Raises:
        AssertionError: otherwise.
    """
    for name, constraint in member.card["parameters"].items():
        for value in bad_values(constraint):
            _refused(member, problems[0], name, {}, f"{name}={value!r}", **{name: value})


def check_bad_inputs(member: Iteration, problems: Sequence[SolverProblem]) -> None:
    """NaN, infinity, nothing and text in place of any argument are refused with a `BadInput` that names it.

    So are complex numbers in place of real ones, except in arguments that the card lets be complex.
    """
    for problem in problems:
        for name, value in problem.arguments.items():
            wrong: dict[str, Any] = {"text": "text"}
            real = name not in member.complex_arguments
            if isinstance(value, Tensor):
                wrong |= _spoiled(value, real)
            elif isinstance(value, list) and all(isinstance(part, Tensor) for part in value):
                wrong |= {what: [*value[:-1], other] for what, other in _spoiled(value[-1], real).items()}
            for what, other in wrong.items():
                _refused(member, problem, name, {name: other}, f"{name} with {what}")


def _spoiled(value: Tensor, real: bool) -> dict[str, Tensor]:
    wrong = {"complex entries": value * (1 + 1j)} if real else {}
    for entry in (float("nan"), float("inf")):
        wrong[str(entry)] = value.clone(memory_format=torch.contiguous_format)
        wrong[str(entry)].view(-1)[-1].fill_(complex(0.0, entry) if value.is_complex() else entry)
    return wrong | {"no entries": value[..., :0] if value.ndim else value.new_empty(0)}


def _refused(
    member: Iteration, problem: SolverProblem, name: str, arguments: Mapping[str, Any], what: str, **keywords: Any
) -> None:
    try:
        member(problem, arguments, **keywords)
        got = "accepted"
    except BadInput as error:
        if name in error.argument:
            return
        got = f"refused as {error.argument!r}"
    except Exception as error:  # any other is a refusal that names nothing
        got = f"met with {type(error).__name__}: {error}"
    raise AssertionError(f"{problem.name}: {what} is {got}, not refused by name")


def check_residual_true(member: Iteration, problems: Sequence[SolverProblem]) -> None:
    """Every problem is solved to its tolerance, and a naive evaluation finds the residual that is reported."""
    for problem in problems:
        found = member(problem)
        assert isinstance(found, Solution), f"{problem.name}: it returns {type(found).__name__}, no Solution"
        assert found.status == CONVERGED, f"{problem.name}: {found.status!r} though no error was raised"
        shape = found.residual.shape
        assert found.converged.dtype == torch.bool, f"{problem.name}: converged is {found.converged.dtype}"
        assert not found.iterations.is_floating_point(), f"{problem.name}: iterations are {found.iterations.dtype}"
        assert found.converged.shape == found.iterations.shape == shape, f"{problem.name}: shapes of the results differ"
        assert bool(found.converged.all()), f"{problem.name}: not all converged, and yet no error was raised"
        _agree(problem, found)
        _agree(problem, member.capped(problem, check=False))
        worst = float(found.residual.max())
        assert worst <= problem.tolerance, (
            f"{problem.name}: called converged at {worst:.3g}, not {problem.tolerance:.3g}"
        )


def _agree(problem: SolverProblem, found: Solution) -> None:
    true = problem.residual(found.value, problem.arguments).to(found.residual)
    gap = (true - found.residual).abs()
    allowed = 0.01 * problem.tolerance + 0.01 * true
    fine = (gap <= allowed) | (true == found.residual) | (~torch.isfinite(true) & ~torch.isfinite(found.residual))
    assert true.shape == found.residual.shape, f"{problem.name}: one residual per problem is asked for"
    assert bool(fine.all()), (
        f"{problem.name}: the residual reported is {found.residual.tolist()}, the true one {true.tolist()}"
    )


def check_failure_told(member: Iteration, problems: Sequence[SolverProblem]) -> None:
    """Where steps run out, or there is no solution, an error carries what was found, and a status says what would help."""
    needs_more = False
    for problem in problems:
        found = member.capped(problem, check=False)
        kept = found.residual <= problem.tolerance
        assert bool((found.converged == kept).all()), f"{problem.name}: called converged after one step, and is not"
        if not bool(kept.all()):
            needs_more = True
            _advises(problem.name, found)
            assert isinstance(_raised(lambda: member.capped(problem)), NotConverged), (  # noqa: B023 - called here
                f"{problem.name}: unsolved after one step, and no NotConverged was raised"
            )
        for name, changes in problem.impossible.items():
            assert _raised(lambda: member(problem, changes)) is not None, (  # noqa: B023 - called here
                f"{problem.name}, {name}: there is no solution, and no error was raised"
            )
            try:
                found = member(problem, changes, check=False)
            except NearlyError:
                continue
            assert not bool(found.converged.all()), f"{problem.name}, {name}: called converged"
            _advises(f"{problem.name}, {name}", found)
    assert needs_more, "no problem needs a second step, so nothing can be seen to fail"


def _raised(call: Callable[[], Solution]) -> NearlyError | None:
    try:
        call()
    except NearlyError as error:
        return error
    return None


def _advises(name: str, found: Solution) -> None:
    assert found.status != CONVERGED, f"{name}: not converged, and the status says it did"
    assert len(found.status.split()) >= WORDS, f"{name}: the status {found.status!r} says too little"


def check_tolerance_obeyed(member: Iteration, problems: Sequence[SolverProblem]) -> None:
    """A looser tolerance is kept as well, and takes fewer steps."""
    fewer = False
    for problem in problems:
        loose, tight = (member(problem, tolerance=problem.tolerance * factor) for factor in (1e3, 1.0))
        spent = int(loose.iterations.sum()), int(tight.iterations.sum())
        assert spent[0] <= spent[1], f"{problem.name}: it takes {spent[0]} steps to a looser tolerance, {spent[1]} else"
        fewer |= spent[0] < spent[1]
    assert fewer, "the tolerance changes nothing"


def check_batch_alone(member: Iteration, problems: Sequence[SolverProblem]) -> None:
    """A problem of a batch has the solution that it has alone."""
    some = False
    for problem in problems:
        if not problem.batched:
            continue
        some = True
        together = problem.meaning(member(problem).value)
        for i in range(len(problem.arguments[problem.batched[0]])):
            alone = {name: problem.arguments[name][i] for name in problem.batched}
            value = problem.meaning(member(problem, alone).value)
            gap = _distance(together[i], value)
            assert gap <= 1e3 * problem.tolerance, f"{problem.name}: alone, problem {i} is {gap:.2g} off, relatively"
    assert some, "no problem comes in a batch"


def _distance(first: Tensor, second: Tensor) -> float:
    assert first.shape == second.shape, f"shapes {tuple(first.shape)} and {tuple(second.shape)} differ"
    size = float(second.detach().abs().max())
    return float((first - second).detach().abs().max()) / (size if size > 0 else 1.0)


def check_leaves_no_trace(member: Iteration, problems: Sequence[SolverProblem]) -> None:
    """Inputs and all global state stay as they were, and two calls agree in every bit."""
    for problem in problems:
        kept = {name: [one.clone() for one in tensors_of(value)] for name, value in problem.arguments.items()}
        with odd_globals():
            before = global_state()
            first = tensors_of(member(problem).value)
            changed = [name for name, value in global_state().items() if before[name] != value]
        assert not changed, f"{problem.name}: it changes {', '.join(changed)}"
        assert first, f"{problem.name}: the value holds no tensors"
        changed = [
            name
            for name, old in kept.items()
            if not all(same_bits(a, b) for a, b in zip(old, tensors_of(problem.arguments[name]), strict=True))
        ]
        assert not changed, f"{problem.name}: it changes its arguments {', '.join(changed)} in place"
        second = tensors_of(member(problem).value)
        assert all(same_bits(a, b) for a, b in zip(first, second, strict=True)), f"{problem.name}: two calls differ"


def check_dtypes(member: Iteration, problems: Sequence[SolverProblem]) -> None:
    """Single precision in, single precision out, and nearly the same solution."""
    for problem in problems:
        tolerance = max(problem.tolerance, SINGLE)
        single = {name: in_precision(value, torch.float32) for name, value in problem.arguments.items()}
        found = member(problem, single, tolerance=tolerance)
        kinds = {t.dtype for t in tensors_of(found.value) if is_inexact(t)}
        assert kinds <= {torch.float32, torch.complex64}, f"{problem.name}: float32 in, {kinds} out"
        double = {name: in_precision(value, torch.float64) for name, value in single.items()}
        true = problem.residual(found.value, double)
        assert bool((true <= 10 * tolerance).all()), (
            f"{problem.name}: in single precision the true residual is {float(true.max()):.2g}, asked for {tolerance:.2g}"
        )


def check_follows_device(member: Iteration, problems: Sequence[SolverProblem]) -> None:
    """Arguments on another device give the same solution there.

    Raises:
        AssertionError: otherwise.
    """
    for problem in problems:
        few: dict[str, Any] = {member.limit: SOME, "check": False}
        here = tensors_of(member(problem, **few).value)
        with elsewhere() as traffic:
            try:
                found = member(problem, on_device(dict(problem.arguments), traffic.device), **few)
            except RuntimeError as error:
                raise AssertionError(f"{problem.name}: on another device it fails: {error}") from error
            there = tensors_of(found.value)
            results = (*there, found.converged, found.iterations, found.residual)
            stray = [tuple(one.shape) for one in results if one.device != traffic.device]
            there = [one.detach().cpu() for one in there]
        assert not stray, f"{problem.name}: results of shapes {stray} are on the host"
        for first, second in zip(here, there, strict=True):
            known = ~first.isnan()  # what lies behind where it stopped is not
            same = torch.equal(known, ~second.isnan())
            gap = _distance(second[known], first[known]) if same and known.any() else float(not same)
            assert gap <= 1e3 * problem.tolerance, f"{problem.name}: on another device the solution is {gap:.2g} off"


def check_scaled(member: Iteration, problems: Sequence[SolverProblem]) -> None:
    """Arguments of size 1e-300 and 1e300 give the solution, scaled, or the failure is told."""
    for problem in problems:
        plain = problem.meaning(member(problem).value).detach()
        for name, degree in problem.degrees.items():
            for scale in SCALES:
                try:
                    found = member(problem, {name: problem.arguments[name] * scale}, check=False)
                except NearlyError:
                    continue
                if not bool(found.converged.all()):
                    _advises(problem.name, found)
                    continue
                gap = _distance(problem.meaning(found.value) * scale**-degree, plain)
                assert gap <= 1e3 * problem.tolerance, (
                    f"{problem.name}: with {name} times {scale:.0e} the solution is {gap:.2g} off, and called converged"
                )


def check_gradients(member: Iteration, problems: Sequence[SolverProblem]) -> None:
    """Derivatives agree with finite differences where the card says so; elsewhere there are none, rather than wrong ones.

    Of complex arguments they are torch's: the change along d is the real part of the sum of `conj(gradient) d`.
    """
    for problem in problems:
        for name, value in problem.arguments.items():
            if not is_inexact(value):
                continue
            given = value.clone().requires_grad_()
            out = problem.meaning(member(problem, {name: given}).value)
            declared = name in member.card["differentiable"]
            assert out.requires_grad or not declared, f"{problem.name}: there is no gradient for {name}"
            if not out.requires_grad:
                continue
            weights = _phases(out)
            (gradient,) = torch.autograd.grad((out * weights).real.sum(), given)
            direction = _phases(value) * value
            direction = direction if value.is_complex() else direction.real
            structure = problem.structure.get(name)
            direction = direction if structure is None else structure(direction)
            ends = [
                (problem.meaning(member(problem, {name: value + side * STEP * direction}).value) * weights)
                .real.sum()
                .detach()
                for side in (1, -1)
            ]
            slope, ours = float(ends[0] - ends[1]) / (2 * STEP), float((gradient.conj() * direction).real.sum())
            allowed = 1e-3 * abs(slope) + 1e-5 * float((out.detach().abs() * weights.abs()).sum())
            assert abs(slope - ours) <= allowed, (
                f"{problem.name}: the derivative along {name} is {ours:.6g}, finite differences give {slope:.6g}"
            )


def _phases(like: Tensor) -> Tensor:
    """Numbers of absolute value one, all different."""
    angles = torch.arange(1, like.numel() + 1, dtype=torch.float64)
    return torch.polar(torch.ones_like(angles), angles).reshape(like.shape)


def check_order_declared(member: Iteration, problems: Sequence[SolverProblem]) -> None:
    """The order that the card declares is measured to within a quarter."""
    order = member.card.get("order")
    if order is None:
        return
    measures = [problem for problem in problems if problem.order is not None]
    assert measures, "an order is declared, and no problem measures it"
    for problem in measures:
        assert problem.order is not None
        slope = problem.order(member.function)
        assert abs(slope - order) <= 0.25, f"{problem.name}: the order is {slope:.2f}, declared as {order}"
