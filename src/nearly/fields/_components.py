"""What the snapshot methods share: outputs as a mean plus coordinates on components."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nearly.linalg.components import principal_components

if TYPE_CHECKING:
    from torch import Tensor

    from nearly.core.target import Target

TRUNCATION = 1e-7  # singular values below this share of the largest are no signal that regression could use


def components_of(outputs: Tensor, product: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Mean, components and coordinates of outputs of any shape, flattened."""
    mean, components, coordinates, _ = principal_components(
        outputs.reshape(len(outputs), -1), product=product, tolerance=TRUNCATION
    )
    return mean, components, coordinates


def inner_product(target: Target, like: Tensor) -> Tensor | None:
    """A field's inner product as a tensor of the dtype and device of `like`, or None."""
    return target.product_on(like) if getattr(target, "product", None) is not None else None  # type: ignore[attr-defined]
