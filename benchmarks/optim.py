"""Steps of optimizers beside those of torch, pytorch_optimizer, heavyball and distributed_shampoo."""

from __future__ import annotations

import statistics
import time
import warnings
from collections.abc import Callable, Iterable
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from benchmarks.harness import Table, interleaved, seconds
from nearly import optim
from nearly.core.words import size

MAKE = Callable[[list[Tensor]], torch.optim.Optimizer]
REPEATS = 7
# Parameters of 12 blocks of a transformer of width 256, with their vectors.
BLOCK = [
    (768, 256),
    (768,),
    (256, 256),
    (256,),
    (1024, 256),
    (1024,),
    (256, 1024),
    (256,),
    (256,),
    (256,),
    (256,),
    (256,),
]
SHAPES = {
    "transformer, 12 x 256": BLOCK * 12,
    "4 of 1024 x 1024": [(1024, 1024)] * 4,
    "2 of 4096 x 1024": [(4096, 1024)] * 2,
}


def run() -> list[Table]:
    """Measure on one thread."""
    torch.set_num_threads(1)
    return [steps(), limits(), curvature()]


def peer(name: str) -> Any:
    """A peer's module, or None where it is not installed."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return import_module(name)
    except ImportError:
        return None


def makers() -> dict[str, dict[str, MAKE]]:
    """Optimizers by method and library, with equal settings; ours come first."""
    flagged = peer("pytorch_optimizer")
    heavy = peer("heavyball")
    meta = peer("distributed_shampoo")

    def split(parameters: list[Tensor]) -> list[dict[str, Any]]:
        groups = [
            {"params": [p for p in parameters if p.ndim > 1], "use_muon": True},
            {"params": [p for p in parameters if p.ndim < 2], "use_muon": False},
        ]
        return [group for group in groups if group["params"]]

    def matrices(parameters: list[Tensor]) -> list[Tensor]:
        return [p for p in parameters if p.ndim > 1]

    found: dict[str, dict[str, MAKE]] = {
        "AdamW": {
            "Nearly": optim.AdamW,
            "Nearly, unchecked": lambda p: optim.AdamW(p, nonfinite="ignore"),
            "torch": torch.optim.AdamW,
            "torch, fused": lambda p: torch.optim.AdamW(p, fused=True),
        },
        "Muon (matrices alone)": {
            "Nearly": lambda p: optim.Muon(matrices(p)),
            "torch": lambda p: torch.optim.Muon(matrices(p)),
        },
        "AdaMuon": {"Nearly": lambda p: optim.AdaMuon(p, signs=False)},
        "Adafactor": {"Nearly": optim.Adafactor, "torch": torch.optim.Adafactor},
        "Shampoo, refresh 10": {"Nearly": lambda p: optim.Shampoo(p, every=10)},
    }
    if flagged is not None:
        found["Muon (matrices alone)"]["pytorch_optimizer"] = lambda p: flagged.Muon(split(matrices(p)))
        found["AdaMuon"]["pytorch_optimizer"] = lambda p: flagged.AdaMuon(split(p))
        found["Adafactor"]["pytorch_optimizer"] = flagged.AdaFactor
        found["Shampoo, refresh 10"]["pytorch_optimizer"] = lambda p: flagged.ScalableShampoo(
            p, preconditioning_compute_steps=10, start_preconditioning_step=1, block_size=1024
        )
    if heavy is not None:
        found["AdamW"]["heavyball"] = heavy.AdamW
        found["Muon (matrices alone)"]["heavyball"] = lambda p: heavy.Muon(matrices(p))
    if meta is not None:
        found["Shampoo, refresh 10"]["distributed_shampoo"] = lambda p: meta.DistributedShampoo(
            p, precondition_frequency=10, max_preconditioner_dim=1024, start_preconditioning_step=10
        )
    return found


def timed(made: dict[str, MAKE], shapes: list[tuple[int, ...]], repeats: int) -> dict[str, tuple[float, int, int]]:
    """Median seconds of a step, bytes of state, and the most that a step allocates, by library; steps in turn."""
    generator = torch.Generator().manual_seed(0)
    gradients = [torch.randn(shape, generator=generator) for shape in shapes]
    runs: dict[str, tuple[list[Tensor], torch.optim.Optimizer]] = {}
    for name, make in made.items():
        parameters = [torch.nn.Parameter(0.02 * torch.randn(shape, generator=generator)) for shape in shapes]
        runs[name] = parameters, make(parameters)
    taken: dict[str, list[float]] = {name: [] for name in runs}
    peaks: dict[str, int] = {}
    for repeat in range(repeats + 2):
        for name, (parameters, optimizer) in runs.items():
            for parameter, gradient in zip(parameters, gradients, strict=True):
                parameter.grad = gradient.clone()  # some write into it, or take it away
            if repeat == 1:
                peaks[name] = optim.peak_bytes(optimizer.step)
                continue
            start = time.perf_counter()
            optimizer.step()
            taken[name].append(time.perf_counter() - start)
    return {name: (statistics.median(taken[name][1:]), optim.held_bytes(runs[name][1]), peaks[name]) for name in runs}


def steps() -> Table:
    """Time, state and peak memory of a step."""
    table = Table(
        "Steps",
        "Seconds of one step on normal gradients, state kept, and the most that a step allocates beyond it; medians of "
        f"{REPEATS} steps in turn. Muon, AdaMuon and Shampoo are the same methods with each library's own approximations of "
        "polar factors and roots; the others take the same steps. Shampoo is timed over 10 steps, one of which refreshes.",
        ["method", "parameters", "library", "step", "peer / Nearly", "state per number", "peak"],
    )
    ratios, unchecked = [], []
    for method, made in makers().items():
        for label, shapes in SHAPES.items():
            if method.startswith("Shampoo") and label.startswith("2"):
                continue
            found = measured(method, made, shapes)
            ours = found["Nearly"][0]
            if "Nearly, unchecked" in found:
                unchecked.append(found["torch, fused"][0] / found["Nearly, unchecked"][0])
            count = sum(torch.Size(shape).numel() for shape in shapes if len(shape) > 1 or "alone" not in method)
            for name, (spent, held, peak) in found.items():
                ratio = "" if name.startswith("Nearly") else f"{spent / ours:.2f}"
                if ratio:
                    ratios.append(spent / ours)
                table.rows.append([method, label, name, seconds(spent), ratio, f"{held / count:.2f} bytes", size(peak)])
    table.remarks.append(
        f"Median of the {len(ratios)} ratios: {statistics.median(ratios):.2f}; least {min(ratios):.2f}."
    )
    for name in ("pytorch_optimizer", "heavyball", "distributed_shampoo"):
        if peer(name) is None:
            table.remarks.append(f"{name} was not installed.")
    table.remarks.append(
        "All but the unchecked AdamW look at the gradients for NaN first. torch's fused step against it: "
        + ", ".join(f"{ratio:.2f}" for ratio in unchecked)
        + "."
    )
    table.remarks.append("State that peers keep inside objects (Shampoo's) is not counted.")
    table.remarks.append("heavyball compiles its steps where it can; here, without a compiler at hand, it does not.")
    return table


def measured(method: str, made: dict[str, MAKE], shapes: list[tuple[int, ...]]) -> dict[str, tuple[float, int, int]]:
    """As `timed`, means over whole refresh periods for Shampoo."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if not method.startswith("Shampoo"):
            return timed(made, shapes, REPEATS)
        found = {}
        for name, make in made.items():
            found[name] = periods(make, shapes)
        return found


def periods(make: MAKE, shapes: Iterable[tuple[int, ...]], length: int = 10) -> tuple[float, int, int]:
    """Seconds of a step, the mean over a period of steps of which one refreshes."""
    generator = torch.Generator().manual_seed(0)
    parameters = [torch.nn.Parameter(0.02 * torch.randn(shape, generator=generator)) for shape in shapes]
    optimizer = make(parameters)
    spent, peak = 0.0, 0
    for step in range(2 * length + 1):
        for parameter in parameters:
            parameter.grad = torch.randn(parameter.shape, generator=generator)
        if step == length:
            peak = optim.peak_bytes(optimizer.step)
            continue
        start = time.perf_counter()
        optimizer.step()
        spent += (time.perf_counter() - start) * (step > length)
    return spent / length, optim.held_bytes(optimizer), peak


def limits() -> Table:
    """How far steps are from memory bandwidth and from the peak of matrix products."""
    table = Table(
        "Distance from the limits",
        "AdamW reads and writes 28 bytes a number; the bandwidth is that of `a.add_(b)` on 16 million numbers. Muon's three "
        "steps take nine products of 1024 x 1024 matrices, of six of which, being symmetric, ten of sixteen blocks are made; the "
        "peak is that of one whole product in bfloat16.",
        ["member", "achieved", "limit", "fraction"],
    )
    a, b = torch.randn(2**24), torch.randn(2**24)
    bandwidth = 12 * 2**24 / best(lambda: a.add_(b))
    parameters = [torch.nn.Parameter(torch.randn(1024, 1024)) for _ in range(16)]
    for parameter in parameters:
        parameter.grad = torch.randn(1024, 1024)
    adamw = 28 * 2**24 / best(optim.AdamW(parameters).step)
    table.rows.append(["AdamW", f"{adamw / 1e9:.1f} GB/s", f"{bandwidth / 1e9:.1f} GB/s", f"{adamw / bandwidth:.2f}"])
    half = torch.randn(1024, 1024).bfloat16()
    peak = 2 * 1024**3 / best(lambda: half @ half)
    muon = 4 * (3 + 6 * 10 / 16) * 2 * 1024**3 / best(optim.Muon(parameters[:4]).step)
    table.rows.append(["Muon", f"{muon / 1e9:.0f} GFLOP/s", f"{peak / 1e9:.0f} GFLOP/s", f"{muon / peak:.2f}"])
    return table


def best(call: Callable[[], Any]) -> float:
    """The least of some times, as a limit is to be a limit."""
    call()
    found = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        call()
        found.append(time.perf_counter() - start)
    return min(found)


def curvature() -> Table:
    """Steps that ask for Hessian-vector products, on a character transformer."""
    table = Table(
        "A training step with curvature",
        "Loss, gradient, Hessian-vector product and step on a character transformer (two layers of width 64, 16 x 32 characters).",
        ["optimizer", "library", "step", "peer / Nearly"],
    )
    from nearly.optim.trainings import characters

    training = characters(context=32, batch=16)
    batch = next(iter(training.make_data(0)))
    flagged = peer("pytorch_optimizer")

    def ours() -> Callable[[], Any]:
        model = training.make_model(0)
        optimizer = optim.AdaHessian(model.parameters(), lr=1e-3)
        return lambda: optimizer.step(lambda: training.loss(model, batch))

    def theirs() -> Callable[[], Any]:
        model = training.make_model(0)
        optimizer = flagged.AdaHessian(model.parameters(), lr=1e-3)

        def step() -> None:
            optimizer.zero_grad()
            training.loss(model, batch).backward(create_graph=True)
            optimizer.step()

        return step

    calls = {"Nearly": ours()} | ({"pytorch_optimizer": theirs()} if flagged is not None else {})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        taken = interleaved(calls, repeats=100)  # a few percent are looked at
    for name, value in taken.items():
        ratio = "" if name == "Nearly" else f"{value / taken['Nearly']:.2f}"
        table.rows.append(["AdaHessian", name, seconds(value), ratio])
    return table
