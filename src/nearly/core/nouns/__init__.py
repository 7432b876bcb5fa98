"""The five nouns: what can be replaced."""

from nearly.core.nouns.field import Fidelity, Field
from nearly.core.nouns.function import Function
from nearly.core.nouns.matrix import Matrix, Solve
from nearly.core.nouns.measure import Measure
from nearly.core.nouns.network import Network

__all__ = ["Fidelity", "Field", "Function", "Matrix", "Measure", "Network", "Solve"]
