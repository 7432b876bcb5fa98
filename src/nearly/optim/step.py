"""What a transform sees of a step, and what it may ask for beyond the gradient."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import torch
from torch import Tensor

from nearly.core.errors import BadInput
from nearly.optim._derivatives import CURVATURE, second_derivatives
from nearly.optim._matrices import gathered
from nearly.optim._ranks import average, groups_of

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

    from nearly.optim._layers import Layer, LayerRecords

CLOSURE = "def closure(): return loss_function(model(inputs), targets)\noptimizer.step(closure)"
NEEDS = {
    "loss": "the loss",
    "closure": "further evaluations of loss and gradient",
    "curvature": CURVATURE,
    "layers": "inputs and output gradients of linear layers",
    "values": "values of the loss alone",
    "trials": "values of the loss at other points, beside its gradient",
    "auxiliary": "a second loss",
}
WITHOUT_BACKWARD = frozenset({"curvature", "values", "trials"})  # closures for these only return the loss
OF_CLOSURES = frozenset(NEEDS) - {"layers"}
SHARED = "shared"  # name of the state that belongs to no single parameter


class Transform(Protocol):
    """One part of an optimizer: turns updates into updates, one for each parameter of a group.

    It is a frozen dataclass of its settings, made anew from the parameter group at every step. It never writes into the updates
    that it is given (the first are the gradients, others may be state).

    Attributes:
        needs: what it asks for beyond the gradient, of `NEEDS`.
        separate: whether each result depends on its own parameter's update, value and state alone.
        elementwise: whether each number of a result depends on that entry of updates, parameters and state alone.
        descend: where one kernel transforms the updates and moves the parameters by them: takes both in place of a call.
    """

    needs: ClassVar[tuple[str, ...]] = ()
    separate: ClassVar[bool] = False
    elementwise: ClassVar[bool] = False
    descend: ClassVar[Callable[..., None] | None] = None

    def __call__(self, updates: list[Tensor], step: Step) -> list[Tensor]:
        """The updates, transformed."""
        ...

    def wants(self, number: int) -> tuple[str, ...]:
        """What it asks for at the step of this number, the first being 1."""
        return self.needs


class Skipped(Exception):
    """Nothing has changed, and nothing shall."""


class Ask:
    """What one call of `step` gets from the training loop: the loss, gradients, and all that a closure can give.

    Attributes:
        loss: as the closure gave it; None without one.
        values_alone: whether there are no gradients.
    """

    def __init__(
        self,
        member: str,
        needs: frozenset[str],
        parameters: Sequence[Tensor],
        closure: Callable[[], Any] | None,
        layers: LayerRecords | None,
        process_group: ProcessGroup | None = None,
    ) -> None:
        self.member, self.needs, self.parameters = member, needs, list(parameters)
        self.closure, self.records = closure, layers
        self._groups = groups_of(self.parameters[0], process_group)
        self.loss: Any = None
        self.values_alone = "values" in needs
        self._slopes: dict[int, Tensor | None] | None = None  # by the parameter's id

    def gradients(self, wants: frozenset[str]) -> None:
        """Evaluate the closure, if there is one, so that all parameters that matter have their gradient in `.grad`.

        Raises:
            BadInput: where there is none, and the member asks for what it gives.
        """
        asked = self.needs & OF_CLOSURES
        if self.closure is None:
            if asked:
                what = " and ".join(NEEDS[need] for need in sorted(asked))
                raise BadInput("closure", f"given, as {self.member} asks for {what}", None, f"Write\n{CLOSURE}")
            return
        if self.records is not None:
            self.records.clear()
        if self.values_alone:
            if self._sharded():
                raise BadInput("params", f"whole, as {self.member} moves single entries", "sharded parameters")
            self.loss = self.value()
        else:
            self.loss = self.evaluate(graph="curvature" in wants)
            if self.records is not None and "closure" in self.needs:
                self.records.require_pass()

    def value(self) -> Tensor:
        """The loss at the parameters as they are, without its gradient.

        Raises:
            BadInput: for a closure that calls `backward`.
            RuntimeError: whatever else it raises.
        """
        with torch.no_grad():
            try:
                return self._seen(self._scalar(self._called()))
            except RuntimeError as error:
                if "does not require grad" in str(error):
                    raise BadInput(
                        "closure", "one that does not call backward()", "one that does", f"Write\n{CLOSURE}"
                    ) from error
                raise

    def evaluate(self, *, graph: bool = False, alone: bool = False) -> Tensor:
        """The loss at the parameters as they are; its gradients come into `.grad`. With `graph`, `products` may follow.

        Both are means over the ranks, unless this one is `alone` in asking.

        Raises:
            BadInput: for a closure that calls `backward` where the graph is needed, or whose loss has none.
        """
        for parameter in self.parameters:
            parameter.grad = None
        with torch.enable_grad():
            loss = self._scalar(self._called())
            called_backward = any(parameter.grad is not None for parameter in self.parameters)
            if called_backward and graph:
                requirement = f"one that does not call backward(), as {self.member} asks for {CURVATURE}"
                raise BadInput("closure", requirement, "one that does", f"Write\n{CLOSURE}")
            self._slopes = None
            if not called_backward:
                if self._sharded():
                    # Sharded modules sum gradients over ranks in backward() alone.
                    odd = f", which {self.member} cannot do" if graph else ""
                    requirement = f"one that calls backward(){odd} with sharded parameters"
                    raise BadInput("closure", requirement, "one that does not")
                if not loss.requires_grad:
                    raise BadInput("closure", "one whose loss depends on the parameters", "a loss without a graph")
                self._differentiate(loss, graph=graph, alone=alone)
        return loss.detach() if alone else self._seen(loss.detach())

    def _differentiate(self, loss: Tensor, *, graph: bool, alone: bool) -> None:
        trained = [parameter for parameter in self.parameters if parameter.requires_grad]
        if graph:
            with second_derivatives(self.member):
                slopes = torch.autograd.grad(loss, trained, allow_unused=True, create_graph=True)
            for parameter, slope in zip(trained, slopes, strict=True):
                parameter.grad = None if slope is None else slope.detach()
            self._slopes = dict(zip(map(id, trained), slopes, strict=True))
        else:
            loss.backward(inputs=trained)  # whose hooks, as those of data parallelism, are then called
        if not alone:
            for parameter in trained:
                if parameter.grad is not None:
                    (parameter.grad,) = self.averaged([parameter.grad])

    def averaged(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Their means over the ranks, each of which has its own rows."""
        found = [tensor.clone() for tensor in tensors] if self._groups else list(tensors)
        average(found, self._groups)
        return found

    def _seen(self, loss: Tensor) -> Tensor:
        """The loss of all ranks' rows, for members that look at it."""
        return self.averaged([loss])[0] if self.needs & OF_CLOSURES - {"curvature"} else loss

    def products(self, vectors: Sequence[Tensor], parameters: Sequence[Tensor]) -> list[Tensor]:
        """`H v`, v having these parts for these parameters, and zero for others.

        Raises:
            BadInput: without a graph.
        """
        if self._slopes is None:
            requirement = f"given, as {self.member} asks for {CURVATURE}"
            raise BadInput("closure", requirement, None, f"Write\n{CLOSURE}")
        pairs = [(self._slopes[id(parameter)], vector) for parameter, vector in zip(parameters, vectors, strict=True)]
        # Parts of one long vector begin anywhere in memory; derivatives of complex views ask for even places.
        live = [
            (slope, vector.clone() if vector.storage_offset() % 2 else vector)
            for slope, vector in pairs
            if slope is not None and slope.requires_grad
        ]
        if not live:
            return [torch.zeros_like(parameter) for parameter in parameters]
        flags: dict[str, Any] = {"retain_graph": True, "allow_unused": True, "materialize_grads": True}
        with torch.enable_grad(), second_derivatives(self.member):
            slopes, ours = zip(*live, strict=True)
            return self.averaged(torch.autograd.grad(slopes, parameters, ours, **flags))

    def layers(self) -> list[Layer]:
        """The linear layers with what the last backward pass brought them."""
        assert self.records is not None  # members that need layers have records
        return self.records.layers()

    def sound(self) -> bool:
        """Whether the loss is finite, where a member looks at it."""
        looks = self.needs & {"loss", "closure", "values"}
        return not looks or bool(torch.isfinite(torch.as_tensor(self.loss)).all())

    def finish(self) -> None:
        """Let go of the graph, and of what layers recorded."""
        self._slopes = None
        if self.records is not None:
            self.records.clear()

    def _sharded(self) -> bool:
        return any(hasattr(parameter, "full_tensor") for parameter in self.parameters)

    def _called(self) -> Any:
        assert self.closure is not None
        return self.closure()

    def _scalar(self, loss: Any) -> Tensor:
        if isinstance(loss, float | int):
            return torch.tensor(float(loss))
        if not isinstance(loss, Tensor) or loss.numel() != 1:
            requirement = f"one that returns the loss, a scalar, as {self.member} asks for it"
            raise BadInput("closure", requirement, repr(loss), f"Write\n{CLOSURE}")
        return loss.reshape(())


class Step:
    """One step of the parameters of a group that are alike in dtype, device and number of steps taken.

    Attributes:
        parameters: that have gradients (all of them, where values alone are asked).
        group: their parameter group, with the member's parameters.
        number: of this step, 1 for the first.
        gradients: negated where the group maximizes; never to be written into.
        process_group: ranks over which matrices are shared out, or None.
    """

    def __init__(
        self,
        parameters: list[Tensor],
        group: dict[str, Any],
        number: int,
        states: dict[Any, dict[str, Any]],
        ask: Ask,
        process_group: ProcessGroup | None,
        place: int,
    ) -> None:
        self.parameters, self.group, self.number = parameters, group, number
        self.process_group = process_group
        self._states, self._ask, self._place = states, ask, place
        self.gradients = self._oriented()

    @property
    def loss(self) -> Tensor:
        """The loss at the parameters before the step."""
        return -self._ask.loss if self.group["maximize"] else self._ask.loss

    def state(self, name: str, make: Callable[[Tensor], Any] = torch.zeros_like) -> list[Any]:
        """The tensors (or numbers) of this name that are kept from step to step, one per parameter; at first `make(parameter)`."""
        found = []
        for parameter in self.parameters:
            kept = self._states[parameter]
            if name not in kept:
                kept[name] = make(parameter)
            found.append(kept[name])
        return found

    def keep(self, name: str, values: Sequence[Any]) -> None:
        """Put other tensors or numbers in the place of the kept ones."""
        for parameter, value in zip(self.parameters, values, strict=True):
            self._states[parameter][name] = value

    @property
    def shared(self) -> dict[str, Any]:
        """What is kept for the group as a whole, by name: tensors and numbers."""
        # Beside the first parameter's own: distributed checkpoints know no state but that of parameters.
        return self._states[self.group["params"][0]].setdefault(SHARED, {})

    def subset(self, places: Sequence[int]) -> Step:
        """The same step of some of the parameters."""
        part = copy.copy(self)
        part.parameters = [self.parameters[i] for i in places]
        part.gradients = [self.gradients[i] for i in places] if self.gradients else []
        return part

    def evaluate(self, *, graph: bool = False, alone: bool = False) -> tuple[Tensor, list[Tensor]]:
        """Loss and gradients at the parameters as they now are, as transforms have moved them; means over the ranks.

        This rank is `alone` where others ask at other points, or not at all.
        """
        loss = self._ask.evaluate(graph=graph, alone=alone)
        return (-loss if self.group["maximize"] else loss), self._oriented()

    def value(self) -> Tensor:
        """The loss alone, at the parameters as they now are.

        Raises:
            BadInput: where it is not finite, and the group wants to know.
            Skipped: where the group wants to skip the step.
        """
        loss = self._ask.value()
        self._require_finite("loss", [loss], "finite at all points that the step looks at")
        return -loss if self.group["maximize"] else loss

    def averaged(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Means over the ranks of what each has found for its own rows."""
        return self._ask.averaged(tensors)

    def product(self, vectors: Sequence[Tensor], *, check: bool = True) -> list[Tensor]:
        """The Hessian's product with a vector that has these parts; without `check`, `require_curvature` follows on all of them.

        Raises:
            BadInput: where it is not finite, and the group wants to know.
            Skipped: where the group wants to skip the step.
        """
        found = self._ask.products(vectors, self.parameters)
        if check:
            self.require_curvature(found)
        return list(torch._foreach_neg(found)) if self.group["maximize"] else found

    def require_curvature(self, found: Sequence[Tensor]) -> None:
        """Products are finite.

        Raises:
            BadInput: otherwise, where the group wants to know.
            Skipped: where the group wants to skip the step.
        """
        self._require_finite("loss", found, "one with finite second derivatives")

    def _require_finite(self, name: str, values: Sequence[Tensor], requirement: str) -> None:
        if self.group["nonfinite"] == "ignore" or all_finite(values):
            return
        if self.group["nonfinite"] == "skip":
            raise Skipped
        raise BadInput(name, requirement, "NaN or infinite entries")

    def layers(self) -> list[Layer]:
        """The module's linear layers with their inputs and output gradients."""
        return self._ask.layers()

    def generator(self) -> torch.Generator:
        """Random numbers that depend on the seed, the group and this step's number alone."""
        seed = (self.group["seed"] * 1_000_003 + self._place) * 1_000_003 + self.number
        return torch.Generator().manual_seed(seed % 2**63)

    def finish(self) -> None:
        """Count the step."""
        for parameter in self.parameters:
            self._states[parameter]["step"] = self.number

    def _oriented(self) -> list[Tensor]:
        if self._ask.values_alone:
            return []
        found = [torch.zeros_like(p) if p.grad is None else p.grad for p in self.parameters]
        for i, (parameter, gradient) in enumerate(zip(self.parameters, found, strict=True)):
            if gradient.dtype != parameter.dtype:  # as `grad_dtype` may ask
                found[i] = gradient.to(parameter.dtype)
            if gradient.is_sparse:
                raise BadInput("gradient", "dense", f"a sparse one, for a parameter of shape {tuple(parameter.shape)}")
        return list(torch._foreach_neg(found)) if self.group["maximize"] else found


def all_finite(tensors: Sequence[Tensor]) -> bool:
    """Whether no entry of tensors of one dtype and device is NaN or infinite; of distributed ones on any rank."""
    if not tensors:
        return True
    # Of all reductions a sum comes nearest to the bandwidth, on every device and any number of threads; it may also overflow.
    sums = torch.stack([gathered(tensor.sum()) for tensor in tensors])
    return bool(torch.isfinite(sums.sum())) or all(bool(gathered(torch.isfinite(one).all())) for one in tensors)


def norms(tensors: Sequence[Tensor]) -> Tensor:
    """The 2-norms of the tensors' entries, in one tensor; of distributed ones over all ranks."""
    return torch.stack([gathered(norm) for norm in torch._foreach_norm(list(tensors))])


def times(tensors: Sequence[Tensor], factors: Tensor) -> list[Tensor]:
    """Each tensor times its factor, in its dtype."""
    return list(torch._foreach_mul(list(tensors), list(factors.to(tensors[0].dtype).unbind())))


def root_mean_squares(tensors: Sequence[Tensor]) -> Tensor:
    """The root mean squares of the tensors' entries, in one tensor; of distributed ones over all ranks."""
    found = norms(tensors)
    roots = [tensor.numel() ** -0.5 for tensor in tensors]
    return found * torch.tensor(roots, dtype=found.dtype, device=found.device)
