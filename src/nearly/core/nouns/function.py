"""Functions of a few real variables."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, Literal, get_args

import torch
from torch import Tensor

from nearly.core.domain import Box, Domain
from nearly.core.errors import BadInput, SolverFailed
from nearly.core.nouns.field import evaluate_rows
from nearly.core.target import Sampler, Target, relative_norm, sampled
from nearly.core.validate import describe
from nearly.linalg.scaling import binary_scale, row_norms

if TYPE_CHECKING:
    from jaxtyping import Float

Metric = Literal["spread", "absolute", "relative"]
PILOT = 64  # draws that set the spread's scale; its value is then part of the unit, not an estimate that matters


class Function(Target):
    """A function `f: R^d -> R^k` on a box or under a sampler.

    The error of a prediction p of f(x) is `||f(x) - p||` divided by the function's spread (the root mean square distance of its
    values from their mean), by 1, or by `||f(x)||`, as `metric` says; `||.||` is the Euclidean norm over the k outputs.

    Args:
        f: maps (n, d) to (n,) or (n, k); with `vectorized=False`, one point (d,) to a number or (k,).
        domain: a `Box` or a callable `(n, generator) -> (n, d)`.
        metric: "spread", "absolute" or "relative".
        vectorized: as above.
        name: for reports.

    Raises:
        BadInput: for arguments that are not as above.

    Example:
        >>> f = Function(lambda x: x.prod(dim=1), Box([0.0, 0.0], [1.0, 1.0]))
        >>> f(torch.tensor([[0.5, 0.5]])).tolist()
        [[0.25]]
    """

    noun: ClassVar[str] = "function"

    def __init__(
        self,
        f: Callable[[Tensor], Any] | None,
        domain: Domain | Sampler | None,
        *,
        metric: Metric = "spread",
        vectorized: bool = True,
        name: str = "function",
    ) -> None:
        if f is not None and not callable(f):
            raise BadInput("f", "callable", describe(f))
        if domain is not None and not isinstance(domain, Box) and (isinstance(domain, Domain) or not callable(domain)):
            raise BadInput("domain", "a Box or a callable (n, generator) -> inputs", describe(domain))
        if metric not in get_args(Metric):
            raise BadInput("metric", f"one of {', '.join(get_args(Metric))}", metric)
        self.f, self.metric, self.vectorized, self.name = f, metric, vectorized, name
        self.domain = domain if isinstance(domain, Domain) else None
        self.sampler: Sampler | None = domain.sample if isinstance(domain, Box) else domain
        self._spread: float | None = None

    @classmethod
    def from_data(
        cls,
        inputs: Any,
        outputs: Any,
        *,
        certify: int | None = None,
        certifying: tuple[Any, Any] | None = None,
        quantile: float = 0.95,
        confidence: float = 0.99,
        metric: Metric = "spread",
        seed: int = 0,
        name: str = "data",
    ) -> Function:
        """A function known from data alone, each row handed out once (see `Target.set_rows` for the arguments)."""
        return cls(None, None, metric=metric, name=name).set_rows(
            inputs,
            outputs,
            certify=certify,
            certifying=certifying,
            quantile=quantile,
            confidence=confidence,
            seed=seed,
        )

    @property
    def unit(self) -> str:  # type: ignore[override]
        """The scale of errors, in words."""
        return {"spread": "in units of the function's spread", "absolute": "absolute", "relative": "relative"}[
            self.metric
        ]

    @property
    def spread(self) -> float:
        """Root mean square distance of the outputs from their mean, over 64 draws from a seed of its own or over the fitting rows.

        Raises:
            SolverFailed: when all values are equal.
        """
        if self._spread is None:
            if self.rows is not None:
                values = self.rows.pairs.outputs[self.rows.fitting]
            else:
                values = self.draw(PILOT, torch.Generator().manual_seed(0)).outputs
            flat = values.reshape(len(values), -1)
            unit = binary_scale(flat, (0, 1))
            flat = flat / unit
            spread = float((flat - flat.mean(dim=0)).square().sum(dim=1).mean().sqrt() * unit)
            if not spread > 0:
                raise SolverFailed(
                    f"{self.name} returns the same value everywhere; metric='absolute' measures such a function"
                )
            self._spread = spread
        return self._spread

    def _draw_inputs(self, n: int, generator: torch.Generator) -> Tensor:
        assert self.sampler is not None
        return sampled(self.sampler, n, generator)

    def _evaluate(self, inputs: Tensor) -> tuple[Tensor, list[str | None]]:
        assert self.f is not None
        outputs, failures = evaluate_rows(self.f, inputs, self.vectorized)
        return (outputs[:, None] if outputs.ndim == 1 else outputs), failures

    def error(self, outputs: Float[Tensor, "n k"], predictions: Float[Tensor, "n k"]) -> Float[Tensor, " n"]:
        """Error per input, scaled as `metric` says."""
        difference = row_norms((outputs - predictions).reshape(len(outputs), -1))
        if self.metric == "relative":
            return relative_norm(difference, row_norms(outputs.reshape(len(outputs), -1)))
        return difference / (self.spread if self.metric == "spread" else 1.0)
