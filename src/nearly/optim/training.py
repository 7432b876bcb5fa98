"""One training of a model by an optimizer, and the search for its rate."""

from __future__ import annotations

import inspect
import math
import statistics
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from nearly.core.errors import BadInput, FactorizationFailed, NotConverged
from nearly.core.validate import describe
from nearly.optim.memory import held_bytes, peak_bytes
from nearly.optim.step import OF_CLOSURES

FACTORS = (0.1, 0.3, 1.0, 3.0, 10.0)  # of the default rate, tried first; the ends are moved while they are best
MOVES = 3  # of an end at most
TUNING = 1_000_000  # seed of the trainings that choose rates, which are never those that are compared
POINTS = 20  # of a curve


@dataclass(frozen=True)
class Point:
    """A curve's point: steps and seconds so far, and the loss."""

    steps: int
    seconds: float
    loss: float


@dataclass(frozen=True)
class Trained:
    """One training.

    Attributes:
        optimizer: its name.
        seed: of model and data.
        rate: that was used.
        curve: points, the last one at the end; the loss is `inf` from where the training failed.
        state_bytes: held by the optimizer at the end, in tensors.
        peak_bytes: most that one step allocated at a time beyond what was there before it; None where it was not measured.
        failure: what ended the training early.
    """

    optimizer: str
    seed: int
    rate: float
    curve: tuple[Point, ...]
    state_bytes: int
    peak_bytes: int | None = None
    failure: str = ""

    @property
    def loss(self) -> float:
        """The last one."""
        return self.curve[-1].loss


@dataclass(frozen=True)
class Training:
    """What is trained.

    Attributes:
        make_model: from a seed to a module, a new one each time.
        make_data: from a seed to batches; where they end, they begin anew.
        loss: of a module on a batch, to be minimized; what it draws from torch's global state, as dropout does, is the seed's.
        validate: what counts, of a module; the mean loss of the last batches by default.
    """

    make_model: Callable[[int], nn.Module]
    make_data: Callable[[int], Iterable[Any]]
    loss: Callable[[nn.Module, Any], Tensor]
    validate: Callable[[nn.Module], float | Tensor] | None = None


Factory = Callable[..., torch.optim.Optimizer]


def best_rate(training: Training, name: str, factory: Factory, budget: float, unit: str) -> float:
    """The best of a grid about the default, its ends moved while they are best."""
    default = inspect.signature(factory).parameters["lr"].default
    default = float(default) if isinstance(default, float | int) and default > 0 else 1e-3
    losses = {}

    def try_out(factor: float) -> None:
        losses[factor] = train(training, name, factory, factor * default, TUNING, budget, unit).loss

    for factor in FACTORS:
        try_out(factor)
    for _ in range(MOVES):
        best = min(losses, key=lambda factor: losses[factor])
        if best == min(losses):
            try_out(best / 3)
        elif best == max(losses):
            try_out(best * 3)
        else:
            break
    return default * min(losses, key=lambda factor: losses[factor])


def records_layers(factory: Factory) -> bool:
    """Whether it is a member, or `functools.partial` of one, that asks for the module."""
    card = getattr(getattr(factory, "func", factory), "card", {})
    return "layers" in card.get("needs", ())


def made(training: Training, seed: int) -> nn.Module:
    # A module's own initialization draws from the global state, which is put back.
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = training.make_model(seed)
    if not isinstance(model, nn.Module):
        raise BadInput("make_model", "a function that returns a module", describe(model))
    lazy = [name for name, parameter in model.named_parameters() if is_lazy(parameter)]
    if lazy:
        requirement = "a function that returns a module whose lazy layers have been called once"
        raise BadInput("make_model", requirement, f"{lazy[0]} uninitialized")
    return model


def batches_of(training: Training, seed: int) -> Iterator[Any]:
    while True:
        empty, found = True, training.make_data(seed)
        try:
            batches = iter(found)
        except TypeError:
            raise BadInput("make_data", "a function that returns batches", describe(found)) from None
        for batch in batches:
            empty = False
            yield batch
        if empty:
            raise BadInput("make_data", "a function that returns batches", "none")


def train(
    training: Training,
    name: str,
    factory: Factory,
    rate: float,
    seed: int,
    budget: float,
    unit: str,
    *,
    peak: bool = False,
) -> Trained:
    model = made(training, seed)
    options: dict[str, Any] = {"module": model} if records_layers(factory) else {}
    optimizer = factory(list(model.named_parameters()), lr=rate, **options)
    card = getattr(optimizer, "card", {})  # factories may be functions
    takes_closure = bool(OF_CLOSURES & set(card.get("needs", ()))) or isinstance(optimizer, torch.optim.LBFGS)
    batches = batches_of(training, seed)
    recent: list[float] = []
    curve: list[Point] = []
    spent, count, used, failure = 0.0, 0, None, ""

    def advance() -> None:
        batch = next(batches)

        def closure() -> Any:
            loss = training.loss(model, batch)
            if (
                not isinstance(loss, Tensor)
                or loss.numel() != 1
                or (torch.is_grad_enabled() and not loss.requires_grad)
            ):
                requirement = "a function that returns a scalar tensor that depends on the parameters"
                raise BadInput("Training.loss", requirement, describe(loss))
            if not card or not takes_closure:  # ours take it from there
                optimizer.zero_grad()
                loss.backward()
            return loss

        if takes_closure:
            loss = optimizer.step(closure)
        else:
            loss = closure()
            optimizer.step()
        recent.append(float(torch.as_tensor(loss).detach()))

    def note() -> None:
        nonlocal recent
        if training.validate is None:
            value = statistics.fmean(recent) if recent else curve[-1].loss
        else:
            modes = {module: module.training for module in model.modules()}
            with torch.no_grad():
                found = training.validate(model)
                try:
                    value = float(found)
                except (TypeError, ValueError, RuntimeError):
                    requirement = "a function that returns a number"
                    raise BadInput("Training.validate", requirement, describe(found)) from None
            for module, mode in modes.items():  # which `model.eval()` would leave behind
                module.training = mode
        curve.append(Point(count, spent, value if math.isfinite(value) else math.inf))
        recent = []

    points = POINTS if unit == "seconds" else min(POINTS, int(budget))
    marks = [budget * (i + 1) / points for i in range(points)]
    with torch.random.fork_rng():
        torch.manual_seed(-1 - seed)  # of dropout, say: another stream than that of the model's weights
        try:
            for mark in marks:
                while (count if unit == "steps" else spent) < mark:
                    start = time.perf_counter()
                    advance()
                    spent, count = spent + time.perf_counter() - start, count + 1
                note()
                if not math.isfinite(curve[-1].loss):
                    failure = "the loss is not finite"
                    break
            if peak and not failure:
                used = peak_bytes(advance)
        except (BadInput, FactorizationFailed, NotConverged, torch.linalg.LinAlgError) as error:  # type: ignore[attr-defined]
            # What the training lacks, others lack too; what a member refuses, such as kernels that cannot be differentiated twice,
            # is its own failure.
            if isinstance(error, BadInput) and error.argument.startswith(("Training", "make_")):
                raise
            failure = str(error)
            curve.append(Point(count, spent, math.inf))
        finally:
            if hasattr(optimizer, "close"):
                optimizer.close()
    return Trained(name, seed, rate, tuple(curve), held_bytes(optimizer), used, failure)
