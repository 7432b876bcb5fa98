"""A race and a cost as rows of a table, for pages, terminals and JSON."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from nearly.core.words import count, duration, size

if TYPE_CHECKING:
    from nearly.core.contest import Contender
    from nearly.core.cost import Cost
    from nearly.core.search import Race


def race_rows(race: Race) -> list[dict[str, Any]]:
    """One dictionary per contender: the winner first, then by validation level; what is not known is None.

    Args:
        race: finished.

    Returns:
        Rows with method, rungs, parameter, budget, validation (level of the last rung), operations, seconds, stopped (why) and
        certified (the level, for the one that was certified).
    """
    rows = []
    leader = _leader(race)
    for contender in race.contenders:
        winner = contender is leader
        last = contender.rungs[-1] if contender.rungs else None
        if winner and race.winner is not None:
            # It may have climbed on after the fit whose certificate was kept.
            kept = [rung for rung in contender.rungs if rung.operations == race.winner.model.operations]
            last = kept[-1] if kept else last
        validated = last is not None and race.supply.validating_size > 0 and math.isfinite(last.level)
        level = (
            race.winner.certificate.error if winner and race.winner is not None and race.winner.certificate else None
        )
        rows.append(
            {
                "method": contender.name,
                "rungs": len(contender.rungs),
                "parameter": (contender.method.card.get("budget") or {}).get("parameter")
                if last and last.budget
                else None,
                "budget": last.budget if last else None,
                "validation": last.level if validated and last else None,
                "operations": last.operations if last else None,
                "seconds": sum(rung.seconds for rung in contender.rungs),
                "stopped": contender.stopped or ("fitted as asked" if last else "not fitted"),
                "certified": level if level is not None and math.isfinite(level) else None,
                "winner": winner,
            }
        )
    return sorted(
        rows, key=lambda row: (not row["winner"], math.inf if row["validation"] is None else row["validation"])
    )


def _leader(race: Race) -> Contender | None:
    """The contender that the winner is from."""
    same = [c for c in race.contenders if c.surrogate is race.winner]
    method = None if race.winner is None else race.winner.method
    return next(iter(same or [c for c in race.contenders if c.name == method]), None)


def race_cells(race: Race) -> list[tuple[str, ...]]:
    """`race_rows` as text: method, budget, rungs, validation level, operations, seconds, certified level, why it stopped."""
    return [
        (
            row["method"],
            "" if row["budget"] is None else f"{row['parameter']} {row['budget']}",
            str(row["rungs"]),
            "" if row["validation"] is None else f"{row['validation']:.3g}",
            "" if row["operations"] is None else count(row["operations"]),
            f"{row['seconds']:.2g} s",
            "" if row["certified"] is None else f"{row['certified']:.3g}",
            row["stopped"],
        )
        for row in race_rows(race)
    ]


RACE_HEADS = (
    "method",
    "budget",
    "rungs",
    "validation error",
    "operations",
    "time to fit",
    "certified error",
    "why it stopped",
)


def cost_cells(cost: Cost) -> list[tuple[str, str, str, str]]:
    """Rows of (what, surrogate, target, ratio) in words; a target made from data has no figures."""

    def row(what: str, mine: float, other: float | None, words: Any) -> tuple[str, str, str, str]:
        ratio = "" if other is None else f"{other / max(mine, 1e-300):.3g} times less"
        if other is not None and other < mine:
            ratio = f"{mine / max(other, 1e-300):.3g} times more"
        return (what, words(mine), "" if other is None else words(other), ratio)

    rows = [
        row("time per input, asked one at a time", cost.seconds_alone, cost.target_seconds_alone, duration),
        row(f"time per input, in a batch of {cost.batch}", cost.seconds_batched, cost.target_seconds_batched, duration),
        row("memory of its arrays", cost.bytes, cost.target_bytes, size),
        ("floating-point operations per input", count(cost.operations), "", ""),
        ("target evaluations to fit and choose", str(cost.evaluations), "", ""),
        ("time to fit, choose and certify", duration(cost.seconds_fit), "", ""),
    ]
    if cost.target_seconds_alone is not None and cost.target_seconds_alone > cost.seconds_alone:
        pays = math.ceil(cost.seconds_fit / (cost.target_seconds_alone - cost.seconds_alone))
        rows.append(("pays for its fit after", f"{count(pays)} inputs", "", ""))
    return rows
