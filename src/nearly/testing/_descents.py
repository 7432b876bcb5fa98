"""Checks of optimizers: what they let in, what they keep from step to step, and that they leave all else as it was."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nearly.core.errors import BadInput
from nearly.core.registry import read_card
from nearly.optim import AdamW
from nearly.optim.memory import held_bytes
from nearly.optim.optimizer import COMMON, Optimizer
from nearly.optim.step import NEEDS
from nearly.testing._cards import bad_values, require_constraints, require_keys, require_skips
from nearly.testing._fitting import same_bits
from nearly.testing._globals import global_state, odd_globals
from nearly.testing.optimizer_problems import OptimizerProblem, Run
from nearly.testing.second_device import elsewhere

KEYS = {
    "name": str,
    "rows": list,
    "replaces": str,
    "cost": str,
    "needs": list,
    "state": dict,
    "parameters": dict,
    "settings": dict,
    "skips": dict,
}
STEPS = 60  # in which the loss falls to a third
BEFORE, AFTER = 5, 5  # steps before a state is saved, and after
ROUNDING = 1e-9  # of batches of other sizes, relative, in double precision

Member = type[Optimizer]


def check_card_complete(member: Member, problems: Sequence[OptimizerProblem]) -> None:
    """The card is a literal that can be read without importing its module, says all it must, and fits the class."""
    from nearly.testing.optimizer_contract import optimizer_checks

    card = member.card
    require_keys(card, KEYS)
    source = inspect.getsourcefile(member)
    assert source is not None, "the class has no source file, so no card can be read"
    literal = read_card(Path(source))
    assert literal is None or literal == card, f"the literal CARD in {Path(source).name} is not the card of the class"
    assert card["name"] == member.__name__, f"the card is named {card['name']!r}, not as the class"
    taken = inspect.signature(member.__init__).parameters
    keywords = {name for name, parameter in taken.items() if parameter.kind is inspect.Parameter.KEYWORD_ONLY}
    assert keywords == set(card["parameters"]), (
        f"the card's parameters {sorted(card['parameters'])} are not the keyword-only ones {sorted(keywords)}"
    )
    assert set(card["needs"]) <= set(NEEDS), f"the card needs {card['needs']}, of which some are unknown"
    assert set(card["settings"]) <= keywords | {"rest"}, (
        f"the card's settings {sorted(card['settings'])} are not all parameters"
    )
    assert "matrix" in card["state"], "the card's state says nothing of a matrix"
    require_constraints(card)
    require_skips(card, optimizer_checks())


def check_bad_parameters(member: Member, problems: Sequence[OptimizerProblem]) -> None:
    """Every value that the card's constraints forbid is refused with a `BadInput` that names the parameter, in groups too."""
    own = member.card["parameters"]
    for name, constraint in {**{name: COMMON[name] for name in ("maximize", "nonfinite", "seed")}, **own}.items():
        for value in bad_values(constraint):
            _refused(lambda: problems[0].start(member, **{name: value}), name, f"{name}={value!r}")  # noqa: B023
            if name in own:
                groups = [{"params": problems[0].module().parameters(), name: value}]
                _refused(lambda: _plain(problems[0], member, groups), name, f"{name}={value!r} of a group")  # noqa: B023


def _plain(problem: OptimizerProblem, member: Member, params: Any) -> Optimizer:
    """An optimizer of other parameters than the problem's."""
    options = {"module": problem.module()} if "layers" in member.card["needs"] else {}
    return problem.start(member).build(params, **{**member.card["settings"], **options})


def _refused(call: Callable[[], Any], name: str, what: str) -> BadInput:
    try:
        call()
        got = "accepted"
    except BadInput as error:
        if name in error.argument:
            return error
        got = f"refused as {error.argument!r}"
    except Exception as error:  # any other is a refusal that names nothing
        got = f"met with {type(error).__name__}: {error}"
    raise AssertionError(f"{what} is {got}, not refused by name")


def check_bad_tensors(member: Member, problems: Sequence[OptimizerProblem]) -> None:
    """What cannot be stepped is refused as `params`: nothing, no tensors, no leaves, integers, complex and empty tensors."""
    leaf = torch.ones(3, 2, requires_grad=True)
    bad: dict[str, Any] = {
        "no parameters": [],
        "a bare tensor": leaf,
        "text": ["text"],
        "a number": [1.0],
        "no leaf": [2 * leaf],
        "integers": [torch.ones(3, 2, dtype=torch.int64)],
        "complex numbers": [torch.ones(3, 2, dtype=torch.complex64, requires_grad=True)],
        "no entries": [torch.ones(0, 2, requires_grad=True)],
        "a named text": [("weight", "text")],
        "a dictionary without params": [{"lr": 1.0}],
    }
    for what, params in bad.items():
        _refused(lambda: _plain(problems[0], member, params), "params", what)  # noqa: B023


def check_bad_gradients(member: Member, problems: Sequence[OptimizerProblem]) -> None:
    """A NaN or infinite gradient is an error by the parameter's name, or a step skipped on request; nothing changes by it."""
    for problem in problems:
        for entry in (float("nan"), float("inf")):
            for choice in ("raise", "skip"):
                run = problem.start(member, nonfinite=choice).step(2)
                kept = [one.detach().clone() for one in run.parameters], copy.deepcopy(run.optimizer.state_dict())
                what = f"{problem.name}: a gradient with {entry}"
                if choice == "skip":
                    _spoiled(run, entry)
                else:
                    error = _refused(lambda: _spoiled(run, entry), "", what)  # noqa: B023
                    named = [name for name, _ in run.module.named_parameters() if name in error.argument]
                    assert named or error.argument == "loss", f"{what} is refused as {error.argument!r}"
                assert _same(kept[0], [one.detach() for one in run.parameters]), f"{what}, {choice}: parameters changed"
                assert same_state(kept[1], run.optimizer.state_dict()), f"{what}, {choice}: the state changed"


def _spoiled(run: Run, entry: float) -> None:
    """A step whose last parameter's gradient, or the loss of members that see no gradient, has an entry that is no number."""
    if "values" in run.needs:
        run.disturb = lambda loss: loss * entry
    else:
        last = run.parameters[-1]

        def disturb(loss: Tensor) -> Tensor:
            return loss + _Spoil.apply(last, entry)  # type: ignore[no-untyped-call]

        run.disturb = disturb
    run.step()


class _Spoil(torch.autograd.Function):
    """Zero, with a derivative whose first entry is no number."""

    @staticmethod
    def forward(context: Any, parameter: Tensor, entry: float) -> Tensor:
        context.like, context.entry = parameter, entry
        return parameter.new_zeros(())

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        found = torch.zeros_like(context.like)
        found.view(-1)[0] = context.entry
        return found, None


def check_asks(member: Member, problems: Sequence[OptimizerProblem]) -> None:
    """What it needs beyond gradients is asked for by errors that show what to write; what it does not need it does without."""
    for problem in problems:
        if "layers" in member.card["needs"]:
            error = _refused(lambda: problem.start(member, module=None), "module", "no module")  # noqa: B023
            assert "module=" in str(error), "the error does not show how to give the module"
        run = problem.start(member)
        if run.asks_closure:
            error = _refused(run.optimizer.step, "closure", "no closure")
            assert "optimizer.step(closure)" in str(error), "the error does not show the closure to write"
        else:
            given = problem.start(member)
            loss = given.optimizer.step(given.closure)
            assert loss is not None, f"{problem.name}: a step with a closure does not return the loss"
            assert abs(float(loss.detach()) - run.loss()) <= 1e-12, (
                f"{problem.name}: the loss returned is not the closure's"
            )
            run.step()
            assert _same(given.parameters, run.parameters), f"{problem.name}: a step with a closure is another one"


def check_falls(member: Member, problems: Sequence[OptimizerProblem]) -> None:
    """With the card's settings the loss of every problem falls to a third."""
    for problem in problems:
        run = problem.start(member)
        start = run.loss()
        end = run.step(STEPS).loss()
        assert end <= start / 3, f"{problem.name}: the loss falls from {start:.3g} to {end:.3g} only in {STEPS} steps"


def check_resumes(member: Member, problems: Sequence[OptimizerProblem]) -> None:
    """A state of plain values, saved and taken up by a fresh optimizer, continues the run bit for bit."""
    for problem in problems:
        through = problem.start(member).step(BEFORE)
        state, weights = copy.deepcopy(through.optimizer.state_dict()), copy.deepcopy(through.module.state_dict())
        strange = {
            type(value).__name__ for value in _leaves(state) if not isinstance(value, Tensor | str | int | float | None)
        }
        assert not strange, f"{problem.name}: the state holds {', '.join(sorted(strange))}"
        through.step(AFTER)
        resumed = problem.start(member)
        resumed.module.load_state_dict(weights)
        resumed.optimizer.load_state_dict(state)
        resumed.step(AFTER)
        assert _same(through.parameters, resumed.parameters), f"{problem.name}: the resumed run differs"
        assert same_state(through.optimizer.state_dict(), resumed.optimizer.state_dict()), (
            f"{problem.name}: the resumed run's state differs"
        )


def _leaves(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return [leaf for key, part in value.items() for leaf in (key, *_leaves(part))]
    if type(value) in (list, tuple):
        return [leaf for part in value for leaf in _leaves(part)]
    return [value]


def same_state(first: Any, second: Any) -> bool:
    """Whether two states hold the same values, tensors bit for bit."""
    a, b = _leaves(first), _leaves(second)
    return len(a) == len(b) and all(
        same_bits(x, y) if isinstance(x, Tensor) and isinstance(y, Tensor) else type(x) is type(y) and x == y
        for x, y in zip(a, b, strict=True)
    )


def _same(first: Sequence[Tensor], second: Sequence[Tensor]) -> bool:
    return all(same_bits(a.detach(), b.detach()) for a, b in zip(first, second, strict=True))


def check_bad_state(member: Member, problems: Sequence[OptimizerProblem]) -> None:
    """The state of another member, of other shapes, or what is none is refused, and changes nothing."""
    run = problems[0].start(member).step(2)
    other = nn.Linear(5, 3).double()
    stranger = torch.optim.SGD(run.parameters, lr=0.1, momentum=0.9)
    bad: dict[str, Any] = {
        "another library's state": stranger.state_dict(),
        "no state": {"state": {}},
        "other shapes": _plain(problems[0], member, list(other.named_parameters())).state_dict()
        if "layers" not in member.card["needs"]
        else None,
        "another member's": None if member is AdamW else AdamW(run.module.named_parameters()).state_dict(),
    }
    for what, state in bad.items():
        if state is not None:
            kept = copy.deepcopy(run.optimizer.state_dict())
            _refused(lambda: run.optimizer.load_state_dict(state), "state_dict", what)  # noqa: B023
            assert same_state(kept, run.optimizer.state_dict()), f"{what} is refused, and yet changed the state"


def check_state_declared(member: Member, problems: Sequence[OptimizerProblem]) -> None:
    """The bytes that are kept are those that the card declares, by the shapes of the parameters, and do not grow."""
    card = member.card["state"]
    for problem in problems:
        run = problem.start(member, dtype=torch.float32).step(3)
        declared = sum(
            _declared(AdamW.card["state"] if group["rest"] else card, parameter)
            for group in run.optimizer.param_groups
            for parameter in group["params"]
        )
        total = sum(parameter.numel() for parameter in run.parameters)
        declared += sum(
            {"N": total, "NN": total**2, "1": 1}[term] * bytes_ for term, bytes_ in card.get("shared", {}).items()
        )
        for steps in (0, 4):
            held = held_bytes(run.step(steps).optimizer)
            assert held == declared, (
                f"{problem.name}: {held} bytes are kept after {3 + steps} steps, {declared:g} declared"
            )


def _declared(card: dict[str, dict[str, float]], parameter: Tensor) -> float:
    if parameter.ndim < 2:
        n = parameter.numel()
        return sum({"n": n, "1": 1}[term] * size for term, size in card.get("vector", {}).items())
    m, n = len(parameter), parameter.numel() // len(parameter)
    values = {"mn": m * n, "m": m, "n": n, "mm": m * m, "nn": n * n, "1": 1}
    return sum(values[term] * size for term, size in card["matrix"].items())


def check_groups(member: Member, problems: Sequence[OptimizerProblem]) -> None:
    """Parameters in two groups are stepped as in one; a member that steps all as one vector refuses a second group."""
    for problem in problems:
        if member.joint:
            _refused(lambda: problem.start(member, split=True), "params", "a second group")  # noqa: B023
            continue
        one, two = (problem.start(member, split=split).step(3) for split in (False, True))
        for (name, first), second in zip(one.module.named_parameters(), two.parameters, strict=True):
            gap = float((first - second).detach().abs().max())
            assert gap <= ROUNDING, f"{problem.name}: in a group apart, {name} is {gap:.2g} off"


def check_rate_obeyed(member: Member, problems: Sequence[OptimizerProblem]) -> None:
    """A scheduler's rate holds at once: at zero nothing moves, and the first step grows with it."""
    for problem in problems:
        run = problem.start(member).step(2)
        scheduler = torch.optim.lr_scheduler.LambdaLR(run.optimizer, lambda step: 1.0 if step == 0 else 0.0)
        run.step()
        scheduler.step()
        kept = [parameter.detach().clone() for parameter in run.parameters]
        run.step(2)
        assert _same(kept, run.parameters), f"{problem.name}: at a rate of 0 the parameters move"


def check_maximizes(member: Member, problems: Sequence[OptimizerProblem]) -> None:
    """Minus the loss, maximized, takes the same steps."""
    for problem in problems:
        down, up = problem.start(member), problem.start(member, sign=-1.0, maximize=True)
        for first, second in zip(down.step(4).parameters, up.step(4).parameters, strict=True):
            gap = float((first - second).detach().abs().max())
            assert gap <= ROUNDING, f"{problem.name}: maximizing minus the loss ends {gap:.2g} off"


def check_leaves_no_trace(member: Member, problems: Sequence[OptimizerProblem]) -> None:
    """Gradients and all global state stay as they were, and two runs agree in every bit."""
    for problem in problems:
        run = problem.start(member)
        with odd_globals():
            before = global_state()
            run.step(3)
            changed = [name for name, value in global_state().items() if before[name] != value]
        assert not changed, f"{problem.name}: it changes {', '.join(changed)}"
        if not run.asks_closure:
            run.backward()
            kept = [parameter.grad.clone() for parameter in run.parameters if parameter.grad is not None]
            run.optimizer.step()
            now = [parameter.grad for parameter in run.parameters if parameter.grad is not None]
            assert _same(kept, now), f"{problem.name}: it writes into the gradients"
        again = problem.start(member).step(3 if run.asks_closure else 4)
        assert _same(run.parameters, again.parameters), f"{problem.name}: two runs differ"


def check_dtypes(member: Member, problems: Sequence[OptimizerProblem]) -> None:
    """Parameters in single and in half precision stay so, and the loss falls to nearly what it does in double precision."""
    for problem in problems:
        start = problem.start(member).loss()
        true = problem.start(member).step(20).loss()
        for dtype, share in ((torch.float32, 0.02), (torch.bfloat16, 0.35)):
            run = problem.start(member, dtype=dtype).step(20)
            kinds = {parameter.dtype for parameter in run.parameters}
            assert kinds == {dtype}, f"{problem.name}: parameters in {dtype} end in {kinds}"
            gap = abs(run.loss() - true) / start
            assert gap <= share, f"{problem.name}: in {dtype} the loss ends {gap:.2g} of its start off"


def check_follows_device(member: Member, problems: Sequence[OptimizerProblem]) -> None:
    """Parameters on another device are stepped as on the host, with the state beside them.

    Raises:
        AssertionError: otherwise.
    """
    for problem in problems:
        here = problem.start(member).step(3)
        with elsewhere() as traffic:
            try:
                there = problem.start(member, device=traffic.device).step(3)
            except RuntimeError as error:
                raise AssertionError(f"{problem.name}: on another device it fails: {error}") from error
            state = [leaf for leaf in _leaves(there.optimizer.state_dict()) if isinstance(leaf, Tensor) and leaf.ndim]
            ends = [parameter.detach().cpu() for parameter in there.parameters]
        assert all(one.device == traffic.device for one in state), f"{problem.name}: it keeps tensors on the host"
        for first, second in zip(here.parameters, ends, strict=True):
            gap = float((first - second).detach().abs().max())
            assert gap <= ROUNDING, f"{problem.name}: on another device it ends {gap:.2g} off"


def check_without_gradient(member: Member, problems: Sequence[OptimizerProblem]) -> None:
    """A parameter that no gradient reaches stays where it is."""
    for problem in problems:
        run = problem.start(member)
        first = run.parameters[0]
        first.requires_grad_(False)
        kept, start = first.detach().clone(), run.loss()
        run.step(10)
        assert same_bits(kept, first.detach()), f"{problem.name}: a parameter without gradient moves"
        assert run.loss() < start, f"{problem.name}: with a parameter that has no gradient the loss does not fall"


def check_zero_gradients(member: Member, problems: Sequence[OptimizerProblem]) -> None:
    """Zero gradients leave no NaN, and the next steps descend."""
    for problem in problems:
        run = problem.start(member)
        run.disturb = lambda loss: 0.0 * loss
        for _ in range(2):
            run.step()
            sound = all(bool(torch.isfinite(one).all()) for one in run.parameters)
            assert sound, f"{problem.name}: zero gradients leave NaN"
        run.disturb = lambda loss: loss
        start, end = run.loss(), run.step(20).loss()
        assert end < start, f"{problem.name}: after zero gradients the loss goes from {start:.3g} to {end:.3g}"
