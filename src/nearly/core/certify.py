"""Measuring how nearly, on fresh inputs; and catching certificates that are not true."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from nearly.core.certificate import Asked, Probable, bound_from
from nearly.core.domain import Anywhere, Box, Cloud
from nearly.core.errors import BadInput, CertificateViolated
from nearly.core.supply import RECERTIFYING, stream
from nearly.core.surrogate import Surrogate
from nearly.core.target import Pairs, Target
from nearly.core.validate import describe, require_int

if TYPE_CHECKING:
    from torch import Tensor

SAMPLES = 200  # fresh inputs by default: the 95% level is then the 4th largest error at 99% confidence, not an extreme
CHUNK = 256  # predictions held at once
ALARM = 1e-3  # chance that a true certificate, or a domain that fits, is called violated


def certify(
    surrogate: Surrogate,
    target: Target,
    *,
    samples: int | None = None,
    quantile: float = 0.95,
    confidence: float = 0.99,
    seed: int = 0,
) -> Probable:
    """Measure the surrogate on fresh inputs, attach the certificate, and hold a certificate it already has against them.

    It is measured on the device that it is on, and the target on its own.

    Args:
        surrogate: fitted to this target, or loaded.
        target: draws and answers the fresh inputs; with data, rows that the surrogate has not seen.
        samples: how many; by default 200 or the least that the level needs, with data all rows kept to certify.
        quantile: the share of inputs spoken of.
        confidence: of the statement.
        seed: of the fresh inputs; they never meet those that fitted or chose under the same or another seed.

    Returns:
        The certificate, a `Bound` where the method has a theorem, else a `Probable`.

    Raises:
        CertificateViolated: when fresh inputs contradict the recorded certificate, a bound lies below its error, or the target's
            inputs are not those the certificate speaks of.
        TooFewSamples: when the level needs more inputs.
        BadInput: for a target of another noun or shape.
    """
    if not isinstance(surrogate, Surrogate):
        raise BadInput("surrogate", "a nearly.Surrogate", describe(surrogate))
    if not isinstance(target, Target) or target.noun != surrogate.noun:
        raise BadInput(
            "target", f"a {surrogate.noun}, as the surrogate replaces", getattr(target, "noun", describe(target))
        )
    if target.unit != surrogate.unit:
        raise BadInput("target", f"one whose errors are {surrogate.unit}, as the surrogate's", target.unit)
    require_int("seed", seed, least=0)
    if target.rows is not None and len(surrogate.seen):
        target.rows.forget(surrogate.seen)
    asked = Asked(quantile, confidence)
    pairs = target.draw(certifying_count(target, samples, asked), stream(seed, RECERTIFYING))
    _check_source(surrogate, target, pairs.inputs)
    recorded = surrogate.certificate
    errors, bounds = measure(surrogate, target, pairs)
    fresh = state(surrogate, target, pairs, errors, bounds, asked)
    if isinstance(recorded, Probable):
        contradiction = recorded.contradicted_by(errors, alarm=ALARM)
        if contradiction is not None:
            raise CertificateViolated(f"the recorded certificate is not true here: {contradiction}", fresh)
    surrogate.certificate = fresh
    return fresh


def certifying_count(target: Target, samples: int | None, asked: Asked) -> int:
    """How many fresh inputs to certify with; refuses before any work where they cannot suffice.

    Args:
        target: draws them.
        samples: how many, or None: 200 or the least needed, with data all rows that are left.
        asked: the statement.

    Returns:
        The number.

    Raises:
        TooFewSamples: when that is below the least that the level needs, or there are fewer rows left.
    """
    rows = target.rows
    if samples is None:
        if rows is not None and rows.handed:
            rows.require(asked.least)
        samples = max(SAMPLES, asked.least) if rows is None else rows.left
    else:
        samples = require_int("samples", samples, least=1)
        if rows is not None:
            rows.require(samples)
    asked.place(samples)
    return samples


def predict(surrogate: Surrogate, inputs: Tensor) -> Tensor:
    """Predictions without the domain check, in chunks, without gradients."""
    with torch.no_grad():
        cast = surrogate.model.cast(inputs)
        dtype = inputs.dtype if inputs.is_floating_point() else surrogate.model.dtype
        parts = [surrogate.model(cast[i : i + CHUNK]).to(dtype) for i in range(0, len(cast), CHUNK)]
    return torch.cat(parts)


def measure(surrogate: Surrogate, target: Target, pairs: Pairs) -> tuple[Tensor, Tensor | None]:
    """Errors on pairs, and the surrogate's own bounds where it has a theorem.

    Raises:
        BadInput: when predictions and outputs differ in shape.
    """
    inputs = pairs.inputs.to(device=surrogate.model.device)
    predictions = predict(surrogate, inputs)
    if predictions.shape != pairs.outputs.shape:
        raise BadInput(
            "surrogate", f"one with outputs of shape {tuple(pairs.outputs.shape[1:])}", tuple(predictions.shape[1:])
        )
    errors = target.error(pairs.outputs, predictions.to(pairs.outputs))
    if surrogate.model.theorem is None:
        return errors, None
    with torch.no_grad():
        return errors, surrogate.model.bound(surrogate.model.cast(inputs)).to(errors)


def state(
    surrogate: Surrogate, target: Target, pairs: Pairs, errors: Tensor, bounds: Tensor | None, asked: Asked
) -> Probable:
    """The certificate that these errors and bounds allow."""
    probable = Probable.from_errors(
        errors,
        quantile=asked.quantile,
        confidence=asked.confidence,
        unit=surrogate.unit,
        source=target.source,
        failures=len(pairs.failures),
        statements=asked.statements,
    )
    if bounds is None:
        return probable
    assert surrogate.model.theorem is not None
    return bound_from(probable, errors, bounds, surrogate.model.theorem)


def _check_source(surrogate: Surrogate, target: Target, inputs: Tensor) -> None:
    """Raise where the target's inputs are not the ones the surrogate was made for.

    Raises:
        CertificateViolated: when they are not.
    """
    domain = surrogate.domain
    if isinstance(domain, Anywhere):
        domain.contains(inputs[:1])  # refuses another shape
    if isinstance(domain, Anywhere) and not isinstance(target.domain, Anywhere):
        raise CertificateViolated(
            f"the certificate speaks of {domain.describe()}, but the target draws from {target.source}"
        )
    if isinstance(domain, Box) and isinstance(target.domain, Box):
        ours, theirs = (
            [getattr(box, end).double().cpu() for end in ("lower", "upper", "log")] for box in (domain, target.domain)
        )
        same = all(
            a.shape == b.shape and torch.allclose(a, b, rtol=1e-6, atol=0.0) for a, b in zip(ours, theirs, strict=True)
        )
        if not same:
            raise CertificateViolated(
                f"the certificate speaks of inputs from {domain.describe()}, but the target draws from {target.domain.describe()}"
            )
    elif isinstance(domain, Cloud) or target.domain is None:
        from scipy.special import bdtrc

        outside = int((~surrogate.contains(inputs.to(device=surrogate.model.device))).sum())
        allowed = domain.false_alarm if isinstance(domain, Cloud) else 1e-9
        # The threshold came from finitely many rows; twice its rate leaves room for their luck.
        if outside and float(bdtrc(outside - 1, len(inputs), min(0.5, 2 * allowed))) < ALARM:
            raise CertificateViolated(
                f"{outside} of {len(inputs)} fresh inputs lie outside {domain.describe()}; they come from another source"
            )
