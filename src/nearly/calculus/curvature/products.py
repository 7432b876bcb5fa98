"""Matrix-free products with second derivatives of a loss: Hessian, generalized Gauss-Newton and Fisher matrices."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from nearly.calculus._evaluations import require_curvature, require_twice, takes_batches
from nearly.calculus.curvature._linearize import (
    Columns,
    batch_weights,
    checked_batches,
    checked_parameters,
    flatten,
    pull,
    recorded,
    symmetric_operator,
    unflatten,
)
from nearly.core.errors import BadInput
from nearly.core.validate import describe, generator_from, require_int

if TYPE_CHECKING:
    from nearly.linalg.operator import Operator

Curve = Callable[[Tensor], Tensor]  # a symmetric map of output perturbations, k at once: (k, *outputs) to itself


def hessian(
    loss: Callable[..., Tensor],
    parameters: Iterable[Tensor],
    batches: Iterable[Any] = ((),),
    *,
    reduction: str = "mean",
    keep_graph: bool = False,
) -> Operator:
    r"""The Hessian of a loss, which is never formed: `H v = d/dp (g(p) . v)`, g the gradient (reverse mode, twice).

    `operator @ v` takes d-vectors side by side, shape (d, k) or (d,), d numbers of all parameters together in their order; the
    gradient's graph is recorded once per mini-batch and product, for all k, so that a product costs some two gradients a vector
    and the memory of one graph. Solvers of `nearly.linalg` and the estimators of this package take the operator as it is.

    Source: Pearlmutter 1994, Fast exact multiplication by the Hessian, doi:10.1162/neco.1994.6.1.147, by reverse mode throughout:
    measured faster here than forward over reverse.

    Args:
        loss: called with a mini-batch's tensors, gives a scalar that depends on the parameters. What it draws from torch's global
            state (dropout) is the same in all products, and that state is put back.
        parameters: tensors that require gradients, such as `module.parameters()`.
        batches: tuples of arguments of the loss, one per mini-batch; by default it has none.
        reduction: "mean", where the loss is a mean over rows, so that mini-batches count by theirs; or "sum".
        keep_graph: hold the recorded graphs instead of recording them at every product: at one vector a product takes about half
            the time, and the memory of all mini-batches at once. The parameters must not be changed meanwhile.

    Returns:
        A symmetric operator, in the parameters' dtype and on their device.

    Raises:
        BadInput: for arguments that are not as above; of a product, for vectors of another length, and a loss made of a function
            that is differentiable once.

    Example:
        >>> x = torch.tensor([1.0, 2.0], requires_grad=True)
        >>> (hessian(lambda: (x[0] * x[1] ** 2), [x]) @ torch.eye(2)).tolist()
        [[0.0, 4.0], [4.0, 2.0]]
    """
    tensors, chunks = checked_parameters(parameters), checked_batches(batches)

    def record(*batch: Any) -> Columns:
        value = _scalar("loss", loss(*batch))
        if not value.requires_grad:
            raise BadInput("loss", "one that depends on the parameters", describe(value))
        require_curvature("loss", [value])
        slopes = recorded("loss", "that depends", value, tensors)
        together = takes_batches([value])
        return lambda parts: pull(slopes, tensors, parts, together=together)

    return symmetric_operator(record, tensors, chunks, batch_weights(chunks, reduction), keep_graph)


def gauss_newton(
    model: Callable[[Any], Tensor],
    loss: Callable[..., Tensor],
    parameters: Iterable[Tensor],
    batches: Iterable[Any],
    *,
    reduction: str = "mean",
    keep_graph: bool = False,
) -> Operator:
    r"""The generalized Gauss-Newton matrix `J' H_l J`: J the model's Jacobian, H_l the loss's Hessian for the outputs.

    It replaces the Hessian where a positive semidefinite matrix is wanted: H_l is one where the loss is convex in the outputs.

    Source: Schraudolph 2002, Fast curvature matrix-vector products for second-order gradient descent,
    doi:10.1162/08997660260028683; J v by two reverse modes, `d/du (J'u . v)`.

    Args:
        model: gives outputs for a mini-batch's first entry; draws as the loss of `hessian` does.
        loss: called with outputs and the rest of the mini-batch, gives a scalar.
        parameters: as for `hessian`.
        batches: tuples (inputs, *targets).
        reduction: as for `hessian`.
        keep_graph: as for `hessian`.

    Returns:
        A symmetric operator.

    Raises:
        BadInput: as `hessian` does.

    Example:
        >>> w = torch.tensor([3.0], requires_grad=True)
        >>> rows = [(torch.tensor([[2.0]]), torch.tensor([1.0]))]
        >>> (gauss_newton(lambda x: x @ w, lambda y, t: ((y - t) ** 2).mean(), [w], rows) @ torch.ones(1)).tolist()
        [8.0]
    """

    def curve(outputs: Tensor, *targets: Any) -> Curve:
        value = _scalar("loss", loss(outputs, *targets))
        if not value.requires_grad:
            raise BadInput("loss", "one that depends on the outputs", describe(value))
        require_twice("loss", [value])
        (slope,) = torch.autograd.grad(value, outputs, create_graph=True)
        together = takes_batches([value])
        return lambda directions: pull([slope], [outputs], [directions], together=together)[0]

    tensors, chunks = checked_parameters(parameters), checked_batches(batches)
    weights = batch_weights(chunks, reduction)
    return symmetric_operator(_between(model, tensors, curve), tensors, chunks, weights, keep_graph)


def fisher(
    model: Callable[[Any], Tensor],
    parameters: Iterable[Tensor],
    batches: Iterable[Any],
    *,
    likelihood: str = "categorical",
    kind: str = "exact",
    samples: int = 1,
    seed: int | torch.Generator = 0,
    reduction: str = "mean",
    keep_graph: bool = False,
) -> Operator:
    r"""The Fisher matrix `sum_n J_n' S_n J_n` of a model whose outputs are logits, or means of unit variance.

    `S_n` is the Fisher matrix of the likelihood for the outputs of row n: `diag p - p p'` or the identity if exact; the mean of
    `s s'` over scores s at drawn targets if sampled, an unbiased estimate; and `s s'` at the given targets if empirical (which is
    no estimate of the Fisher matrix away from a good fit).

    Source: Martens 2020, New insights and perspectives on the natural gradient method, arXiv 1412.1193; Kunstner, Balles and
    Hennig 2019, Limitations of the empirical Fisher approximation, arXiv 1905.12558.

    Args:
        model: gives outputs of shape (rows, outputs) for a mini-batch's first entry; draws as the loss of `hessian` does.
        parameters: as for `hessian`.
        batches: tuples (inputs,) or (inputs, targets); targets are classes, or values like the outputs.
        likelihood: "categorical" or "gaussian".
        kind: "exact", "sampled" or "empirical".
        samples: targets that are drawn for each row, if sampled.
        seed: of the draws; all products of an operator see the same ones.
        reduction: "mean" or "sum" over rows.
        keep_graph: as for `hessian`.

    Returns:
        A symmetric positive semidefinite operator.

    Raises:
        BadInput: for arguments that are not as above.

    Example:
        >>> w = torch.zeros(1, 2, requires_grad=True)
        >>> (fisher(lambda x: x @ w, [w], [(torch.tensor([[2.0]]),)]) @ torch.eye(2)).tolist()
        [[1.0, -1.0], [-1.0, 1.0]]
    """
    for name, value, allowed in (
        ("likelihood", likelihood, ("categorical", "gaussian")),
        ("kind", kind, ("exact", "sampled", "empirical")),
    ):
        if value not in allowed:
            raise BadInput(name, f"one of {', '.join(allowed)}", value)
    require_int("samples", samples, least=1)
    tensors, chunks = checked_parameters(parameters), checked_batches(batches)
    if kind == "empirical" and not all(len(batch) == 2 for batch in chunks):
        raise BadInput(
            "batches", "tuples (inputs, targets), for the empirical Fisher matrix", f"{len(chunks[0])} entries"
        )
    # Drawn once and for all: uniform or normal numbers per mini-batch would need the outputs' shape, so seeds are kept instead.
    seeds = torch.randint(2**62, (len(chunks),), generator=generator_from(seed)).tolist()
    numbered = [(*batch[:1], draw, *batch[1:]) for batch, draw in zip(chunks, seeds, strict=True)]

    def curve(outputs: Tensor, draw: int, *targets: Any) -> Curve:
        if outputs.ndim != 2:
            raise BadInput("model", "one with outputs of shape (rows, outputs)", describe(outputs))
        with torch.no_grad():
            share = 1 / len(outputs) if reduction == "mean" else 1.0
            if kind == "exact":
                return _exact(outputs, likelihood, share)
            if kind == "empirical":
                scores = _score(outputs, targets[0], likelihood)[None]
            else:
                scores = _drawn_scores(outputs, likelihood, samples, draw)
        share /= len(scores)
        return lambda directions: share * torch.einsum("src,krc,srd->krd", scores, directions, scores)

    weights = batch_weights(chunks, reduction)
    return symmetric_operator(_between(model, tensors, curve), tensors, numbered, weights, keep_graph)


def tree_product(operator: Operator, tree: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The product with one vector that is given, and comes back, in the shapes of the parameters.

    Args:
        operator: of this module.
        tree: tensors by name, in the order and the shapes of the operator's parameters.

    Returns:
        Likewise.

    Raises:
        BadInput: for tensors whose numbers are not as many as the operator's columns.

    Example:
        >>> x = torch.tensor([1.0, 2.0], requires_grad=True)
        >>> tree_product(hessian(lambda: (x**3).sum(), [x]), {"x": torch.ones(2)})["x"].tolist()
        [6.0, 12.0]
    """
    given = list(tree.values())
    found = unflatten(operator @ flatten([one[None] for one in given]), given)
    return {name: part[0] for name, part in zip(tree, found, strict=True)}


def _between(
    model: Callable[[Any], Tensor], tensors: list[Tensor], curve: Callable[..., Curve]
) -> Callable[..., Columns]:
    """`J' S J` for a map S of perturbations of the outputs."""

    def record(inputs: Any, *rest: Any) -> Columns:
        outputs = model(inputs)
        if not isinstance(outputs, Tensor) or not outputs.requires_grad:
            raise BadInput("model", "one whose outputs depend on the parameters", describe(outputs))
        require_twice("model", [outputs])
        inner = curve(outputs.detach().requires_grad_(), *rest)
        dual = torch.zeros_like(outputs, requires_grad=True)
        back = recorded("model", "whose outputs depend", outputs, tensors, dual)
        together = takes_batches([outputs])

        def product(parts: list[Tensor]) -> list[Tensor]:
            images = pull(back, [dual], parts, together=together)
            return pull([outputs], tensors, [inner(images[0])], together=together)

        return product

    return record


def _exact(outputs: Tensor, likelihood: str, share: float) -> Curve:
    if likelihood == "gaussian":
        return lambda directions: share * directions
    chances = torch.softmax(outputs, dim=-1)

    def product(directions: Tensor) -> Tensor:
        weighted = chances * directions
        return share * (weighted - chances * weighted.sum(dim=-1, keepdim=True))

    return product


def _score(outputs: Tensor, targets: Any, likelihood: str) -> Tensor:
    """Minus the derivative of the log-likelihood for the outputs.

    Raises:
        BadInput: for targets that are none.
    """
    if likelihood == "gaussian":
        if not isinstance(targets, Tensor) or targets.shape != outputs.shape:
            raise BadInput("batches", f"with targets of shape {tuple(outputs.shape)}", describe(targets))
        return outputs - targets.to(outputs)
    if not isinstance(targets, Tensor) or targets.shape != outputs.shape[:1] or targets.is_floating_point():
        raise BadInput("batches", f"with {len(outputs)} integer classes as targets", describe(targets))
    if not bool(((targets >= 0) & (targets < outputs.shape[1])).all()):
        raise BadInput("batches", f"with classes from 0 to {outputs.shape[1] - 1}", describe(targets))
    return torch.softmax(outputs, dim=-1) - torch.nn.functional.one_hot(targets, outputs.shape[1])


def _drawn_scores(outputs: Tensor, likelihood: str, samples: int, draw: int) -> Tensor:
    """Scores at targets from the model itself, shape (samples, rows, outputs)."""
    generator = generator_from(draw)
    if likelihood == "gaussian":
        noise = torch.randn(samples, *outputs.shape, dtype=torch.float64, generator=generator)
        return -noise.to(outputs)
    chances = torch.softmax(outputs, dim=-1)
    classes = torch.multinomial(chances.double().cpu(), samples, replacement=True, generator=generator).T
    return chances - torch.nn.functional.one_hot(classes.to(outputs.device), outputs.shape[1])


def _scalar(name: str, value: Any) -> Tensor:
    if not isinstance(value, Tensor) or value.numel() != 1:
        raise BadInput(name, "one that gives a scalar", describe(value))
    return value.reshape(())
