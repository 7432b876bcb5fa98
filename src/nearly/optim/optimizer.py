"""The base of every optimizer: a recipe of transforms, and what a step of it may ask of the training loop."""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, TypedDict, Unpack

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from nearly.core.errors import BadInput
from nearly.core.validate import check_parameter, describe
from nearly.optim._chunks import chunks
from nearly.optim._layers import LayerRecords
from nearly.optim._saved import restoring
from nearly.optim.step import Ask, Skipped, Step, Transform, all_finite
from nearly.optim.transforms.moments import Moments

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

# Jordan's reference for what Muon leaves to Adam (https://github.com/KellerJordan/Muon, SingleDeviceMuonWithAuxAdam).
REST = {"lr": 3e-4, "betas": (0.9, 0.95), "eps": 1e-10, "weight_decay": 0.0}
COMMON: dict[str, list[Any]] = {
    "lr": ["at least", 0, None],
    "weight_decay": ["at least", 0, None],
    "betas": ["pair", 0, 1],
    "eps": ["real", 0, None],
    "maximize": ["choice", True, False],
    "nonfinite": ["choice", "raise", "skip", "ignore"],
    "seed": ["integer", 0, 2**62],
    "rest": ["choice", True, False],
}


class Options(TypedDict, total=False):
    """What every optimizer takes beside its own parameters.

    Attributes:
        maximize: climb rather than descend.
        nonfinite: what a NaN or infinite gradient does, before anything has changed: "raise" an error that names the parameter,
            "skip" the step, or "ignore", which saves the one pass over the gradients and the wait for the device.
        seed: of what the member draws; draws depend on it and on the step's number alone, so that resumed runs repeat them.
        rest: settings of AdamW for parameters that the member does not take (vectors, where it takes matrices); a parameter group
            with `"rest": True` (embeddings, heads) is given to it as a whole.
        module: whose linear layers are recorded, for members that ask for them: inputs and gradients of outputs of all passes since
            the last step or `zero_grad`. Not with a `torch.amp.GradScaler`, whose scale these gradients keep.
        process_group: ranks that hold the same parameters (data parallelism), over which matrices are shared out. What members
            look at beside gradients (losses, Hessian products) is averaged over them, and so are the gradients of closures that
            do not call `backward`: each rank may see rows of its own.
    """

    maximize: bool
    nonfinite: str
    seed: int
    rest: Mapping[str, Any]
    module: nn.Module
    process_group: ProcessGroup


class Optimizer(torch.optim.Optimizer, ABC):
    """A `torch.optim.Optimizer` whose step is a chain of transforms, from gradients to the direction that is subtracted.

        p <- (1 - lr weight_decay) p - lr update

    A member has a literal `CARD` in its module (`name`, `rows`, `replaces`, `cost`, `needs`, `state`: bytes in float32 by the
    shape's monomials "mn", "m", "n", "mm", "nn", "1" for matrices and "n", "1" for vectors, `parameters`, `settings` for the
    reference problems, `skips`, and where it applies `largest`, the most numbers that it is made for), names its parameters in
    `__init__` and says in `recipe` which transforms they make. All parameters live in the parameter groups, where schedulers change
    them.

    `step(closure)` takes torch's closures, which call `backward`, and closures that only return the loss, which save a member the
    second pass where it needs more than the gradient; those that ask for curvature, and for values alone, take no others.

    Args:
        params: tensors, named tensors or parameter groups.
        defaults: the member's parameters by name, of which those on its card count; members hand over their `locals()`.
        options: see `Options`.

    Raises:
        BadInput: for parameters out of range, or tensors that are no real floating leaves; by name.
    """

    card: ClassVar[dict[str, Any]]
    joint: ClassVar[bool] = False  # the parameters are one vector, in one group

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        cls.card = getattr(sys.modules[cls.__module__], "CARD", None) or getattr(cls, "card", {})

    def __init__(self, params: Iterable[Any], defaults: Mapping[str, Any], **options: Unpack[Options]) -> None:
        if isinstance(params, Tensor | nn.Module):
            raise BadInput("params", "an iterable of tensors, such as module.parameters()", describe(params))
        for name in options:
            if name not in Options.__annotations__:
                raise BadInput(name, f"a parameter of {type(self).__name__}", "no such one")
        self.process_group = options.get("process_group")
        rest = options.get("rest", {})
        if not isinstance(rest, Mapping) or not rest.keys() <= REST.keys():
            raise BadInput("rest", f"a dictionary of {', '.join(REST)}", repr(rest))
        self._rest = {**REST, **rest}
        named = {name: value for name, value in defaults.items() if name in self.card["parameters"]}
        given = {**named, "maximize": options.get("maximize", False), "nonfinite": options.get("nonfinite", "raise")}
        given["seed"] = options.get("seed", 0)
        self._layers: LayerRecords | None = None
        listed = list(params)
        if not listed:
            raise BadInput("params", "at least one tensor", "none")
        super().__init__(listed, given)
        if "layers" in self.card.get("needs", ()):
            self._layers = LayerRecords(options.get("module"), self._tensors(), type(self).__name__)
            self._step_supports_amp_scaling = True  # so that a scaler tells of itself, before the step

    @abstractmethod
    def recipe(self, group: dict[str, Any]) -> Sequence[Transform]:
        """The transforms that turn a group's gradients into its update, with the group's parameters in them."""

    def takes(self, parameter: Tensor) -> bool:
        """Whether a parameter is the member's own; the others are stepped by AdamW (`rest`)."""
        return True

    def move(self, step: Step, updates: list[Tensor]) -> None:
        """Change the parameters by the updates."""
        rate, decay = step.group["lr"], step.group.get("weight_decay", 0.0)
        if decay:
            torch._foreach_mul_(step.parameters, 1 - rate * decay)
        torch._foreach_add_(step.parameters, updates, alpha=-rate)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add parameters, with parameters of their own where the group names any.

        Raises:
            BadInput: as at the start.
        """
        if not isinstance(param_group, dict) or "params" not in param_group:
            raise BadInput("params", "tensors, named tensors, or dictionaries with 'params'", describe(param_group))
        listed = param_group["params"]
        listed = [listed] if isinstance(listed, Tensor) else list(listed)
        held = {id(parameter) for parameter in self._tensors()}
        for i, entry in enumerate(listed):
            _require_parameter(entry, i)
            if id(_tensor(entry)) in held:  # which torch would find when a part of the group has been added
                raise BadInput(f"params[{i}]", "in no other parameter group", describe(_tensor(entry)))
        if not listed:
            raise BadInput("params", "at least one tensor", "none")
        if self.joint and self.param_groups:
            raise BadInput(
                "params", f"one group, as {type(self).__name__} steps all parameters as one vector", "a second group"
            )
        own = [entry for entry in listed if self.takes(_tensor(entry)) and not param_group.get("rest")]
        kept = {id(_tensor(entry)) for entry in own}
        others = [entry for entry in listed if id(_tensor(entry)) not in kept]
        given = {**self.defaults, **{name: value for name, value in param_group.items() if name != "params"}}
        _check(given, COMMON if given.get("rest") else {**COMMON, **self.card["parameters"]})
        # What a group that is AdamW's as a whole says of itself is meant for AdamW; what any other says, for the member.
        meant = {name: param_group[name] for name in REST if name in param_group} if param_group.get("rest") else {}
        rest = {**given, **self._rest, **meant, "rest": True}
        for part, settings in ((own, {**given, "rest": False}), (others, rest)):
            if part:
                if settings["rest"]:
                    _check(settings, COMMON)
                shapes = [tuple(_tensor(entry).shape) for entry in part]
                super().add_param_group({**settings, "params": part, "member": self.card["name"], "shapes": shapes})
        if self._layers is not None:
            self._layers.extend([_tensor(entry) for entry in own])

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients, and what layers recorded with them."""
        super().zero_grad(set_to_none)
        if self._layers is not None:
            self._layers.clear()

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step.

        Args:
            closure: evaluates the model and returns the loss; needed where the member's card says so. Gradients that were there
                before are forgotten.

        Returns:
            The loss, where there is a closure.

        Raises:
            BadInput: for what the member asks for and does not get; for a NaN or infinite gradient (by its name) or loss.
        """
        self._require_no_scale()
        ask = Ask(type(self).__name__, self._needs(), self._tensors(), closure, self._layers, self.process_group)
        try:
            ask.gradients(self._wants())
            steps = self._steps(ask)
            if self._finite(steps, ask):
                self._take_all(steps, graph="curvature" in ask.needs)
        except Skipped:
            pass
        finally:
            ask.finish()
        return ask.loss

    def _require_no_scale(self) -> None:
        """Refuse gradients from a `torch.amp.GradScaler` where layers are recorded.

        Raises:
            BadInput: naming what else would do.
        """
        if vars(self).pop("found_inf", None) is not None and self._layers is not None:
            self._layers.clear()
            requirement = f"none, as the gradients that {type(self).__name__} sees within the module keep its scale"
            raise BadInput("scaler", requirement, "a torch.amp.GradScaler", "Train in bfloat16, which needs none.")

    def _take_all(self, steps: list[Step], *, graph: bool) -> None:
        if graph and len(steps) > 1:
            # Before any parameter moves, which would spoil the graph of the others' products.
            updates = [self._directions(step) for step in steps]
            for step, update in zip(steps, updates, strict=True):
                self._move(step, update)
        else:
            for step in steps:
                self._take(step)
        for step in steps:
            step.finish()

    def _directions(self, step: Step) -> list[Tensor]:
        updates = step.gradients
        for transform in self._recipe(step.group):
            updates = transform(updates, step)
        return updates

    def _move(self, step: Step, updates: list[Tensor]) -> None:
        if step.group["rest"]:
            Optimizer.move(self, step, updates)
        else:
            self.move(step, updates)

    def _take(self, step: Step) -> None:
        recipe = self._recipe(step.group)
        plain = step.group["rest"] or type(self).move is Optimizer.move
        *first, last = recipe
        descend = last.descend if plain else None
        for part in chunks(step, recipe) if first or descend is None else [step]:
            updates = part.gradients
            for transform in first:
                updates = transform(updates, part)
            if descend is not None:
                descend(updates, part)
            else:
                self._move(part, last(updates, part))

    def state_dict(self) -> dict[str, Any]:
        """Torch's, with the parameters' dtypes, so that those of another precision can take it up."""
        for group in self.param_groups:
            group["dtypes"] = [str(parameter.dtype).removeprefix("torch.") for parameter in group["params"]]
        return super().state_dict()

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take up the state of an optimizer of the same member and parameters of the same shapes, on any device.

        Parameters may be in another precision, but not in half precision where the saved ones were in single or double.

        Raises:
            BadInput: for any other, before anything has changed.
        """
        if not isinstance(state_dict, Mapping):
            raise BadInput("state_dict", "what an optimizer's state_dict() returns", describe(state_dict))
        with restoring(self):
            super().load_state_dict(dict(state_dict))

    def close(self) -> None:
        """Remove the hooks from the module's layers, if the member had put any."""
        if self._layers is not None:
            self._layers.remove()

    def __getstate__(self) -> dict[str, Any]:
        torchs = ("_optimizer", "_zero_grad", "_warned")  # its hooks and marks, which it makes anew
        kept = {name: value for name, value in vars(self).items() if not name.startswith(torchs)}
        return {**kept, **super().__getstate__()}

    def _recipe(self, group: dict[str, Any]) -> Sequence[Transform]:
        if group["rest"]:
            return (Moments(group["betas"], group["eps"]),)
        return self.recipe(group)

    def _tensors(self) -> list[Tensor]:
        return [parameter for group in self.param_groups for parameter in group["params"]]

    def _needs(self) -> frozenset[str]:
        return frozenset(
            need for group in self.param_groups for transform in self._recipe(group) for need in transform.needs
        )

    def _wants(self) -> frozenset[str]:
        """What the coming step asks for, of what the recipe needs at some step."""
        return frozenset(
            need
            for group in self.param_groups
            for transform in self._recipe(group)
            for count in {self._count(parameter) for parameter in group["params"]}
            for need in transform.wants(1 + count)
        )

    def _count(self, parameter: Tensor) -> int:
        """Steps that a parameter has taken; looking does not make it a state."""
        return self.state[parameter].get("step", 0) if parameter in self.state else 0

    def _steps(self, ask: Ask) -> list[Step]:
        """The parameters that have gradients, by group, dtype, device and number of steps taken.

        Raises:
            BadInput: for a joint member, where they are of several kinds.
        """
        steps = []
        for place, group in enumerate(self.param_groups):
            alike: dict[Any, list[Tensor]] = {}
            for parameter in group["params"]:
                if not parameter.requires_grad or (parameter.grad is None and not ask.values_alone):
                    continue
                key = (parameter.dtype, parameter.device, self._count(parameter))
                alike.setdefault(key, []).append(parameter)
            if self.joint and len(alike) > 1:
                raise BadInput(
                    "params", "of one dtype and device, all with gradients at every step", f"{len(alike)} kinds"
                )
            if alike and self.card.get("state", {}).get("shared", {}).keys() & {"N", "NN"}:
                self._require_same_vector(group["params"], [one for part in alike.values() for one in part])
            for (_, _, count), parameters in alike.items():
                steps.append(Step(parameters, group, count + 1, self.state, ask, self.process_group, place))
        return steps

    def _require_same_vector(self, parameters: Sequence[Tensor], stepped: Sequence[Tensor]) -> None:
        """What is kept of all parameters as one vector is of those of all steps before.

        Raises:
            BadInput: otherwise.
        """
        now = {id(one) for one in stepped}
        missing = [one for one in parameters if self._count(one) and id(one) not in now]
        if missing:
            raise BadInput("params", "with gradients at every step, or at none", f"none for {self._name(missing[0])}")

    def _finite(self, steps: list[Step], ask: Ask) -> bool:
        """Whether the step can be taken.

        Raises:
            BadInput: where it cannot, and the group wants to know.
        """
        checked = [step for step in steps if step.group["nonfinite"] != "ignore"]
        for step in checked:
            # Where values alone are asked there are no gradients.
            if not all_finite(step.gradients):
                if step.group["nonfinite"] == "skip":
                    return False
                pairs = zip(step.parameters, step.gradients, strict=True)
                first = next(parameter for parameter, gradient in pairs if not all_finite([gradient]))
                raise BadInput(f"gradient of {self._name(first)}", "finite", "NaN or infinite entries")
        if checked and not ask.sound():
            if checked[0].group["nonfinite"] == "skip":
                return False
            raise BadInput("loss", "finite", ask.loss)
        return True

    def _name(self, parameter: Tensor) -> str:
        for place, group in enumerate(self.param_groups):
            for i, one in enumerate(group["params"]):
                if one is parameter:
                    names = group.get("param_names")
                    return str(names[i]) if names else f"parameter {i} of group {place}, shape {tuple(one.shape)}"
        return "a parameter"


def _check(settings: Mapping[str, Any], constraints: Mapping[str, list[Any]]) -> None:
    for name in constraints.keys() & settings.keys():
        check_parameter(name, settings[name], constraints[name])


def _tensor(entry: Any) -> Tensor:
    return entry[1] if isinstance(entry, tuple) else entry


def _require_parameter(entry: Any, place: int) -> None:
    named = isinstance(entry, tuple) and len(entry) == 2
    tensor, name = (entry[1], f"params[{entry[0]!r}]") if named else (entry, f"params[{place}]")
    if not isinstance(tensor, Tensor):
        raise BadInput(name, "a tensor", describe(tensor))
    if not tensor.is_floating_point():
        raise BadInput(name, "real and floating", describe(tensor))
    if not tensor.is_leaf:
        raise BadInput(name, "a leaf of the graph, not a result", describe(tensor))
    if is_lazy(tensor):
        raise BadInput(name, "initialized", "that of a lazy layer", "Call the module once on a batch.")
    if tensor.numel() == 0:
        raise BadInput(name, "non-empty", describe(tensor))
