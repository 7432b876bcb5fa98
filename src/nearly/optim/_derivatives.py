"""What to do where torch has no second derivatives."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from nearly.core.errors import BadInput

CURVATURE = "Hessian-vector products"
# What torch says of compiled models, and of kernels without second derivatives.
WITHOUT_SECOND = ("donated buffers", "double backward", "is not implemented")
ONCE_ONLY = (
    "Call the model before it was compiled; write attention out, or within "
    "torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH)."
)


@contextmanager
def second_derivatives(member: str) -> Iterator[None]:
    """Says what to do where torch has none.

    Raises:
        BadInput: there.
        RuntimeError: whatever else there is.
    """
    try:
        yield
    except RuntimeError as error:
        if not any(words in str(error) for words in WITHOUT_SECOND):
            raise
        requirement = f"one that torch can differentiate twice, as {member} asks for {CURVATURE}"
        raise BadInput("closure", requirement, str(error), ONCE_ONLY) from error
