"""What optimizers are made of: each turns updates into updates, and can be used alone."""

from nearly.optim.transforms.align import RMSAlign, ShapeScale
from nearly.optim.transforms.clip import ClipNorm, ClipRMS
from nearly.optim.transforms.factored import FactoredMoment
from nearly.optim.transforms.graft import Graft
from nearly.optim.transforms.kronecker import Kronecker
from nearly.optim.transforms.moments import Moments, SecondMoment
from nearly.optim.transforms.momentum import Momentum
from nearly.optim.transforms.orthogonalize import Orthogonalize
from nearly.optim.transforms.quantized_moments import QuantizedMoments
from nearly.optim.transforms.sign import Sign
from nearly.optim.transforms.trust_ratio import TrustRatio

__all__ = [
    "ClipNorm",
    "ClipRMS",
    "FactoredMoment",
    "Graft",
    "Kronecker",
    "Moments",
    "Momentum",
    "Orthogonalize",
    "QuantizedMoments",
    "RMSAlign",
    "SecondMoment",
    "ShapeScale",
    "Sign",
    "TrustRatio",
]
