"""Small trainings that optimizers are checked on, one file per kind; a card's `kind` names the file, "training" by default."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nearly.core.errors import BadInput
from nearly.optim.optimizer import Optimizer
from nearly.optim.step import OF_CLOSURES, WITHOUT_BACKWARD


@dataclass(frozen=True)
class OptimizerProblem:
    """A loss of a module, in float64 on the host unless it is started in another precision or elsewhere.

    Attributes:
        name: for messages.
        module: makes it, each time with the same parameters.
        loss: of the module, on all data.
        run: what one training of it is.
    """

    name: str
    module: Callable[[], nn.Module]
    loss: Callable[[nn.Module], Tensor]
    run: Callable[..., Run] | None = None

    def start(self, member: type[Optimizer], **changes: Any) -> Run:
        """A training that has not begun; `changes` as of `Run`."""
        return (self.run or Run)(self, member, **changes)


class Run:
    """One training of a problem's module by a member, with the settings of its card.

    Args:
        problem: what is trained.
        member: by what.
        dtype: of the module.
        device: of the module.
        sign: times which the loss is taken.
        split: whether the parameters come in two groups.
        settings: in place of the card's; options too.
    """

    def __init__(
        self,
        problem: OptimizerProblem,
        member: type[Optimizer],
        *,
        dtype: torch.dtype = torch.float64,
        device: torch.device | None = None,
        sign: float = 1.0,
        split: bool = False,
        **settings: Any,
    ) -> None:
        self.problem, self.member, self.sign = problem, member, sign
        self.module = problem.module().to(device, dtype)
        self.needs = set(member.card["needs"])
        self.disturb: Callable[[Tensor], Tensor] = lambda loss: loss
        if "layers" in self.needs:
            settings = {"module": self.module, **settings}
        self.optimizer = self.build(self._groups(split), **{**member.card["settings"], **settings})

    def build(self, params: Any, **settings: Any) -> Optimizer:
        """The optimizer of these parameters."""
        return self.member(params, **settings)

    def _groups(self, split: bool) -> list[Any]:
        named = list(self.module.named_parameters())
        return [{"params": named[::2]}, {"params": named[1::2]}] if split else named

    @property
    def parameters(self) -> list[Tensor]:
        """Of the module."""
        return list(self.module.parameters())

    def loss(self) -> float:
        """The problem's, which always is to fall."""
        with torch.no_grad():
            return float(self.problem.loss(self.module))

    def closure(self) -> Tensor:
        """The loss, backward called where the member does not ask for its graph or for values alone."""
        loss = self.sign * self.disturb(self.problem.loss(self.module))
        if not self.needs & WITHOUT_BACKWARD:
            self.optimizer.zero_grad()
            loss.backward()
        return loss

    def backward(self) -> None:
        """What comes before a step without closure."""
        self.optimizer.zero_grad()
        (self.sign * self.disturb(self.problem.loss(self.module))).backward()

    @property
    def asks_closure(self) -> bool:
        """Whether the member's step needs one."""
        return bool(self.needs & OF_CLOSURES)

    def step(self, count: int = 1) -> Run:
        """Take some steps."""
        for _ in range(count):
            if self.asks_closure:
                self.optimizer.step(self.closure)
            else:
                self.backward()
                self.optimizer.step()
        return self


def optimizer_problems(kind: str = "training") -> list[OptimizerProblem]:
    """The problems of a kind.

    Raises:
        BadInput: for an unknown kind.

    Example:
        >>> [problem.name for problem in optimizer_problems()]
        ['regression', 'classifier', 'odd shapes']
    """
    known = sorted(path.stem for path in Path(__file__).parent.glob("[a-z]*.py"))
    if kind not in known:
        raise BadInput("kind", f"one of {', '.join(known)}", repr(kind))
    return importlib.import_module(f"{__name__}.{kind}").problems()


def like(data: Tensor, module: nn.Module) -> Tensor:
    """Data of a problem where its module is, and in its precision unless they count."""
    parameter = next(module.parameters())
    return data.to(parameter) if data.is_floating_point() else data.to(parameter.device)
