"""How nearly. The kind of a certificate is its type; a weaker kind never comes under a stronger name."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch

from nearly.core.errors import BadInput, CertificateViolated, TooFewSamples
from nearly.core.validate import require_float, require_int

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor


def least_samples(quantile: float, confidence: float) -> int:
    """The least number of fresh inputs with which the largest error can be stated: `quantile ** n <= 1 - confidence`.

    Example:
        >>> least_samples(0.95, 0.95), least_samples(0.95, 0.99)
        (59, 90)
    """
    require_float("quantile", quantile, above=0.0, below=1.0)
    require_float("confidence", confidence, above=0.0, below=1.0)
    least = math.ceil(math.log1p(-confidence) / math.log(quantile))
    while quantile**least > 1 - confidence:  # the logarithms may round the wrong way
        least += 1
    while least > 1 and quantile ** (least - 1) <= 1 - confidence:
        least -= 1
    return least


def level_place(n: int, quantile: float, confidence: float) -> int:
    """The k for which the k-th smallest of n errors exceeds the error's quantile with the asked confidence.

    For any distribution of the errors, `P(F(e_(k)) >= quantile) >= P(Binomial(n, quantile) <= k - 1)`, with equality for a
    continuous one, where `F(e_(k))` follows Beta(k, n + 1 - k) (Wilks 1941, doi:10.1214/aoms/1177731788). The
    least such k is returned.

    Args:
        n: number of fresh errors.
        quantile: the share of inputs spoken of.
        confidence: of the statement over the draw of the n inputs.

    Returns:
        k, counted from 1.

    Raises:
        TooFewSamples: when even the largest of n errors does not reach the confidence.
    """
    from scipy.special import bdtr

    least = least_samples(quantile, confidence)
    if n < least:
        raise TooFewSamples("samples", least, n, f"a {quantile:.4g} quantile with confidence {confidence:.4g}")
    low, high = 1, n  # bdtr(k - 1, n, q) increases with k and suffices at k = n
    while low < high:
        middle = (low + high) // 2
        if bdtr(middle - 1, n, quantile) >= confidence:
            high = middle
        else:
            low = middle + 1
    return low


@dataclass(frozen=True)
class Asked:
    """What a certificate shall state.

    Attributes:
        quantile: the share of inputs spoken of.
        confidence: of the statement.
        statements: how many statements are made, one of which may be picked for its level: all hold together with `confidence`
            (union bound), so each is made with `1 - (1 - confidence) / statements`.
    """

    quantile: float = 0.95
    confidence: float = 0.99
    statements: int = 1

    def __post_init__(self) -> None:
        require_float("quantile", self.quantile, above=0.0, below=1.0)
        require_float("confidence", self.confidence, above=0.0, below=1.0)

    @property
    def least(self) -> int:
        """The least number of fresh inputs."""
        return least_samples(self.quantile, 1 - (1 - self.confidence) / self.statements)

    def place(self, n: int) -> int:
        """Which of n sorted errors is the level; see `level_place`."""
        return level_place(n, self.quantile, 1 - (1 - self.confidence) / self.statements)


@dataclass(frozen=True, kw_only=True)
class Probable:
    """On a fresh input drawn as the target draws them, the error is at most `error` with probability `quantile`.

    The statement itself holds with `confidence` over the draw of the `samples` fresh inputs; it is distribution-free and exact
    at finite n (`level_place`). Nothing is promised for inputs drawn otherwise.

    Attributes:
        error: the level, in `unit`.
        quantile: probability over the fresh input.
        confidence: probability over the draw of the certifying inputs.
        samples: how many fresh inputs were drawn.
        unit: the norm of the error.
        source: the distribution the inputs were drawn from, in words.
        failures: inputs at which the target itself failed; the statement is conditional on it not failing.
    """

    error: float
    quantile: float
    confidence: float
    samples: int
    unit: str
    source: str
    failures: int = 0

    @classmethod
    def from_errors(
        cls,
        errors: Float[Tensor, " n"],
        *,
        quantile: float,
        confidence: float,
        unit: str,
        source: str,
        failures: int = 0,
        statements: int = 1,
    ) -> Probable:
        """State the level that these fresh errors allow; a NaN error counts as infinite.

        Args:
            errors: fresh errors, shape (n,).
            quantile: the share of inputs spoken of.
            confidence: of the statement.
            unit: of the errors.
            source: what the inputs were drawn from.
            failures: inputs at which the target failed.
            statements: how many statements are made side by side, one of which may be picked for its level; all hold
                together with `confidence` (union bound).

        Returns:
            The certificate.
        """
        place = level_place(len(errors), quantile, 1 - (1 - confidence) / statements)
        level = float(torch.nan_to_num(errors, nan=math.inf, posinf=math.inf).sort().values[place - 1])
        return cls(
            error=level,
            quantile=quantile,
            confidence=confidence,
            samples=len(errors),
            unit=unit,
            source=source,
            failures=failures,
        )

    def contradicted_by(self, errors: Float[Tensor, " n"], *, alarm: float = 1e-3) -> str | None:
        """Why fresh errors contradict the statement, or None.

        Args:
            errors: fresh errors, in the certificate's unit.
            alarm: chance of contradicting a statement that is true (one-sided binomial test on the exceedances).

        Returns:
            A sentence, or None.
        """
        from scipy.special import bdtrc

        exceed = int((~(errors <= self.error)).sum())
        chance = float(bdtrc(exceed - 1, len(errors), 1 - self.quantile)) if exceed else 1.0
        if chance >= alarm:
            return None
        return (
            f"{exceed} of {len(errors)} fresh errors exceed the certified {self.error:.3g}; were the certificate true, "
            f"so many would come with probability {chance:.1e}"
        )

    def describe(self) -> str:
        """The statement in words."""
        text = (
            f"On a fresh input drawn from {self.source}, the error ({self.unit}) is at most {self.error:.3g} with "
            f"probability {self.quantile:.4g}; this holds with confidence {self.confidence:.4g} over the draw of the "
            f"{self.samples} inputs it was measured on. Inputs drawn otherwise carry no promise."
        )
        return text + (f" The target itself failed at {self.failures} further inputs." if self.failures else "")


@dataclass(frozen=True, kw_only=True)
class Bound(Probable):
    """A theorem's bound on every single input, computed without the target (`surrogate.bound(x)`), its round-off included.

    The inherited fields state the level of the *true* error on fresh inputs; the ratios say how sharp the bound was there.

    Attributes:
        theorem: the theorem and its assumptions, in words.
        ratio_least: least measured bound / error; below 1 no `Bound` is made.
        ratio_median: median of the same.
        ratio_most: largest of the same; the largest number of its type where a bound was infinite or an error zero.
        bound: the order statistic of the bounds at the place of `error` among the errors.
    """

    theorem: str
    ratio_least: float
    ratio_median: float
    ratio_most: float
    bound: float

    def describe(self) -> str:
        """The statement in words."""
        return (
            f"Every single prediction comes with a proven bound ({self.theorem}); on {self.samples} fresh inputs it was "
            f"{self.ratio_least:.3g} to {self.ratio_most:.3g} times the true error (median {self.ratio_median:.3g}), at most "
            f"{self.bound:.3g} on {self.quantile:.4g} of them. " + super().describe()
        )


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """Anything weaker: a model's own deviation, an asymptotic expansion. Never called a bound.

    Attributes:
        error: the estimated error, in `unit`.
        unit: the norm of the error.
        basis: what the estimate rests on, in words.
    """

    error: float
    unit: str
    basis: str

    def describe(self) -> str:
        """The statement in words."""
        return f"The error ({self.unit}) is estimated at {self.error:.3g} ({self.basis}); nothing is proven."


Certificate = Probable | Bound | Estimate
KINDS: dict[str, type[Probable] | type[Bound] | type[Estimate]] = {
    "Probable": Probable,
    "Bound": Bound,
    "Estimate": Estimate,
}


def bound_from(probable: Probable, errors: Float[Tensor, " n"], bounds: Float[Tensor, " n"], theorem: str) -> Bound:
    """A `Bound` from fresh errors and the bounds given for them without the target.

    Args:
        probable: the statement on the true errors.
        errors: true errors, shape (n,).
        bounds: the surrogate's bounds on the same inputs.
        theorem: in words.

    Returns:
        The certificate.

    Raises:
        CertificateViolated: when a bound lies below its error or is NaN, or so many are infinite that nothing is certified.
    """
    bad = ~(errors <= bounds)
    if bool(bad.any()):
        at = int(bad.nonzero()[0, 0])
        raise CertificateViolated(
            f"the bound lies below the true error at {int(bad.sum())} of {len(errors)} fresh inputs "
            f"(first: bound {float(bounds[at]):.3g}, error {float(errors[at]):.3g}); it is no bound"
        )
    level = float(bounds.sort().values[max(0, int((errors <= probable.error).sum()) - 1)])
    if not level < math.inf:  # a few may be, where a theorem says nothing: that is no false bound
        many = int(torch.isinf(bounds).sum())
        raise CertificateViolated(
            f"the bound is infinite at {many} of {len(errors)} fresh inputs; it says nothing there"
        )
    ratios = bounds / errors.clamp(min=torch.finfo(errors.dtype).tiny)
    return Bound(
        **asdict(probable),
        theorem=theorem,
        ratio_least=float(ratios.min()),
        ratio_median=float(ratios.median()),
        ratio_most=min(float(ratios.max()), torch.finfo(torch.float64).max),
        bound=level,
    )


def certificate_to_manifest(certificate: Certificate | None) -> dict[str, Any] | None:
    """JSON of a certificate; JSON has no infinity, so an infinite level is written as null."""
    if certificate is None:
        return None
    fields = {name: None if value == math.inf else value for name, value in asdict(certificate).items()}
    return {"kind": type(certificate).__name__, **fields}


def certificate_from_manifest(manifest: dict[str, Any] | None) -> Certificate | None:
    """A certificate from its JSON, in which null is infinite.

    Raises:
        BadInput: for an unknown kind or fields that do not fit it.
    """
    if manifest is None:
        return None
    import msgspec

    kind = manifest.get("kind")
    if kind not in KINDS:
        raise BadInput("certificate.kind", f"one of {', '.join(KINDS)}", kind)
    # msgspec passes over fields that a dataclass does not have.
    unknown = manifest.keys() - KINDS[kind].__dataclass_fields__.keys() - {"kind"}
    if unknown:
        raise BadInput("certificate", f"the fields of {kind}", f"others beside them: {', '.join(sorted(unknown))}")
    try:
        fields = {k: math.inf if v is None else v for k, v in manifest.items() if k != "kind"}
        told = msgspec.convert(fields, KINDS[kind], strict=True)
    except msgspec.ValidationError as error:
        raise BadInput("certificate", f"the fields of {kind}", str(error)) from error
    if not told.error >= 0:
        raise BadInput("certificate.error", "at least 0", told.error)
    if isinstance(told, Probable):
        require_float("certificate.quantile", told.quantile, above=0.0, below=1.0)
        require_float("certificate.confidence", told.confidence, above=0.0, below=1.0)
        require_int("certificate.samples", told.samples, least=1)
    return told
