"""All optimizers on three real trainings at equal time."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch

from benchmarks.harness import Table, seconds
from benchmarks.real_data import FOLDER
from nearly.optim import Training, compare, trainings

BUDGET = 3.0  # seconds of each training; 8 to 11 of them for each optimizer and problem
SEEDS = 3
PEERS = ["torch.AdamW", "torch.SGD", "torch.Adafactor"]


def run() -> list[Table]:
    """Measure on one thread."""
    torch.set_num_threads(1)
    data = FOLDER / "darcy16.npz"
    problems: dict[str, Callable[[], Training]] = {
        "Digits, loss on all rows": trainings.digits,
        "Characters, held-out nats per character": trainings.characters,
    }
    if data.exists():
        problems["Porous rock, held-out relative L2 error"] = partial(trainings.darcy, data)
    return [table(title, make()) for title, make in problems.items()]


def table(title: str, training: Training) -> Table:
    """The comparison of all members and of torch's, the best first."""
    from nearly.optim.comparison import resolve

    size = sum(parameter.numel() for parameter in training.make_model(0).parameters())
    members = {**resolve(None, size), **resolve(PEERS, size), "torch.Muon": TorchMuon}
    found = compare(training, members, seconds=BUDGET, seeds=SEEDS)
    made = Table(
        title,
        f"{seconds(BUDGET)} of each training, {found.parameters:,} parameters; each rate the best of 5 to 8 on a seed of its own; "
        f"median and range of {SEEDS} seeds.",
        ["optimizer", "rate", "median", "range", "steps", "time per step", "state per parameter", "peak"],
    )
    for row in found.frame():
        made.rows.append(
            [
                row["optimizer"],
                f"{row['rate']:.2g}",
                f"{row['loss']:.4g}",
                f"{row['lowest']:.4g} to {row['highest']:.4g}",
                f"{row['steps']:.0f}",
                seconds(row["seconds_per_step"]),
                f"{row['state_bytes_per_parameter']:.1f} bytes",
                "" if row["peak_bytes"] is None else f"{row['peak_bytes'] / 2**20:.1f} MiB",
            ]
        )
    return made


class TorchMuon(torch.optim.Optimizer):
    """torch's Muon for matrices, and its AdamW for all else, as torch leaves it to the user to combine them."""

    def __init__(self, params, lr: float = 1e-2) -> None:
        tensors = [parameter for _, parameter in params]
        super().__init__(tensors, {"lr": lr})
        self.parts = [
            torch.optim.Muon(
                [p for p in tensors if p.ndim == 2], lr=lr, adjust_lr_fn="match_rms_adamw", weight_decay=0.0
            ),
            torch.optim.AdamW([p for p in tensors if p.ndim != 2], lr=lr, weight_decay=0.0),
        ]

    def step(self, closure=None):
        """Both steps."""
        for part in self.parts:
            part.step()
        self.state.update({p: state for part in self.parts for p, state in part.state.items()})
