"""The protocol of everything expensive: it draws inputs, answers them, and says how far a prediction is off."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Self

import torch
from torch import Tensor

from nearly.core.certificate import least_samples
from nearly.core.domain import Box, Domain
from nearly.core.errors import BadInput, OutOfDomain, SolverFailed, TooFewSamples
from nearly.core.validate import as_floating, describe, generator_from, require_finite, require_int, to_tensor

if TYPE_CHECKING:
    from jaxtyping import Float, Int

Sampler = Callable[[int, torch.Generator], Tensor]


@dataclass(frozen=True)
class Pairs:
    """Inputs and what the target answered, row by row; `failures` says where it did not answer, and why."""

    inputs: Tensor
    outputs: Tensor
    failures: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, index: slice) -> Pairs:
        return Pairs(self.inputs[index], self.outputs[index])


def row_hashes(rows: Float[Tensor, "n ..."]) -> Int[Tensor, " n"]:
    """A 63-bit fingerprint of every row's bits, to tell later which rows were used; equal rows have equal fingerprints.

    Rows of numbers that are equal in double precision are equal, whatever precision they come in.
    """
    import hashlib

    rows = rows.double() + 0.0 if rows.is_floating_point() else rows  # the sum makes negative zeros positive
    table = rows.detach().cpu().contiguous().reshape(len(rows), rows.shape[1:].numel()).view(torch.uint8).numpy()
    prints = [int.from_bytes(hashlib.blake2b(row.tobytes(), digest_size=8).digest(), "little") >> 1 for row in table]
    return torch.tensor(prints, dtype=torch.int64)


def refuse_fitted(fitting: Float[Tensor, "n ..."], certifying: Float[Tensor, "m ..."]) -> None:
    """Refuse separate certifying rows that are the fitting rows, whose errors say nothing of fresh inputs.

    Inputs that take few values repeat by right; but where all fitting rows differ, most of the others cannot be among them.

    Raises:
        BadInput: where they are.
    """
    fitted = row_hashes(fitting)
    shared = int(torch.isin(row_hashes(certifying), fitted).sum())
    if 2 * shared > len(certifying) and len(fitted.unique()) == len(fitted):
        raise BadInput("certifying", "rows that are not fitted", f"{shared} of {len(certifying)} that are")


@dataclass
class Rows:
    """A finite store of pairs, each handed out once: a fixed part to fit on, the rest to certify with."""

    pairs: Pairs
    fitting: Tensor
    certifying: Tensor
    handed: int = 0
    hashes: Tensor = field(init=False)

    def __post_init__(self) -> None:
        self.hashes = row_hashes(self.pairs.inputs)

    @property
    def left(self) -> int:
        """How many certifying rows were not handed out yet."""
        return len(self.certifying) - self.handed

    def require(self, n: int) -> None:
        """Refuse where fewer than n certifying rows are left.

        Raises:
            TooFewSamples: then.
        """
        if n > self.left:
            why = "rows not yet handed out; each certifying row is handed out once, so build a new target"
            raise TooFewSamples("certify", n, self.left, why)

    def take(self, n: int) -> Pairs:
        """Hand out the next n certifying rows.

        Raises:
            TooFewSamples: when fewer are left.
        """
        self.require(n)
        index = self.certifying[self.handed : self.handed + n]
        self.handed += n
        return Pairs(self.pairs.inputs[index], self.pairs.outputs[index])

    def forget(self, seen: Tensor) -> None:
        """Drop from the certifying rows still left those with a fingerprint in `seen`: some surrogate was fitted on them."""
        left = self.certifying[self.handed :]
        fresh = ~torch.isin(self.hashes[left], seen.cpu())
        self.certifying = torch.cat([self.certifying[: self.handed], left[fresh]])

    def look_up(self, inputs: Tensor) -> Tensor:
        """The stored outputs of stored inputs.

        Raises:
            OutOfDomain: for an input that is no row.
        """
        order = self.hashes.argsort(stable=True)
        asked = row_hashes(inputs.to(self.pairs.inputs))
        place = torch.searchsorted(self.hashes[order], asked).clamp(max=len(order) - 1)
        index = order[place]
        missing = self.hashes[index] != asked
        if bool(missing.any()):
            raise OutOfDomain(
                f"input {int(missing.nonzero()[0, 0])} is no row of the data, and data answers nothing else"
            )
        return self.pairs.outputs[index]


def sampled(sampler: Sampler, n: int, generator: torch.Generator) -> Tensor:
    """What a sampler draws, once it is known to be n finite rows; arrays become tensors.

    Raises:
        BadInput: where it is not.
    """
    drawn = sampler(n, generator)
    try:
        inputs = to_tensor(drawn)
    except (TypeError, ValueError, RuntimeError, LookupError) as error:
        raise BadInput("domain", "a callable (n, generator) -> inputs, numeric", describe(drawn)) from error
    if inputs.ndim < 1 or len(inputs) != n:
        raise BadInput("domain", f"a callable that returns as many rows as asked for, here {n}", describe(inputs))
    require_finite("inputs drawn by the domain's callable", inputs)
    return inputs


class Target(ABC):
    """Something expensive. Concrete nouns say how inputs are drawn and answered and in which norm errors are measured.

    Attributes:
        noun: the kind of thing, one word.
        name: for reports.
        domain: where inputs may lie; None when only a sampler or data tells.
        unit: the norm and scale of `error`, in words.
        rows: the store behind a target made from data, else None.
        columns: names of the numbers of an input, where the data had any.
    """

    noun: ClassVar[str]
    name: str
    domain: Domain | None
    unit: str
    rows: Rows | None = None
    columns: tuple[str, ...] | None = None
    _first: tuple[int, Tensor] | None = None  # seed and fingerprints of the first inputs drawn

    @abstractmethod
    def _draw_inputs(self, n: int, generator: torch.Generator) -> Tensor:
        """Draw n inputs; only called without `rows`."""

    @abstractmethod
    def _evaluate(self, inputs: Tensor) -> tuple[Tensor, list[str | None]]:
        """Outputs, and per input None or why it failed (its output row is then meaningless); only called without `rows`."""

    @abstractmethod
    def error(self, outputs: Float[Tensor, "n ..."], predictions: Float[Tensor, "n ..."]) -> Float[Tensor, " n"]:
        """Error per input, in `unit`."""

    @property
    def source(self) -> str:
        """The distribution of inputs, in words."""
        if self.rows is not None:
            return f"the source of the {len(self.rows.pairs)} rows of {self.name}"
        return self.domain.describe() if isinstance(self.domain, Box) else f"the sampler of {self.name}"

    @property
    def bytes(self) -> int | None:
        """Memory that the target itself needs, where that is known."""
        return None

    def sample(self, n: int, generator: int | torch.Generator) -> Float[Tensor, "n ..."]:
        """Draw n inputs; with data, n certifying rows that were not handed out before."""
        require_int("n", n, least=1)
        if self.rows is not None:
            return self.rows.take(n).inputs
        return self._draw_inputs(n, generator_from(generator))

    def __call__(self, inputs: Float[Tensor, "n ..."]) -> Float[Tensor, "n ..."]:
        """The true outputs.

        Args:
            inputs: one input per row.

        Returns:
            One output per row.

        Raises:
            SolverFailed: if the target raises or returns NaN at some input.
        """
        if self.rows is not None:
            return self.rows.look_up(inputs)
        outputs, failures = self._evaluate(inputs)
        bad = [(i, why) for i, why in enumerate(failures) if why is not None]
        if bad:
            raise SolverFailed(
                f"{self.name} failed at {len(bad)} of {len(inputs)} inputs; first at input {bad[0][0]}: {bad[0][1]}"
            )
        return outputs

    def draw(self, n: int, generator: torch.Generator, progress: Callable[[int], None] | None = None) -> Pairs:
        """Draw n inputs with their outputs. Inputs at which the target fails are reported, left out and replaced.

        Args:
            n: how many pairs.
            generator: source of randomness; ignored with data.
            progress: called with the number of pairs done since the last call.

        Returns:
            The pairs, with the failures.

        Raises:
            SolverFailed: when more than half of the inputs fail.
        """
        if self.rows is not None:
            return self.rows.take(n)
        inputs: list[Tensor] = []
        outputs: list[Tensor] = []
        failures: list[str] = []
        got = 0
        while got < n:
            drawn = self._draw_inputs(min(n - got, 64), generator)
            if not got and not failures:
                self._refuse_repeated(drawn, generator.initial_seed())
            out, why = self._evaluate(drawn)
            if outputs and out.shape[1:] != outputs[0].shape[1:]:
                shapes = (
                    f"an output of shape {tuple(out.shape[1:])} after outputs of shape {tuple(outputs[0].shape[1:])}"
                )
                why = [reason or shapes for reason in why]
            kept = torch.tensor([reason is None for reason in why])
            failures += [f"at input {describe_input(x)}: {w}" for x, w in zip(drawn, why, strict=True) if w is not None]
            if len(failures) > 8 and len(failures) > got + int(kept.sum()):
                raise SolverFailed(f"{self.name} fails at more than half of its inputs; {failures[0]}")
            if bool(kept.any()):
                inputs.append(drawn[kept])
                outputs.append(out[kept])
                got += int(kept.sum())
            if progress is not None:
                progress(int(kept.sum()))
        return Pairs(torch.cat(inputs), torch.cat(outputs), tuple(failures))

    def _refuse_repeated(self, drawn: Tensor, seed: int) -> None:
        """Refuse a sampler that draws the same under every seed: what was fitted would certify.

        Raises:
            BadInput: where it does; eight different inputs in the same order are no coincidence.
        """
        prints = row_hashes(drawn)
        if self._first is None:
            self._first = seed, prints
        common = min(len(prints), len(self._first[1]))
        repeated = torch.equal(prints[:common], self._first[1][:common])
        if seed != self._first[0] and repeated and len(prints[:common].unique()) >= 8:
            raise BadInput(
                "domain", "a callable that draws from the generator it is given", "one that draws the same again"
            )

    def set_rows(
        self,
        inputs: Any,
        outputs: Any,
        *,
        certify: int | None,
        certifying: tuple[Any, Any] | None,
        quantile: float,
        confidence: float,
        seed: int,
    ) -> Self:
        """Make this a target that answers from data alone (the nouns' `from_data` call it).

        Args:
            inputs: one row per input.
            outputs: as many rows.
            certify: rows kept to certify; by default the least that `quantile` and `confidence` need.
            certifying: separate (inputs, outputs) that certify; then no row of the others is kept.
            quantile: of the certificate that is wanted.
            confidence: of the same.
            seed: of the split.

        Returns:
            Itself.

        Raises:
            BadInput: for mismatched, empty, NaN or constant data.
            TooFewSamples: when the rows do not suffice.
        """
        x, y = _checked_rows("inputs", inputs, "outputs", outputs)
        least = least_samples(quantile, confidence)
        if certifying is not None:
            if not isinstance(certifying, tuple | list) or len(certifying) != 2:
                raise BadInput("certifying", "a pair (inputs, outputs)", describe(certifying))
            if certify is not None:
                raise BadInput("certify", "left out when a separate certifying set is given", certify)
            cx, cy = _checked_rows("certifying inputs", certifying[0], "certifying outputs", certifying[1])
            if cx.shape[1:] != x.shape[1:] or cy.shape[1:] != y.shape[1:]:
                raise BadInput(
                    "certifying", f"of row shapes {tuple(x.shape[1:])} and {tuple(y.shape[1:])}", describe(cx)
                )
            if len(cx) < least:
                raise TooFewSamples("certifying", least, len(cx), f"a {quantile} quantile with confidence {confidence}")
            refuse_fitted(x, cx.to(x))
            fitting, kept = torch.arange(len(x)), torch.arange(len(x), len(x) + len(cx))
            order = torch.randperm(len(cx), generator=generator_from(seed))
            x, y, kept = torch.cat([x, cx.to(x)]), torch.cat([y, cy.to(y)]), kept[order]
        else:
            count = least if certify is None else require_int("certify", certify, least=1)
            if count < least:
                raise TooFewSamples("certify", least, count, f"a {quantile} quantile with confidence {confidence}")
            if len(x) < count + 8:
                raise TooFewSamples("inputs", count + 8, len(x), f"{count} rows to certify and 8 to fit")
            order = torch.randperm(len(x), generator=generator_from(seed))
            kept, fitting = order[:count], order[count:]
        if not bool((y[fitting] != y[fitting[0]]).any()):
            raise BadInput("outputs", "of positive variance", "the same output in every row")
        self.rows = Rows(Pairs(x, y), fitting, kept)
        return self


def _checked_rows(input_name: str, inputs: Any, output_name: str, outputs: Any) -> tuple[Tensor, Tensor]:
    x = as_floating(input_name, inputs, least_dimensions=1)
    y = as_floating(output_name, outputs, least_dimensions=1)
    x, y = (x[:, None] if x.ndim == 1 else x), (y[:, None] if y.ndim == 1 else y)
    if len(x) != len(y):
        raise BadInput(output_name, f"of as many rows as {input_name} ({len(x)})", len(y), "Is one of them transposed?")
    if x.device != y.device:
        raise BadInput(output_name, f"on the device of {input_name}, {x.device}", f"a tensor on {y.device}")
    return x, y


def describe_input(x: Tensor) -> str:
    """An input in a failure report: its numbers where they are few, else its shape."""
    return "(" + ", ".join(f"{v:.6g}" for v in x.tolist()) + ")" if x.ndim == 1 and x.numel() <= 12 else describe(x)


def collect(
    answers: list[Tensor | None], failures: list[str | None], dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, list[str | None]]:
    """Stack one answer per input, on one device; those of another shape than most, sparse, complex or not finite ones failed."""
    shapes = Counter(a.shape for a in answers if a is not None)
    shape = shapes.most_common(1)[0][0] if shapes else torch.Size([0])
    dtype = dtype if dtype.is_floating_point else torch.float64
    stacked = torch.zeros(len(answers), *shape, dtype=dtype, device=device)
    for i, answer in enumerate(answers):
        if answer is None:
            continue
        if answer.shape != shape:
            failures[i] = f"an output of shape {tuple(answer.shape)} among outputs of shape {tuple(shape)}"
        elif answer.layout != torch.strided:
            failures[i] = "a sparse output, where a dense one is asked for"
        elif answer.is_complex():
            failures[i] = "a complex output, where real and imaginary parts side by side are asked for"
        elif not bool(torch.isfinite(answer).all()):
            failures[i] = "an output with NaN or infinite entries"
        else:
            stacked[i] = answer.detach()
    return stacked, failures


def relative_norm(difference: Float[Tensor, " n"], size: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
    """`difference / size`; 0 where both vanish, infinite where only the size does."""
    ratio = difference / size
    return torch.where((difference == 0) & (size == 0), torch.zeros_like(ratio), ratio)
