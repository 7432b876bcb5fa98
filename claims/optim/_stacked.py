"""Many copies of one network, each with rates of its own, trained at once by batched products."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap


class Copies:
    """Models of one architecture with their parameter groups, stepped together by AdamW or plain SGD.

    Each parameter is stacked over the copies; its rate and decay are read from the group that holds it, so that a run does what
    `torch.optim` would do with these groups.
    """

    def __init__(self, models: Sequence[nn.Module], groups: Sequence[list[dict[str, Any]]]) -> None:
        self.skeleton = copy.deepcopy(models[0]).to("meta")
        self.parameters: dict[str, Tensor] = stack_module_state(list(models))[0]
        self.rates, self.decays = {}, {}
        settings = [{p: g for g in run for p in g["params"]} for run in groups]
        for name, stacked in self.parameters.items():
            own = [held[model.get_parameter(name)] for held, model in zip(settings, models, strict=True)]
            shape = (len(models),) + (1,) * (stacked.ndim - 1)
            self.rates[name] = torch.tensor([group["lr"] for group in own]).reshape(shape)
            self.decays[name] = torch.tensor([group.get("weight_decay", 0.0) for group in own]).reshape(shape)

    def __call__(self, inputs: Tensor) -> Tensor:
        """Outputs of all copies on the same inputs, copies first."""

        def run(parameters: dict[str, Tensor]) -> Tensor:
            return functional_call(self.skeleton, parameters, (inputs,))

        return vmap(run, randomness="error")(self.parameters)

    def train(
        self,
        batches: Iterable[tuple[Tensor, Tensor]],
        loss: Callable[[Tensor, Tensor], Tensor],
        *,
        adam: bool = True,
        betas: tuple[float, float] = (0.9, 0.99),
    ) -> Tensor:
        """Train; losses of shape (copies, steps). A copy that diverged has losses that are not finite."""
        values = list(self.parameters.values())
        first = [torch.zeros_like(v) for v in values]
        second = [torch.zeros_like(v) for v in values]
        rates, decays = list(self.rates.values()), list(self.decays.values())
        losses = []
        for step, (inputs, targets) in enumerate(batches, 1):
            value = vmap(loss, in_dims=(0, None))(self(inputs), targets)
            losses.append(value.detach())
            gradients = torch.autograd.grad(value.sum(), values)
            with torch.no_grad():
                for p, g, m, v, rate, decay in zip(values, gradients, first, second, rates, decays, strict=True):
                    p.mul_(1 - rate * decay)
                    if adam:
                        m.lerp_(g, 1 - betas[0])
                        v.mul_(betas[1]).addcmul_(g, g, value=1 - betas[1])
                        root = (v / (1 - betas[1] ** step)).sqrt_().add_(1e-8)
                        g = m / root / (1 - betas[0] ** step)
                    p.sub_(rate * g)
        return torch.stack(losses, dim=1)


def best_place(losses: Tensor, seeds: int, tail: int) -> tuple[int, Tensor]:
    """Of losses (rates times seeds, steps): the place of the least mean over seeds and last steps, and these means."""
    means = losses[:, -tail:].mean(dim=1).reshape(-1, seeds).mean(dim=1)
    means = torch.where(means.isfinite(), means, torch.inf)
    return int(means.argmin()), means
