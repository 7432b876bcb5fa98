"""Trained networks: rows of data in, the module's outputs out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal, get_args

import torch
from torch import Tensor, nn

from nearly.core.errors import BadInput, TooFewSamples
from nearly.core.target import Pairs, Rows, Target, relative_norm
from nearly.core.validate import as_floating, describe, generator_from, require_int

if TYPE_CHECKING:
    from jaxtyping import Float

Metric = Literal["relative", "kl", "top1"]


class Network(Target):
    """A trained module. Errors compare its outputs z with a prediction y, row by row.

    `metric`: "relative" is `||z - y|| / ||z||` in the 2-norm; "kl" is `KL(softmax(z) || softmax(y))` in nats over the last
    dimension; "top1" is 1 where the largest entries differ, else 0.

    Args:
        module: in evaluation mode from here on for the calls made here; its training flag is put back.
        data: rows that the module takes, shape (n, ...); each is handed out once.
        metric: as above.
        certify: rows kept to certify; by default three eighths of the data, at least what 95% with confidence 99% needs.
        seed: of the split.
        name: for reports.

    Raises:
        BadInput: for a module that is none or data that is not finite.
        TooFewSamples: for fewer rows than one certificate needs.

    Example:
        >>> net = Network(nn.Linear(4, 2), torch.randn(400, 4, generator=torch.Generator().manual_seed(0)))
        >>> net(net.sample(5, 0)).shape
        torch.Size([5, 2])
    """

    noun: ClassVar[str] = "network"

    def __init__(
        self,
        module: nn.Module,
        data: Any,
        *,
        metric: Metric = "relative",
        certify: int | None = None,
        seed: int = 0,
        name: str = "network",
    ) -> None:
        if not isinstance(module, nn.Module):
            raise BadInput("module", "a torch.nn.Module", describe(module))
        if metric not in get_args(Metric):
            raise BadInput("metric", f"one of {', '.join(get_args(Metric))}", metric)
        rows = as_floating("data", data, least_dimensions=2)
        weight = next((p for p in module.parameters() if p.is_floating_point()), None)
        rows = rows if weight is None else rows.to(weight)  # else the module would refuse its own data
        kept = max(90, 3 * len(rows) // 8) if certify is None else require_int("certify", certify, least=1)
        if len(rows) < kept + 8:
            raise TooFewSamples("data", kept + 8, len(rows), f"{kept} rows to certify and 8 to fit")
        self.module, self.metric, self.name, self.domain = module, metric, name, None
        self.unit = {"relative": "relative 2-norm", "kl": "KL divergence, nats", "top1": "top-1 disagreement"}[metric]
        with torch.no_grad():
            outputs = self._answer(rows[:1])
        order = torch.randperm(len(rows), generator=generator_from(seed))
        # The outputs are computed when rows are handed out; only their shape is needed here.
        self.rows = Rows(Pairs(rows, outputs.expand(len(rows), *outputs.shape[1:])), order[kept:], order[:kept])

    @property
    def bytes(self) -> int | None:
        """Memory of parameters and buffers."""
        tensors = [*self.module.parameters(), *self.module.buffers()]
        return sum(t.numel() * t.element_size() for t in tensors)

    def _answer(self, inputs: Tensor) -> Tensor:
        training = self.module.training
        self.module.eval()
        try:
            with torch.no_grad():
                return self.module(inputs)
        finally:
            self.module.train(training)

    def __call__(self, inputs: Float[Tensor, "n ..."]) -> Float[Tensor, "n ..."]:
        """The module's outputs, in evaluation mode and without gradients; any input is answered, not rows alone."""
        return self._answer(inputs)

    def draw(self, n: int, generator: torch.Generator, progress: Any = None) -> Pairs:
        """The next n certifying rows with the module's outputs."""
        assert self.rows is not None
        inputs = self.rows.take(n).inputs
        return Pairs(inputs, self._answer(inputs))

    def _draw_inputs(self, n: int, generator: torch.Generator) -> Tensor:
        raise AssertionError("a network draws rows of its data")

    def _evaluate(self, inputs: Tensor) -> tuple[Tensor, list[str | None]]:
        return self._answer(inputs), [None] * len(inputs)

    def error(self, outputs: Float[Tensor, "n ..."], predictions: Float[Tensor, "n ..."]) -> Float[Tensor, " n"]:
        """Error per row, as `metric` says."""
        if self.metric == "relative":
            flat, other = outputs.reshape(len(outputs), -1), predictions.reshape(len(outputs), -1)
            return relative_norm((flat - other).norm(dim=1), flat.norm(dim=1))
        if self.metric == "kl":
            p, q = outputs.log_softmax(dim=-1), predictions.log_softmax(dim=-1)
            return (p.exp() * (p - q)).sum(dim=-1).reshape(len(outputs), -1).mean(dim=1).clamp(min=0)
        differ = outputs.argmax(dim=-1) != predictions.argmax(dim=-1)
        return differ.to(outputs.dtype).reshape(len(outputs), -1).mean(dim=1)
