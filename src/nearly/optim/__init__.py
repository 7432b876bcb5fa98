"""Optimizers as short recipes over shared transforms, each a drop-in for those of `torch.optim`."""

from nearly.optim.adafactor import Adafactor
from nearly.optim.adagrad_norm import AdaGradNorm
from nearly.optim.adahessian import AdaHessian
from nearly.optim.adamuon import AdaMuon
from nearly.optim.adamw import AdamW
from nearly.optim.auon import AuON
from nearly.optim.bloop import Bloop
from nearly.optim.comparison import OptimizerComparison, compare
from nearly.optim.coordinate_gradient import coordinate_gradient, draw_masks, grasp_densities
from nearly.optim.fogzo import Fogzo
from nearly.optim.fosi import FOSI
from nearly.optim.frugal import Frugal
from nearly.optim.gradient_regularized_newton import GradientRegularizedNewton
from nearly.optim.input_gain import OptimalInputGain
from nearly.optim.inverse_free_natural_gradient import InverseFreeNaturalGradient
from nearly.optim.kfac import KFAC
from nearly.optim.lazy_newton import LazyNewton
from nearly.optim.memory import held_bytes, peak_bytes
from nearly.optim.mkor import MKOR
from nearly.optim.momentum_polyak import MomentumPolyak
from nearly.optim.muon import Muon
from nearly.optim.nesterov import Nesterov
from nearly.optim.optex import OptEx
from nearly.optim.optimizer import Optimizer, Options
from nearly.optim.perp_grad import PerpGrad, log_stablemax, stablemax_cross_entropy
from nearly.optim.polynomial_preconditioning import PolynomialPreconditioning
from nearly.optim.positive_definite_momentum import PositiveDefiniteMomentum
from nearly.optim.psgd import PSGD
from nearly.optim.quantized_shampoo import QuantizedShampoo
from nearly.optim.riemannian_adam import RiemannianAdam
from nearly.optim.sania import Sania
from nearly.optim.shampoo import Shampoo
from nearly.optim.stepsized_newton import StepsizedNewton
from nearly.optim.stochastic_model_building import StochasticModelBuilding
from nearly.optim.target_surrogate import TargetSurrogate
from nearly.optim.teleport import teleport
from nearly.optim.training import Training
from nearly.optim.triple_momentum import TripleMomentum
from nearly.optim.trust_region import TrustRegion
from nearly.optim.zeroth_order import ZerothOrder

__all__ = [
    "FOSI",
    "KFAC",
    "MKOR",
    "PSGD",
    "AdaGradNorm",
    "AdaHessian",
    "AdaMuon",
    "Adafactor",
    "AdamW",
    "AuON",
    "Bloop",
    "Fogzo",
    "Frugal",
    "GradientRegularizedNewton",
    "InverseFreeNaturalGradient",
    "LazyNewton",
    "MomentumPolyak",
    "Muon",
    "Nesterov",
    "OptEx",
    "OptimalInputGain",
    "Optimizer",
    "OptimizerComparison",
    "Options",
    "PerpGrad",
    "PolynomialPreconditioning",
    "PositiveDefiniteMomentum",
    "QuantizedShampoo",
    "RiemannianAdam",
    "Sania",
    "Shampoo",
    "StepsizedNewton",
    "StochasticModelBuilding",
    "TargetSurrogate",
    "Training",
    "TripleMomentum",
    "TrustRegion",
    "ZerothOrder",
    "compare",
    "coordinate_gradient",
    "draw_masks",
    "grasp_densities",
    "held_bytes",
    "log_stablemax",
    "peak_bytes",
    "stablemax_cross_entropy",
    "teleport",
]
