"""Jets: numbers that carry their Taylor coefficients along many directions through functions made of torch's."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from nearly.calculus.jets._series import Frame, Series
from nearly.core.errors import BadInput
from nearly.core.validate import as_floating, describe, require_int

if TYPE_CHECKING:
    from jaxtyping import Num


def _apply(name: str, *args: Any, **kwargs: Any) -> Any:
    from nearly.calculus.jets._rules import apply  # which makes jets

    return apply(name.strip("_") if name.startswith("__") else name, args, kwargs)


def _operator(name: str, swapped: bool = False) -> Callable[..., Any]:
    def operate(*operands: Any) -> Any:
        return _apply(name, *(reversed(operands) if swapped else operands))

    return operate


def _in_place(name: str) -> Callable[[Jet, Any], Jet]:
    def operate(jet: Jet, other: Any) -> Jet:
        return jet.become(_apply(name, jet, other))

    return operate


class Jet:
    r"""A tensor along curves: its value and the Taylor coefficients of $t \mapsto x_0 + t x_1 + \dots + t^K x_K$.

    Torch's functions and modules take it in place of a tensor, and give the jet of their output: derivatives of every order up to K
    along every curve, by one pass instead of K nested differentiations, whose cost grows like $2^K$. Linear maps are one call for
    all orders and curves. Python around it is as it is: closures, loops, containers of jets, branches on a comparison (of the
    values). A function without a rule raises `BadInput` that names it. Gradients flow through all coefficients.

    The transform takes the composition of functions to the composition of transforms, also in languages with closures and variants
    (Huot, Staton, Vakar 2022, "Higher Order Automatic Differentiation of Higher Order Functions", arXiv:2101.06757); rules are as
    in Griewank and Walther 2008, "Evaluating Derivatives", chapter 13. Departures: (1) one real variable t, many curves at once;
    (2) at a kink the derivative is torch's, beyond the first it is zero; (3) what works in place changes the jet it is given, not
    those of which it was a view; (4) of a `torch.autograd.Function` the forward pass is followed, its backward pass is not asked.

    Made by `line` and `curve`.

    Attributes:
        frame: the order, the number of curves, and the weights of `line`.

    Example:
        >>> x = line(torch.tensor([0.0, 1.0]), torch.ones(1, 2), order=3)
        >>> torch.exp(x).derivative(3)[0].tolist() == torch.exp(x).value.tolist()
        True
    """

    __slots__ = ("_parts", "_stack", "frame")

    def __init__(self, frame: Frame, parts: Series) -> None:
        self.frame, self._parts = frame, parts
        self._stack: Tensor | None = None

    @classmethod
    def from_stack(cls, frame: Frame, stack: Tensor, degree: int) -> Jet:
        """Of coefficients one above the other, as `stack` gives them; for those who write rules."""
        jet = cls(frame, list(stack.split([frame.rows(k) for k in range(degree + 1)])))
        jet._stack = stack
        return jet

    @property
    def parts(self) -> Series:
        """Coefficients of orders 0, 1, ..., each with a leading dimension (1, then curves); those left out are zero."""
        return self._parts

    @property
    def stack(self) -> Tensor:
        """The same in one tensor."""
        if self._stack is None:
            self._stack = torch.cat(self._parts)
            self._parts = list(self._stack.split([len(part) for part in self._parts]))
        return self._stack

    @property
    def degree(self) -> int:
        """The highest order whose coefficient is kept; those beyond it are zero."""
        return len(self._parts) - 1

    @property
    def value(self) -> Tensor:
        """The coefficient of order zero, which all curves share."""
        return self._parts[0][0]

    def coefficient(self, k: int) -> Num[Tensor, directions * shape]:
        """The Taylor coefficient of order k along every curve; of the last order under weights, their weighted sum (one row).

        Raises:
            BadInput: for an order beyond the jet's.
        """
        require_int("k", k, least=0, most=self.frame.order)
        if k > self.degree:
            return self.value.new_zeros(self.frame.rows(k), *self.shape)
        return self._parts[k]

    def derivative(self, k: int) -> Num[Tensor, directions * shape]:
        """The derivative of order k by t along every curve, k! times the coefficient.

        Raises:
            BadInput: for an order beyond the jet's.
        """
        return math.factorial(require_int("k", k, least=0)) * self.coefficient(k)

    shape = property(lambda self: self._parts[0].shape[1:])
    ndim = property(lambda self: self._parts[0].ndim - 1)
    dtype = property(lambda self: self._parts[0].dtype)
    device = property(lambda self: self._parts[0].device)
    requires_grad = property(lambda self: any(part.requires_grad for part in self._parts))

    def size(self, dim: int | None = None) -> Any:
        """As a tensor's."""
        return self.shape if dim is None else self.shape[dim]

    def dim(self) -> int:
        """As a tensor's."""
        return self.ndim

    def numel(self) -> int:
        """As a tensor's."""
        return math.prod(self.shape)

    __add__, __radd__ = _operator("add"), _operator("add", swapped=True)
    __sub__, __rsub__ = _operator("sub"), _operator("sub", swapped=True)
    __mul__, __rmul__ = _operator("mul"), _operator("mul", swapped=True)
    __truediv__, __rtruediv__ = _operator("truediv"), _operator("truediv", swapped=True)
    __pow__, __rpow__ = _operator("pow"), _operator("pow", swapped=True)
    __matmul__, __rmatmul__ = _operator("matmul"), _operator("matmul", swapped=True)
    __iadd__, __isub__, __imul__ = _in_place("add"), _in_place("sub"), _in_place("mul")
    __itruediv__, __ipow__ = _in_place("truediv"), _in_place("pow")
    __neg__, __abs__, __getitem__ = _operator("neg"), _operator("abs"), _operator("getitem")
    __lt__, __le__, __gt__, __ge__ = _operator("lt"), _operator("le"), _operator("gt"), _operator("ge")
    __eq__, __ne__ = _operator("eq"), _operator("ne")
    __mod__, __floordiv__, __setitem__ = _operator("remainder"), _operator("floor_divide"), _operator("setitem")
    __hash__ = object.__hash__
    __array_ufunc__ = None  # NumPy would multiply each of its numbers with the jet, and make an array of jets

    def become(self, other: Jet) -> Jet:
        """Take the coefficients of a jet of the same shape: what functions that work in place do.

        Raises:
            BadInput: for another shape.
        """
        if other.shape != self.shape:
            raise BadInput("function", f"one that keeps the shape {tuple(self.shape)} in place", tuple(other.shape))
        self._parts, self._stack = other._parts, other._stack
        return self

    def __bool__(self) -> bool:
        return bool(self.value)

    def __len__(self) -> int:
        return self.shape[0]

    def __iter__(self) -> Iterator[Jet]:
        return (self[i] for i in range(len(self)))

    def __repr__(self) -> str:
        return f"Jet(order={self.frame.order}, directions={self.frame.directions}, value={self.value})"

    def __getattr__(self, name: str) -> Any:
        # Methods and attributes of tensors that are not above: the function of that name, applied.
        member = getattr(torch.Tensor, name) if not name.startswith("_") else None
        if member is None:
            raise AttributeError(name)
        if callable(member):
            return functools.partial(_apply, name, self)
        return _apply(name, self)

    @classmethod
    def __torch_function__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _apply(function.__name__, *args, **(kwargs or {}))


def line(
    point: Num[Tensor, "*shape"],
    directions: Num[Tensor, "directions *#shape"],
    *,
    order: int,
    weights: Num[Tensor, " directions"] | None = None,
) -> Jet:
    r"""The jets of $t \mapsto x + t v$ for many v: of f at them, derivative k is $D^k f(x)[v, \dots, v]$.

    Args:
        point: x.
        directions: the v, each of a shape that broadcasts with x's.
        order: of the highest derivative.
        weights: sum the highest derivative over the directions with these weights, which takes less time and memory than to sum
            afterwards.

    Returns:
        The jet.

    Raises:
        BadInput: for shapes or dtypes that do not fit, entries that are not finite, an order below one.

    Example:
        >>> x = line(torch.tensor(2.0), torch.tensor([1.0, 3.0]), order=2)
        >>> (x ** 3).derivative(2).tolist()
        [12.0, 108.0]
    """
    x = _as_point(point)
    v = as_floating("directions", directions, least_dimensions=1, complex_too=True)
    require_int("order", order, least=1)
    if v.dtype != x.dtype:
        raise BadInput("directions", f"of dtype {x.dtype}, as the point", describe(v))
    _require_shape("directions", v, x)
    if weights is not None:
        weights = as_floating("weights", weights, dimensions=1)
        if len(weights) != len(v):
            raise BadInput("weights", f"{len(v)} numbers, one per direction", describe(weights))
    frame = Frame(order, len(v), weights)
    first = v.reshape(len(v), *[1] * (x.ndim - v.ndim), *v.shape[1:]).expand(-1, *x.shape[1:])
    if order == 1 and weights is not None:
        first = frame.summed(first)
    return Jet(frame, [x, first])


def curve(point: Num[Tensor, "*shape"], coefficients: Num[Tensor, "order directions *shape"]) -> Jet:
    r"""The jets of $t \mapsto x + t c_1 + \dots + t^K c_K$ for many curves through one point.

    Args:
        point: x.
        coefficients: Taylor coefficients (not derivatives) of orders 1 to K, of every curve.

    Returns:
        The jet.

    Raises:
        BadInput: for shapes or dtypes that do not fit, or entries that are not finite.

    Example:
        >>> x = curve(torch.tensor(0.0), torch.tensor([[1.0], [0.5]]))
        >>> torch.exp(x).coefficient(2).tolist()  # exp(t + t^2 / 2) = 1 + t + t^2 + ...
        [1.0]
    """
    x = _as_point(point)
    c = as_floating("coefficients", coefficients, least_dimensions=2, complex_too=True)
    if c.dtype != x.dtype:
        raise BadInput("coefficients", f"of dtype {x.dtype}, as the point", describe(c))
    if c.shape[2:] != x.shape[1:]:
        raise BadInput("coefficients", f"of shape (order, directions, *{tuple(x.shape[1:])})", describe(c))
    return Jet(Frame(len(c), c.shape[1]), [x, *c.unbind()])


def _as_point(point: Any) -> Tensor:
    if isinstance(point, Jet):
        raise BadInput("point", "a tensor, as jets are not nested", "a jet", "Take one jet of higher order.")
    return as_floating("point", torch.as_tensor(point)[None], complex_too=True)


def _require_shape(name: str, given: Tensor, point: Tensor) -> None:
    try:
        fits = torch.broadcast_shapes(given.shape[1:], point.shape[1:]) == point.shape[1:]
    except RuntimeError:
        fits = False
    if not fits:
        raise BadInput(
            name, f"of shape (directions, ...) that broadcasts with {tuple(point.shape[1:])}", describe(given)
        )


def derivatives(
    function: Callable[[Any], Any],
    point: Num[Tensor, "*shape"],
    directions: Num[Tensor, "directions *#shape"],
    *,
    order: int,
) -> Num[Tensor, "orders directions *out"]:
    r"""All of $f(x), Df(x)[v], \dots, D^K f(x)[v, \dots, v]$ for many directions v, by one evaluation on jets.

    Replaces K nested differentiations. Differentiable for x, v and all that the function contains.

    Args:
        function: made of torch's functions and modules; of one tensor, to one tensor.
        point: x.
        directions: the v, each of a shape that broadcasts with x's.
        order: K.

    Returns:
        Derivatives of order 0 to K, along the first dimension.

    Raises:
        BadInput: as `line` does, or for a function of torch without a rule.

    Example:
        >>> derivatives(torch.exp, torch.tensor(0.0), torch.tensor([2.0]), order=3)[:, 0].tolist()
        [1.0, 2.0, 4.0, 8.0]
    """
    image = function(line(point, directions, order=order))
    if isinstance(image, Tensor):
        rest = image.new_zeros(order, len(directions), *image.shape)
        return torch.cat([image.expand(1, len(directions), *image.shape), rest])
    if not isinstance(image, Jet):
        raise BadInput("function", "one that returns one tensor", type(image).__name__)
    return torch.stack([image.derivative(k).expand(len(directions), *image.shape) for k in range(order + 1)])
