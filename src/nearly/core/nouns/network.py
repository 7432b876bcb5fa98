"""Trained networks: rows of data in, the module's outputs out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal, get_args

import torch
from torch import Tensor, nn

from nearly.core.errors import BadInput, TooFewSamples
from nearly.core.target import Pairs, Rows, Target, refuse_fitted, relative_norm
from nearly.core.validate import as_floating, describe, generator_from, require_int
from nearly.linalg.scaling import row_norms

if TYPE_CHECKING:
    from jaxtyping import Float

Metric = Literal["relative", "cosine", "kl", "top1"]
UNITS = {
    "relative": "relative 2-norm",
    "cosine": "1 - cosine",
    "kl": "KL divergence, nats",
    "top1": "top-1 disagreement",
}
CHUNK = 256  # rows answered at once: a batch of thousands of rows would hold gigabytes of activations


class Network(Target):
    """A trained module. Errors compare its outputs z with a prediction y, row by row.

    `metric`: "relative" is `||z - y|| / ||z||` in the 2-norm; "cosine" is `1 - z^T y / (||z|| ||y||)`; "kl" is
    `KL(softmax(z) || softmax(y))` in nats over the last dimension; "top1" is 1 where the largest entries differ, else 0.

    Args:
        module: in evaluation mode for the calls made here; training flags are put back.
        data: rows that the module takes, shape (n, ...); each is handed out once. Whole numbers stay what they are (int64) for a
            module with an `nn.Embedding` or `nn.EmbeddingBag`, as token ids; all else takes the dtype of the module's weights.
        metric: as above.
        certify: rows kept to certify; by default three eighths of the data, at least what 95% with confidence 99% needs.
        certifying: separate rows that certify, then no row of `data` is kept; the certificate speaks of further rows drawn as
            these are, which may be from elsewhere than `data`.
        seed: of the split.
        name: for reports.

    Raises:
        BadInput: for a module that is none, a metric of classes where it returns none, data that is not finite, or `certifying`
            rows of another shape.
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
        certifying: Any = None,
        seed: int = 0,
        name: str = "network",
    ) -> None:
        if not isinstance(module, nn.Module):
            raise BadInput("module", "a torch.nn.Module", describe(module))
        if metric not in get_args(Metric):
            raise BadInput("metric", f"one of {', '.join(get_args(Metric))}", metric)
        rows = _rows_for(module, "data", data)
        if certifying is None:
            kept = max(90, 3 * len(rows) // 8) if certify is None else require_int("certify", certify, least=1)
            if len(rows) < kept + 8:
                raise TooFewSamples("data", kept + 8, len(rows), f"{kept} rows to certify and 8 to fit")
            order = torch.randperm(len(rows), generator=generator_from(seed))
            fitting, kept_rows = order[kept:], order[:kept]
        else:
            if certify is not None:
                raise BadInput("certify", "left out when separate certifying rows are given", certify)
            further = _rows_for(module, "certifying", certifying)
            if further.shape[1:] != rows.shape[1:] or further.dtype != rows.dtype:
                raise BadInput("certifying", f"rows of shape {tuple(rows.shape[1:])}, as data's", describe(further))
            refuse_fitted(rows, further)
            fitting = torch.arange(len(rows))
            kept_rows = len(rows) + torch.randperm(len(further), generator=generator_from(seed))
            rows = torch.cat([rows, further])
        self.module, self.metric, self.name, self.domain = module, metric, name, None
        self.unit = UNITS[metric]
        outputs = self._answer(rows[:1])
        if metric in ("kl", "top1") and (outputs.ndim < 2 or outputs.shape[-1] < 2):
            raise BadInput("metric", "relative or cosine for a module without two classes or more", f"{metric!r}")
        # The outputs are computed when rows are handed out; only their shape is needed here.
        self.rows = Rows(Pairs(rows, outputs.expand(len(rows), *outputs.shape[1:])), fitting, kept_rows)
        self._separate = certifying is not None

    @property
    def source(self) -> str:
        """The distribution of inputs, in words: that of the certifying rows, where those are separate."""
        assert self.rows is not None
        separate = f"the source of the {len(self.rows.certifying)} certifying rows of {self.name}"
        return separate if self._separate else super().source

    @property
    def bytes(self) -> int | None:
        """Memory of parameters and buffers."""
        tensors = [*self.module.parameters(), *self.module.buffers()]
        return sum(t.numel() * t.element_size() for t in tensors)

    def _answer(self, inputs: Tensor) -> Tensor:
        training = [module for module in self.module.modules() if module.training]
        self.module.eval()
        try:
            with torch.no_grad():
                parts = [self.module(part.clone()) for part in inputs.split(CHUNK)]  # its first layer may work in place
        finally:
            for module in training:  # one by one: others were in evaluation mode
                module.training = True
        if not isinstance(parts[0], Tensor):
            raise BadInput("module", "one that returns a tensor", describe(parts[0]))
        return torch.cat(parts)

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
        if self.metric in ("relative", "cosine"):
            flat, other = outputs.reshape(len(outputs), -1), predictions.reshape(len(outputs), -1)
            if self.metric == "cosine":
                # Half the squared distance of the unit vectors, which keeps the digits that the difference cancels.
                flat, other = (rows / row_norms(rows)[:, None] for rows in (flat, other))
                return (flat - other).square().sum(dim=1) / 2
            return relative_norm(row_norms(flat - other), row_norms(flat))
        if self.metric == "kl":
            p, q = outputs.log_softmax(dim=-1), predictions.log_softmax(dim=-1)
            return (p.exp() * (p - q)).sum(dim=-1).reshape(len(outputs), -1).mean(dim=1).clamp(min=0)
        differ = outputs.argmax(dim=-1) != predictions.argmax(dim=-1)
        return differ.to(outputs.dtype).reshape(len(outputs), -1).mean(dim=1)

    def score(self, outputs: Float[Tensor, "n ..."], generator: torch.Generator) -> Float[Tensor, " n"]:
        """A random number per row whose gradient at the outputs z has the error's curvature as its second moment.

        "relative": `v^T z / ||z_0||` and "cosine": `v^T z / ||z||`, v standard normal and z_0 the value of z (not differentiated),
        as `||z - y||^2 / ||z||^2` and `2 - 2 cos` grow; "kl" and "top1": `log softmax(z)[k]` with k drawn from softmax(z), so that
        the second moment is the Fisher information of the labels, the curvature of the KL divergence.

        Args:
            outputs: of the module, differentiable.
            generator: on the CPU.
        """
        if self.metric in ("relative", "cosine"):
            flat = outputs.reshape(len(outputs), -1)
            size = row_norms(flat if self.metric == "cosine" else flat.detach())
            draws = torch.randn(flat.shape, generator=generator, dtype=flat.dtype).to(flat.device)
            return (draws * flat).sum(dim=1) / size.clamp(min=torch.finfo(flat.dtype).tiny)
        log_probabilities = outputs.log_softmax(dim=-1).reshape(-1, outputs.shape[-1])
        labels = torch.multinomial(log_probabilities.detach().exp().cpu(), 1, generator=generator).to(outputs.device)
        return log_probabilities.gather(1, labels).reshape(len(outputs), -1).sum(dim=1)


def _rows_for(module: nn.Module, name: str, data: Any) -> Tensor:
    """Rows in the dtype that the module takes.

    Raises:
        BadInput: for rows that are not numeric, finite and at least two-dimensional.
    """
    rows = as_floating(name, data, least_dimensions=2)
    whole = not torch.as_tensor(data).is_floating_point()
    weight = next((p for p in module.parameters() if p.is_floating_point()), None)
    if weight is None:
        return rows
    if whole and any(isinstance(m, nn.Embedding | nn.EmbeddingBag) for m in module.modules()):
        return torch.as_tensor(data).to(weight.device, torch.int64)
    return rows.to(weight)  # else the module would refuse its own data
