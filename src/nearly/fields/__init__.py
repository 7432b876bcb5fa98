"""Methods whose target is a `Field`."""

from nearly.fields.reduced_basis import ReducedBasis

__all__ = ["ReducedBasis"]
