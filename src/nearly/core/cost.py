"""How cheaply: time and memory of surrogate and target, measured in one run, turn by turn."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch

from nearly.core.errors import BadInput

if TYPE_CHECKING:
    from torch import Tensor

    from nearly.core.surrogate import Surrogate
    from nearly.core.target import Target

REPEATS = 5  # medians of so many alternating measurements
BUDGET = 2.0  # seconds after which measuring stops, once every figure has been taken


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What a surrogate costs beside what its target costs; the target's figures are None for data, which nobody can rerun.

    Attributes:
        seconds_alone: per input, asked one at a time.
        seconds_batched: per input, asked in a batch of `batch`.
        batch: that size.
        bytes: of the surrogate's tensors.
        operations: counted floating-point operations per input.
        evaluations: target evaluations used to fit and to choose.
        seconds_fit: wall-clock seconds of the fit, evaluations included.
        target_seconds_alone: as above, of the target.
        target_seconds_batched: as above, of the target.
        target_bytes: where known.
        device: where it was measured.
    """

    seconds_alone: float
    seconds_batched: float
    batch: int
    bytes: int
    operations: int
    evaluations: int
    seconds_fit: float
    target_seconds_alone: float | None
    target_seconds_batched: float | None
    target_bytes: int | None
    device: str

    @property
    def speedup(self) -> float | None:
        """Target's over surrogate's time per input, batched; None for data."""
        return None if self.target_seconds_batched is None else self.target_seconds_batched / self.seconds_batched

    def to_manifest(self) -> dict[str, Any]:
        """JSON of the figures."""
        return asdict(self)

    @classmethod
    def from_manifest(cls, manifest: dict[str, Any]) -> Cost:
        """From JSON.

        Raises:
            BadInput: for fields that do not fit.
        """
        import msgspec

        unknown = manifest.keys() - cls.__dataclass_fields__.keys()  # which msgspec passes over
        if unknown:
            raise BadInput("cost", "the fields of a Cost", f"others beside them: {', '.join(sorted(unknown))}")
        try:
            return msgspec.convert(manifest, cls, strict=True)
        except msgspec.ValidationError as error:
            raise BadInput("cost", "the fields of a Cost", str(error)) from error


def measure_cost(surrogate: Surrogate, target: Target, inputs: Tensor, *, evaluations: int, seconds_fit: float) -> Cost:
    """Time surrogate and target in turn on the same inputs, alone and in a batch.

    Args:
        surrogate: fitted.
        target: what it replaces.
        inputs: at least one row; the target's batch is cut to what fits into the time.
        evaluations: used to fit, for the record.
        seconds_fit: for the record.

    Returns:
        Medians over alternating runs.
    """
    answers = target.rows is None or target.noun == "network"

    def timed(call: Callable[[Tensor], Any], x: Tensor) -> float:
        _wait(x.device)
        start = time.perf_counter()
        with torch.no_grad():
            call(x)
        _wait(x.device)
        return (time.perf_counter() - start) / len(x)

    alone, model = inputs[:1], surrogate.model
    cast = model.cast(inputs)
    once = timed(target, alone) if answers else 0.0
    few = inputs[: max(1, min(len(inputs), int(0.1 / max(once, 1e-9))))]
    timed(model, cast[:1])
    figures: dict[str, list[float]] = {"alone": [], "batched": [], "target alone": [], "target batched": []}
    start = time.perf_counter()
    for _ in range(REPEATS):
        figures["alone"].append(timed(model, cast[:1]))
        figures["batched"].append(timed(model, cast))
        if answers:
            figures["target alone"].append(timed(target, alone))
            figures["target batched"].append(timed(target, few))
        if time.perf_counter() - start > BUDGET:
            break
    median = {name: statistics.median(values) if values else None for name, values in figures.items()}
    assert median["alone"] is not None
    assert median["batched"] is not None
    return Cost(
        seconds_alone=median["alone"],
        seconds_batched=median["batched"],
        batch=len(inputs),
        bytes=surrogate.bytes,
        operations=model.operations,
        evaluations=evaluations,
        seconds_fit=seconds_fit,
        target_seconds_alone=median["target alone"],
        target_seconds_batched=median["target batched"],
        target_bytes=target.bytes,
        device=str(inputs.device),
    )


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
