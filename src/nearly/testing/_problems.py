"""Small reference problems, a few per noun, on which the contract is checked; each is built, solved and fitted in milliseconds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from nearly.core.domain import Box
from nearly.core.nouns import Field, Function, Matrix, Measure, Network, Solve
from nearly.core.target import Pairs

if TYPE_CHECKING:
    from torch import Tensor

    from nearly.core.target import Target

ROWS = 1400  # of data-backed problems
CERTIFY = 1000  # of them; so many bring a certified level close to the quantile that it speaks of
NESTED_DISSECTION = (
    10.0  # operations of a sparse solve in the plane, in units of unknowns^1.5 (George 1973, doi:10.1137/0710032)
)


@dataclass(frozen=True)
class Problem:
    """A target that can be built again and again, with what the contract needs to know beside it.

    Attributes:
        name: for messages.
        noun: of the target.
        build: a new, equal target at each call, so that data rows can be handed out anew.
        answers: draws pairs like the target's own from a seed, as many as asked, data-backed targets included.
        operations: counted floating-point operations of one answer of the target; None where nobody can know.
        dtype: of inputs and outputs.
    """

    name: str
    noun: str
    build: Callable[[], Target]
    answers: Callable[[Target, int, torch.Generator], Pairs]
    operations: Callable[[Any], float] | None
    dtype: torch.dtype = torch.float64

    def fresh(self, target: Target, n: int, seed: int) -> Pairs:
        """Pairs that no fit and no certificate has met: their stream has a seed that no one else uses."""
        return self.answers(target, n, torch.Generator().manual_seed(10**9 + seed))


def reference_problems(nouns: list[str] | None = None) -> list[Problem]:
    """The reference problems of some nouns, or of all.

    Args:
        nouns: such as `["field"]`.

    Returns:
        Problems; those of one noun stand together, the cheapest kind first.
    """
    return [p for p in _all_problems() if nouns is None or p.noun in nouns]


@cache
def _all_problems() -> tuple[Problem, ...]:
    return (*_fields(), *_functions(), *_matrices(), *_networks(), *_measures())


def count_answers(target: Target) -> Counter[str]:
    """Count from now on, under "rows", the inputs at which the target's own solver, function or module is asked.

    Args:
        target: changed: what answers is wrapped.

    Returns:
        The live count; meaningless for a target made from data, which answers nothing.
    """
    count: Counter[str] = Counter()

    def wrap(owner: Any, name: str, rows: Callable[[Any], int]) -> None:
        asked = getattr(owner, name)

        def counting(inputs: Any, *rest: Any) -> Any:
            count["rows"] += rows(inputs)
            return asked(inputs, *rest)

        setattr(owner, name, counting)

    if isinstance(target, Field) and target.solver is not None:
        wrap(target, "solver", lambda x: len(x) if target.vectorized else 1)
    elif isinstance(target, Function) and target.f is not None:
        wrap(target, "f", lambda x: len(x) if target.vectorized else 1)
    elif not isinstance(target, (Field, Function)):
        wrap(target, "_evaluate", len)
    return count


def _drawn(target: Target, n: int, generator: torch.Generator) -> Pairs:
    return target.draw(n, generator)


def _fields() -> list[Problem]:
    from nearly.fields.coarse_solve import solve_operations
    from nearly.problems import convection_diffusion, thermal_block

    def solve(target: Field) -> float:
        system = target.system if target.system is not None else target.nonaffine
        assert system is not None
        return float(solve_operations(system.unknowns))

    def answers(dtype: torch.dtype, target: Target, n: int, generator: torch.Generator) -> Pairs:
        inputs = torch.rand(n, 2, dtype=torch.float64, generator=generator) + 0.5
        return Pairs(inputs.to(dtype), _waves(inputs).to(dtype))

    def data(dtype: torch.dtype) -> Field:
        pairs = answers(dtype, None, ROWS, torch.Generator().manual_seed(3))  # type: ignore[arg-type]
        return Field.from_data(pairs.inputs, pairs.outputs, certify=CERTIFY, name=f"waves, {dtype}")

    return [
        Problem("thermal block", "field", partial(thermal_block, (2, 2), cells=8), _drawn, solve),
        Problem("convection", "field", partial(convection_diffusion, cells=16), _drawn, solve),
        Problem("waves from data", "field", partial(data, torch.float64), partial(answers, torch.float64), None),
        Problem(
            "waves from float32 data",
            "field",
            partial(data, torch.float32),
            partial(answers, torch.float32),
            None,
            torch.float32,
        ),
    ]


def _waves(inputs: Tensor) -> Tensor:
    """Fields `sin(a pi s) + b^2 s` on 40 points s, for inputs (a, b)."""
    s = torch.linspace(0, 1, 40, dtype=inputs.dtype)
    return torch.sin(torch.pi * inputs[:, :1] * s) + inputs[:, 1:].square() * s


def _functions() -> list[Problem]:
    def f(x: Tensor) -> Tensor:
        return torch.exp(0.5 * x[:, 0]) * torch.cos(x[:, 1])

    def line() -> Function:
        return Function(lambda x: torch.exp(x) * torch.sin(4 * x), Box([-1.0], [1.0]), name="line")

    def build(dtype: torch.dtype) -> Function:
        if dtype == torch.float64:
            return Function(f, Box([-1.0, -1.0], [1.0, 1.0]), name="smooth")
        return Function(
            f, lambda n, generator: 2 * torch.rand(n, 2, dtype=dtype, generator=generator) - 1, name="float32"
        )

    return [
        Problem("smooth function", "function", partial(build, torch.float64), _drawn, None),
        Problem("function of one variable", "function", line, _drawn, None),
        Problem(
            "float32 function of a sampler", "function", partial(build, torch.float32), _drawn, None, torch.float32
        ),
    ]


def _matrices() -> list[Problem]:
    import scipy.sparse.linalg

    def decaying(dtype: torch.dtype) -> Matrix:
        generator = torch.Generator().manual_seed(5)
        left, right = (torch.linalg.qr(torch.randn(60, 60, dtype=torch.float64, generator=generator))[0] for _ in "uv")
        return Matrix(((left * 0.8 ** torch.arange(60)) @ right).to(dtype), name=f"decaying, {dtype}")

    def products() -> Matrix:
        matrix = decaying(torch.float64).matrix
        return Matrix(lambda x: matrix @ x, shape=(60, 60), transpose=lambda y: matrix.T @ y, name="decaying operator")

    def chain() -> Solve:
        line = scipy.sparse.diags([-1.0, 2.1, -1.0], [-1, 0, 1], shape=(40, 40))
        return Solve(scipy.sparse.linalg.aslinearoperator(line), name="Laplacian operator")

    def laplacian(dtype: torch.dtype, dense: bool = False) -> Solve:
        line = scipy.sparse.diags([-1.0, 2.1, -1.0], [-1, 0, 1], shape=(12, 12))
        eye = scipy.sparse.identity(12)
        plane = scipy.sparse.csr_matrix(scipy.sparse.kron(line, eye) + scipy.sparse.kron(eye, line))
        if dense:
            return Solve(torch.from_numpy(plane.toarray()).to(dtype), name="dense Laplacian")
        return Solve(plane.astype(torch.zeros(0, dtype=dtype).numpy().dtype), name=f"Laplacian, {dtype}")

    def product(target: Matrix) -> float:
        return 2.0 * target.shape[0] * target.shape[1]

    def solve(target: Solve) -> float:
        if target.sparse is not None:
            return 2.0 * target.factors.nnz
        return 2.0 * target.unknowns**2

    double, single = torch.float64, torch.float32
    return [
        Problem("decaying matrix", "matrix", partial(decaying, double), _drawn, product),
        Problem("float32 decaying matrix", "matrix", partial(decaying, single), _drawn, product, single),
        Problem("decaying operator", "matrix", products, _drawn, None),
        Problem("sparse Laplacian", "solve", partial(laplacian, double), _drawn, solve),
        Problem("dense Laplacian", "solve", partial(laplacian, double, dense=True), _drawn, solve),
        Problem("float32 Laplacian", "solve", partial(laplacian, single), _drawn, solve, single),
        Problem("Laplacian operator", "solve", chain, _drawn, None),
    ]


def _networks() -> list[Problem]:
    def build(dtype: torch.dtype) -> Network:
        generator = torch.Generator().manual_seed(7)
        layers: list[nn.Module] = []
        for size in ((8, 32), (32, 32), (32, 4)):
            layer = nn.Linear(*size, dtype=dtype, device="meta").to_empty(device="cpu")  # draws nothing
            with torch.no_grad():
                decay = 0.7 ** torch.arange(min(size), dtype=torch.float64)
                u, _, v = torch.linalg.svd(
                    torch.randn(size[1], size[0], dtype=torch.float64, generator=generator), full_matrices=False
                )
                layer.weight.copy_(2 * (u * decay) @ v)
                layer.bias.copy_(0.1 * torch.randn(size[1], dtype=torch.float64, generator=generator))
            layers += [layer, nn.Tanh()]
        return Network(
            nn.Sequential(*layers[:-1]), rows(dtype, ROWS, generator), certify=CERTIFY, name=f"tanh network, {dtype}"
        )

    def rows(dtype: torch.dtype, n: int, generator: torch.Generator) -> Tensor:
        return torch.randn(n, 8, dtype=torch.float64, generator=generator).to(dtype)

    def answers(dtype: torch.dtype, target: Target, n: int, generator: torch.Generator) -> Pairs:
        inputs = rows(dtype, n, generator)
        return Pairs(inputs, target(inputs))

    def operations(target: Network) -> float:
        return float(sum(2 * m.weight.numel() for m in target.module.modules() if isinstance(m, nn.Linear)))

    return [
        Problem("tanh network", "network", partial(build, d), partial(answers, d), operations, d)
        for d in (torch.float64, torch.float32)
    ]


def _measures() -> list[Problem]:
    def build(dtype: torch.dtype) -> Measure:
        generator = np.random.default_rng(11)
        centers = np.array([[-2.0, 0.0], [2.0, 1.0], [0.0, -2.0]])
        samples = centers[generator.integers(3, size=2000)] + 0.5 * generator.standard_normal((2000, 2))
        return Measure(torch.from_numpy(samples).to(dtype), name=f"three Gaussians, {dtype}")

    def operations(target: Measure) -> float:
        # One inner product and one cosine (about twenty operations) per sample.
        return 2.0 * target.samples.numel() + 20.0 * len(target.samples)

    return [
        Problem("three Gaussians", "measure", partial(build, torch.float64), _drawn, operations),
        Problem("three float32 Gaussians", "measure", partial(build, torch.float32), _drawn, operations, torch.float32),
    ]
