"""What comes out: a module that answers as the target nearly does, and knows how nearly, where, and at what cost."""

from __future__ import annotations

import math
import warnings
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import torch
from torch import Tensor, nn

from nearly.core.certificate import certificate_from_manifest, certificate_to_manifest
from nearly.core.cost import Cost
from nearly.core.domain import Domain, restore_domain
from nearly.core.errors import ArtifactError, BadInput, NearlyError, OutOfDomain, OutsideDomainWarning
from nearly.core.validate import describe

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from jaxtyping import Bool, Float

    from nearly.core.certificate import Certificate
    from nearly.core.target import Target


ROWS = 2048  # answered at once on a CPU: what they make on the way, as distances to all fitted rows, takes megabytes


class Model(nn.Module, ABC):
    """What a method fits: plain tensors (buffers) and JSON settings, both given as keywords, so that an artifact can hold it.

    A concrete model names its keywords in its own `__init__` and passes them on; `model(**settings, **tensors)` builds it again.
    """

    theorem: ClassVar[str | None] = None  # in words, where `bound` rests on one
    needs_target: ClassVar[bool] = False  # whether a part of the target is called to answer, as a coarse solver is
    keeps_precision: ClassVar[bool] = (
        False  # whether its sums cancel too much for a lower precision than it was fitted in
    )
    takes_integers: bool = False  # whether its inputs are whole numbers, as token ids are

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            """Buffers and settings are attributes by their names."""

    def __init__(self, **state: Any) -> None:
        super().__init__()
        self.settings: dict[str, Any] = {}
        for name, value in state.items():
            if isinstance(value, Tensor):
                # Contiguous, so that a loaded model sums in the same order as the one that was saved.
                self.register_buffer(name, value.contiguous())
            else:
                setattr(self, name, value)
                self.settings[name] = value

    @classmethod
    def restore(cls, settings: dict[str, Any], tensors: dict[str, Tensor], target: Target | None) -> Self:
        """Build the model from what an artifact holds; models that call a part of the target override this."""
        return cls(**settings, **tensors)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Move to another device or precision; `keeps_precision` lets only the device change."""
        before = dict(self.named_buffers(recurse=False))
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        if self.keeps_precision:
            for name, moved in list(self.named_buffers(recurse=False)):
                setattr(self, name, before[name].to(moved.device))
        return self

    @property
    @abstractmethod
    def operations(self) -> int:
        """Floating-point operations for one input, counted from the formula; orders models by price, the same on every machine."""

    def bound(self, inputs: Tensor) -> Tensor:
        """The theorem's bound on the error per input, shape (n,), in the target's unit."""
        raise NotImplementedError

    def cast(self, inputs: Tensor) -> Tensor:
        """Inputs in the dtype that the model takes: the one computed in, or whole numbers as they are where it `takes_integers`."""
        return inputs if self.takes_integers else inputs.to(self.dtype)

    @property
    def dtype(self) -> torch.dtype:
        """The dtype computed in."""
        return next((t.dtype for t in self.state_dict().values() if t.is_floating_point()), torch.float64)

    @property
    def device(self) -> torch.device | None:
        """The device computed on; None without tensors, where it is that of the inputs."""
        return next((t.device for t in self.state_dict().values()), None)


class Surrogate(nn.Module):
    """Answers as the target nearly does.

    Calling it checks the domain first. `.to()`, autograd and `torch.compile` work as for any module; `torch.vmap` and
    `torch.export` take `.model`, which leaves the domain check out; the latter no model of Legendre polynomials, whose degrees are
    read from its tensors.

    Attributes:
        model: the fitted tensors and the formula.
        domain: where it was certified.
        certificate: how nearly; None until certified, or once withdrawn.
        cost: how cheaply; None until measured.
        method: id of the method that made it.
        hyperparameters: of that method.
        noun: of the target.
        unit: of errors.
        seen: fingerprints of the data rows that were used to fit or choose, so that none of them ever certifies.
        columns: names of the numbers of an input, where the data had any.
        outside: "raise" raises `OutOfDomain` for inputs outside the domain; "warn" warns, answers, and withdraws the certificate.
    """

    seen: Tensor

    def __init__(
        self,
        model: Model,
        domain: Domain,
        *,
        method: str,
        hyperparameters: dict[str, Any],
        noun: str,
        unit: str,
        seen: Tensor | None = None,
        columns: Sequence[str] | None = None,
        certificate: Certificate | None = None,
        cost: Cost | None = None,
        outside: Literal["raise", "warn"] = "raise",
    ) -> None:
        super().__init__()
        self.model, self.domain = model, domain
        self.method, self.hyperparameters, self.noun, self.unit = method, hyperparameters, noun, unit
        self.certificate, self.cost, self.outside = certificate, cost, outside
        self.columns = None if columns is None else tuple(columns)
        self.register_buffer("seen", torch.zeros(0, dtype=torch.int64) if seen is None else seen)

    def forward(self, inputs: Float[Tensor, "n ..."]) -> Float[Tensor, "n ..."]:
        """The predictions, one per input row, in the input's dtype.

        Raises:
            OutOfDomain: for an input outside the certified domain (unless `outside` is "warn").
        """
        inputs, dtype, outputs = self._admit(inputs, 5)  # two frames of nn.Module's call between
        return (self._answer(inputs) if outputs is None else outputs).to(dtype)

    def bound(self, inputs: Float[Tensor, "n ..."]) -> Float[Tensor, " n"]:
        """A proven bound on the error of each prediction, in `unit`, computed without the target.

        Raises:
            BadInput: if this surrogate's method has no such theorem.
            OutOfDomain: as for a call.
        """
        if self.model.theorem is None:
            raise BadInput("surrogate", "of a method with a Bound certificate", self.method)
        inputs, dtype, _ = self._admit(inputs, 3)
        return self.model.bound(inputs).to(dtype)

    def _admit(self, inputs: Tensor, caller: int) -> tuple[Tensor, torch.dtype, Tensor | None]:
        """Inputs in the model's dtype, the dtype that is answered in (theirs, or the model's for whole numbers), and outputs.

        The outputs are None unless the domain had to look at them.

        Raises:
            BadInput: for inputs that are not finite.
            OutOfDomain: for inputs outside the domain.
        """
        if not isinstance(inputs, Tensor) or inputs.is_complex() or inputs.ndim < 1:
            raise BadInput("inputs", "a real tensor with one row per input", describe(inputs))
        if self.model.takes_integers and inputs.is_floating_point():
            raise BadInput("inputs", "whole numbers, as those that were fitted", describe(inputs))
        dtype = inputs.dtype if inputs.is_floating_point() else self.model.dtype
        inputs = inputs if self.model.takes_integers else inputs.to(dtype)
        outputs = self._outputs(inputs) if self.domain.of_outputs else None
        inside = self.domain.contains((inputs if outputs is None else outputs).detach())
        if not inside.all():
            if not bool(torch.isfinite(inputs).all()):
                raise BadInput("inputs", "finite", "NaN or infinite entries")
            outside = (~inside).nonzero().flatten().tolist()
            message = f"{len(outside)} of {len(inputs)} inputs lie outside {self.domain.describe()}; first: input {outside[0]}"
            if self.outside == "raise":
                raise OutOfDomain(
                    f"{message}. The certificate says nothing there; outside='warn' answers all the same."
                )
            self.certificate = None
            warnings.warn(f"{message}. The certificate is withdrawn.", OutsideDomainWarning, stacklevel=caller)
        return self.model.cast(inputs), dtype, outputs

    def _answer(self, inputs: Tensor) -> Tensor:
        """The model's answers, part by part where there are many rows and nothing is recorded for a backward pass."""
        if len(inputs) <= ROWS or inputs.device.type != "cpu" or torch.compiler.is_compiling():
            return self.model(inputs)
        parts = inputs.split(ROWS)
        first = self.model(parts[0])
        if first.requires_grad:
            return self.model(inputs)
        outputs = first.new_empty(len(inputs), *first.shape[1:])
        outputs[:ROWS] = first
        for part, place in zip(parts[1:], outputs.split(ROWS)[1:], strict=True):
            place.copy_(self.model(part))
        return outputs

    def _outputs(self, inputs: Tensor) -> Tensor:
        try:
            return self._answer(self.model.cast(inputs))
        except IndexError as error:  # an embedding's
            raise BadInput("inputs", "whole numbers in the range that the network takes", describe(inputs)) from error

    def contains(self, inputs: Float[Tensor, "n ..."]) -> Bool[Tensor, " n"]:
        """Which inputs lie in the domain; a domain of outputs looks at what the model answers.

        Raises:
            BadInput: for inputs of another shape, or out of the range that the network takes.
        """
        if not self.domain.of_outputs:
            return self.domain.contains(inputs)
        with torch.no_grad():
            return self.domain.contains(self._outputs(inputs))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Withdraw the certificate where `.to()` and its like round the tensors: that may cost more than it allows."""
        before = self.model.dtype
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        if torch.finfo(self.model.dtype).eps > torch.finfo(before).eps:
            self.certificate = None
        return self

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *args: Any) -> None:
        """Withdraw the certificate where `load_state_dict` brings other tensors than those it was measured with."""
        for name, own in self.state_dict(prefix=prefix).items():
            new = state_dict.get(name, own)
            same = isinstance(new, Tensor) and (new.dtype, new.shape) == (own.dtype, own.shape)
            if not same or not torch.equal(new.to(own.device), own):
                self.certificate = None
        super()._load_from_state_dict(state_dict, prefix, *args)

    @property
    def bytes(self) -> int:
        """Memory of all its tensors."""
        return sum(t.numel() * t.element_size() for t in self.model.state_dict().values())

    def save(self, path: str | Path) -> None:
        """Write one safetensors file; killed at any instant, the old file or the new one is there.

        Raises:
            ArtifactError: when the file cannot be written.
        """
        from nearly.core.artifact import write_artifact

        manifest = {
            "method": self.method,
            "hyperparameters": self.hyperparameters,
            "noun": self.noun,
            "unit": self.unit,
            "columns": self.columns,
            "domain": {"kind": self.domain.kind, "settings": self.domain.settings()},
            "settings": self.model.settings,
            "certificate": certificate_to_manifest(self.certificate),
            "cost": None if self.cost is None else self.cost.to_manifest(),
            "versions": _versions(),
        }
        tensors = {f"model.{k}": v for k, v in self.model.state_dict().items()}
        tensors |= {f"domain.{k}": v for k, v in self.domain.state_dict().items()}
        write_artifact(path, manifest, tensors | {"seen": self.seen})


def load(path: str | Path, *, target: Target | None = None) -> Surrogate:
    """Read a surrogate. Nothing in the file is executed; digest, sizes and names are checked before anything is allocated.

    Args:
        path: the artifact.
        target: needed by the few surrogates that call a part of their target (a coarse solver, a network's skeleton).

    Returns:
        The surrogate, on the CPU.

    Raises:
        NearlyError: one of the two below.
        ArtifactError: for a file that is damaged, no artifact, or of a method that is not installed.
        BadInput: when a target is needed.
    """
    from nearly.core.artifact import read_artifact
    from nearly.core.registry import method_class

    manifest, tensors = read_artifact(path)

    def part(prefix: str) -> dict[str, Tensor]:
        return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}

    try:
        model_class = method_class(manifest["method"]).model
        if model_class.needs_target and target is None:
            raise BadInput(
                "target", f"given to load a surrogate of {manifest['method']}, which calls a part of it", None
            )
        surrogate = Surrogate(
            model_class.restore(manifest["settings"], part("model."), target),
            restore_domain(manifest["domain"]["kind"], manifest["domain"]["settings"], part("domain.")),
            method=manifest["method"],
            hyperparameters=manifest["hyperparameters"],
            noun=manifest["noun"],
            unit=manifest["unit"],
            seen=tensors["seen"],
            columns=_names(manifest["columns"]),
            certificate=certificate_from_manifest(manifest["certificate"]),
            cost=None if manifest["cost"] is None else Cost.from_manifest(manifest["cost"]),
        )
        example = surrogate.domain.example()
        if example is not None and not model_class.needs_target:  # whether the tensors' shapes fit together
            with torch.no_grad():
                given = example.clone().to(surrogate.model.dtype)
                surrogate.model(given)
                if surrogate.model.theorem is not None:
                    surrogate.model.bound(given)
    except NearlyError as error:
        if isinstance(error, BadInput) and error.argument == "target":
            raise
        raise ArtifactError(f"{path} does not describe a surrogate that this version knows: {error}") from error
    except (LookupError, TypeError, RuntimeError, ValueError, AttributeError) as error:
        raise ArtifactError(
            f"{path} lacks or misdescribes a part of a surrogate ({type(error).__name__}: {error})"
        ) from error
    return surrogate


def _names(columns: Any) -> list[str] | None:
    if columns is not None and not (isinstance(columns, list) and all(isinstance(name, str) for name in columns)):
        raise TypeError("columns are no list of texts")
    return columns


def _versions() -> dict[str, str]:
    from importlib.metadata import version

    return {name: version(name) for name in ("nearly", "torch", "numpy", "scipy")}


def operations_of_maps(*sizes: Sequence[int]) -> int:
    """Operations of applying dense maps of the given (rows, columns) to one vector each."""
    return sum(2 * math.prod(size) for size in sizes)
