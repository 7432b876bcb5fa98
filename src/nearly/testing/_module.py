"""Checks of the surrogate as a module: dtypes, devices, artifacts and copies, gradients, batches."""

from __future__ import annotations

import contextlib
import copy
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

import nearly
from nearly.core.cost import measure_cost
from nearly.core.errors import CertificateViolated, NearlyError
from nearly.testing._fitting import accepted, ask, fitted, inside, installed, same_bits
from nearly.testing.second_device import elsewhere

if TYPE_CHECKING:
    from torch import Tensor

    from nearly.core.method import Method
    from nearly.core.surrogate import Surrogate
    from nearly.testing._problems import Problem

# Half the digits of single precision: what is left once a well-scaled least-squares or small dense solve has used its share.
SINGLE = torch.finfo(torch.float32).eps ** 0.5

# What another device's order of summation may change, relatively.
ROUNDING = {torch.float64: 1e-9, torch.float32: SINGLE}

# Of finite differences, in units of the inputs' spread: curvature spoils long steps, round-off short ones.
STEPS = (1e-2, 1e-3, 1e-4)


def _relative(difference: Tensor, size: Tensor) -> float:
    return float(difference.norm() / size.norm().clamp(min=torch.finfo(size.dtype).tiny))


def check_dtypes(method_class: type[Method], problems: Sequence[Problem]) -> None:
    """Targets of float64 and float32 fit, outputs follow the inputs' dtype, and a surrogate moved to float32 still agrees.

    Raises:
        AssertionError: otherwise.
    """
    for problem, target in accepted(method_class, problems):
        surrogate = fitted(method_class, problem)
        x = inside(surrogate, problem.fresh(target, 40, 0)).inputs
        answer = ask(surrogate, x)
        assert answer.dtype == x.dtype, f"{problem.name}: {x.dtype} inputs give {answer.dtype} outputs"
        other = torch.float32 if problem.dtype == torch.float64 else torch.float64
        cast = ask(surrogate, x.to(other))
        assert cast.dtype == other, f"{problem.name}: {other} inputs give {cast.dtype} outputs"
        moved = copy.deepcopy(surrogate).to(torch.float32)
        x = x[moved.domain.contains(x.float())]
        try:
            single = ask(moved, x.float())
        except RuntimeError as error:
            raise AssertionError(f"{problem.name}: moved to float32 it fails: {error}") from error
        assert single.dtype == torch.float32, f"{problem.name}: moved to float32 it answers in {single.dtype}"
        reference = ask(surrogate, x).double()
        gap = _relative(single.double() - reference, reference)
        assert gap <= SINGLE, f"{problem.name}: moved to float32 its answers change by {gap:.2g}, relatively"


def check_follows_device(method_class: type[Method], problems: Sequence[Problem]) -> None:
    """Moved to another device, a surrogate answers, bounds and tells its domain there, as on the host.

    Raises:
        AssertionError: otherwise.
    """
    for problem, target in accepted(method_class, problems):
        surrogate = fitted(method_class, problem)
        x = inside(surrogate, problem.fresh(target, 40, 0)).inputs
        here = _told(surrogate, x)
        with elsewhere() as traffic:
            try:
                found = _told(surrogate.to(traffic.device), x.to(traffic.device))
            except RuntimeError as error:
                raise AssertionError(f"{problem.name}: on another device it fails: {error}") from error
            stray = [name for name, one in found.items() if one.device != traffic.device]
            there = {name: one.cpu() for name, one in found.items()}
        assert not stray, f"{problem.name}: on another device its {' and '.join(stray)} are on the host"
        for name, expected in here.items():
            gap = _relative((there[name] - expected).double(), expected.double())
            allowed = ROUNDING[problem.dtype]
            assert gap <= allowed, f"{problem.name}: on another device its {name} change by {gap:.2g}, relatively"


def _told(surrogate: Surrogate, x: Tensor) -> dict[str, Tensor]:
    """All that a surrogate says of inputs of its domain, and of some far away."""
    far = torch.cat([x, 1e3 * (1 + x.abs())])
    told = {"answers": ask(surrogate, x), "domain": surrogate.contains(far).to(x.dtype)}
    if surrogate.model.theorem is not None:
        with torch.no_grad():
            told["bounds"] = surrogate.bound(x)
    return told


def check_artifact_round_trip(method_class: type[Method], problems: Sequence[Problem]) -> None:
    """Saved and loaded, or copied, a surrogate is the same to the last bit, its certificate too; given its state anew, its answers.

    Raises:
        AssertionError: otherwise.
    """
    with installed(method_class), tempfile.TemporaryDirectory() as folder:
        for problem, target in accepted(method_class, problems):
            surrogate = fitted(method_class, problem)
            x = inside(surrogate, problem.fresh(target, 10, 0)).inputs
            with contextlib.suppress(CertificateViolated):  # no matter of files: `certificate_holds` tells
                nearly.certify(surrogate, target)
            surrogate.cost = measure_cost(surrogate, target, x[:2].clone(), evaluations=7, seconds_fit=0.5)
            path = Path(folder) / "surrogate.safetensors"
            try:
                surrogate.save(path)
                loaded = nearly.load(path, target=target if surrogate.model.needs_target else None)
            except NearlyError as error:
                raise AssertionError(f"{problem.name}: it cannot be saved and loaded: {error}") from error
            _same(surrogate, loaded, x, f"{problem.name}: loaded")
            _same(surrogate, copy.deepcopy(surrogate), x, f"{problem.name}: copied")
            twin = copy.deepcopy(surrogate)
            for tensor in (*twin.buffers(), *twin.parameters()):
                tensor.data.zero_()
            twin.load_state_dict(surrogate.state_dict())
            twin.certificate = surrogate.certificate  # withdrawn, as its tensors were others
            _same(surrogate, twin, x, f"{problem.name}: given its state_dict anew")


def _same(first: Surrogate, second: Surrogate, x: Tensor, what: str) -> None:
    assert same_bits(ask(first, x), ask(second, x)), f"{what}, its answers differ"
    if first.model.theorem is not None:
        with torch.no_grad():
            assert same_bits(first.bound(x), second.bound(x)), f"{what}, its bounds differ"
    for name in ("certificate", "cost", "method", "hyperparameters", "noun", "unit"):
        ours, theirs = getattr(first, name), getattr(second, name)
        assert ours == theirs, f"{what}, its {name} differs: {theirs!r} instead of {ours!r}"
    state, other = first.state_dict(), second.state_dict()
    assert state.keys() == other.keys(), f"{what}, its state_dict has other names"
    differ = [name for name in state if not same_bits(state[name], other[name])]
    assert not differ, f"{what}, its state_dict differs in {', '.join(differ)}"


def check_differentiable(method_class: type[Method], problems: Sequence[Problem]) -> None:
    """Automatic derivatives of the answers along random directions of the inputs agree with finite differences in float64."""
    for problem, target in accepted(method_class, problems):
        if problem.dtype != torch.float64:  # differences of single-precision answers would tell nothing
            continue
        surrogate = fitted(method_class, problem)
        generator = torch.Generator().manual_seed(6)
        x = inside(surrogate, problem.fresh(target, 400, 0)).inputs
        # Points near the middle: a step must not leave the domain.
        middle = x.median(dim=0).values
        x = x[(x - middle).norm(dim=1).argsort()[:5]]
        scale = x.std(dim=0)
        ahead = torch.randn(x.shape, dtype=torch.float64, generator=generator) * scale
        weights = torch.randn(ask(surrogate, x).shape, dtype=torch.float64, generator=generator)
        leaf = x.clone().requires_grad_()
        outputs = surrogate(leaf.clone())
        assert outputs.requires_grad, f"{problem.name}: no derivative with respect to the inputs comes out"
        (gradient,) = torch.autograd.grad((outputs * weights).sum(), leaf)
        derivative = (gradient * ahead).flatten(1).sum(dim=1)
        gaps = []
        for step in STEPS:
            ends = [(ask(surrogate, x + sign * step * ahead) * weights).flatten(1).sum(dim=1) for sign in (1, -1)]
            measured = (ends[0] - ends[1]) / (2 * step)
            gaps.append(_relative(derivative - measured, measured))
        assert min(gaps) < 1e-4, (
            f"{problem.name}: automatic derivatives differ from finite differences by {min(gaps):.2g}, relatively"
        )


def check_batches(method_class: type[Method], problems: Sequence[Problem]) -> None:
    """A row's answer does not depend on its batch, to round-off; an empty batch is answered or refused by name.

    Raises:
        AssertionError: otherwise.
    """
    for problem, target in accepted(method_class, problems):
        surrogate = fitted(method_class, problem)
        assert isinstance(surrogate, nn.Module), f"{problem.name}: the surrogate is no torch.nn.Module"
        x = inside(surrogate, problem.fresh(target, 12, 0)).inputs
        together = ask(surrogate, x)
        assert len(together) == len(x), f"{problem.name}: {len(together)} outputs for {len(x)} inputs"
        alone = torch.cat([ask(surrogate, row[None]) for row in x])
        gap = _relative(together - alone, together)
        # Sums in another order differ by the round-off of their largest terms, which may cancel; half the digits stay.
        allowed = torch.finfo(x.dtype).eps ** 0.5
        assert gap <= allowed, f"{problem.name}: answers change by {gap:.2g} with the batch they are asked in"
        try:
            none = ask(surrogate, x[:0])
        except NearlyError:
            continue
        except Exception as error:
            raise AssertionError(f"{problem.name}: an empty batch meets {type(error).__name__}: {error}") from error
        assert none.shape == (0, *together.shape[1:]), f"{problem.name}: an empty batch gives shape {tuple(none.shape)}"
