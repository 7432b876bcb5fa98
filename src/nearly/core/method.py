"""The contract of everything that fits a surrogate: parameters constrained by data on a card, checked once at the entry."""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Self

from nearly.core.errors import BadInput
from nearly.core.supply import METHOD, Supply, stream
from nearly.core.surrogate import Model, Surrogate
from nearly.core.target import Target
from nearly.core.validate import check_parameter, describe, require_int

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, kw_only=True)
class Method(ABC):
    """Fits surrogates. Concrete methods are frozen dataclasses whose fields are their parameters, beside a `CARD` in their module.

    The card is a literal dictionary, readable without importing the module:
    `name`, `nouns`, `rows` (of the source list), `replaces`, `certificate` (kind), `rate`, `cost`,
    `parameters` (name -> constraint: `["integer", least, most]`, `["real", above, below]` or `["choice", ...]`, a leading
    "optional " allows None), `budget` (the parameter that grows, its `start`, `factor` and `most`) and `skips` (contract check ->
    reason); where fits take long, `quick` (name -> value: the parameters that the contract is checked with).
    """

    card: ClassVar[dict[str, Any]]
    model: ClassVar[type[Model]]

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        cls.card = getattr(sys.modules[cls.__module__], "CARD", None) or getattr(cls, "card", {})

    def __post_init__(self) -> None:
        for name, constraint in self.card["parameters"].items():
            object.__setattr__(self, name, check_parameter(name, getattr(self, name), constraint))

    @classmethod
    def id(cls) -> str:
        """Room and class name, as in `fields.ReducedBasis`; a class outside the package goes by its full name."""
        parts = cls.__module__.split(".")
        return f"{parts[1]}.{cls.__name__}" if parts[0] == "nearly" else f"{cls.__module__}:{cls.__name__}"

    @classmethod
    def refuses(cls, target: Target) -> str | None:
        """Why this method cannot fit this target, or None."""
        nouns = cls.card["nouns"]
        return None if target.noun in nouns else f"it fits {' and '.join(nouns)} targets, not a {target.noun}"

    def with_budget(self, budget: int) -> Self:
        """The same method with another budget."""
        return replace(self, **{self.card["budget"]["parameter"]: budget})

    def budgets(self, target: Target, available: int) -> list[int | None]:
        """The growing budgets that a race tries, from the card; `[None]` for a method without one.

        Args:
            target: what is fitted.
            available: the most samples that can be had; the last budget in samples is never above it.

        Returns:
            Budgets for `with_budget`.
        """
        growth = self.card.get("budget")
        if growth is None:
            return [None]
        most = min(growth["most"], available) if growth["parameter"] == "samples" else growth["most"]
        rungs: list[int | None] = []
        budget = growth["start"]
        while budget < most:
            rungs.append(budget)
            budget *= growth["factor"]
        return [*rungs, most] if most > 0 else []

    def fit(self, target: Target, *, seed: int = 0, supply: Supply | None = None) -> Surrogate:
        """Fit without certifying; `nearly.fit(target, method=...)` does both.

        Args:
            target: a target of one of the card's nouns.
            seed: fixes every draw: same seed, same bits.
            supply: shared pairs, when several methods are fitted to one target.

        Returns:
            The surrogate, its certificate still None.

        Raises:
            BadInput: when the method cannot fit this target.
        """
        if not isinstance(target, Target):
            raise BadInput("target", "a target such as nearly.Field or nearly.Function", describe(target))
        reason = self.refuses(target)
        if reason is not None:
            raise BadInput("method", f"able to fit {target.name}", f"{self.id()}: {reason}")
        require_int("seed", seed, least=0)
        if supply is None:
            supply = Supply(target, seed)
        growth = self.card.get("budget")
        if target.rows is not None and growth and growth["parameter"] == "samples":
            # Data has as many rows as it has; what is recorded is what was used.
            return self.with_budget(min(int(asdict(self)[growth["parameter"]]), supply.available))._fitted(
                target, supply, seed
            )
        return self._fitted(target, supply, seed)

    def _fitted(self, target: Target, supply: Supply, seed: int) -> Surrogate:
        model = self._fit(target, supply, stream(seed, METHOD))
        return Surrogate(
            model,
            supply.domain(model),
            method=self.id(),
            hyperparameters=asdict(self),
            noun=target.noun,
            unit=target.unit,
            seen=supply.seen,
            columns=target.columns,
        )

    @abstractmethod
    def _fit(self, target: Any, supply: Supply, generator: torch.Generator) -> Model:
        """The fitted model."""
