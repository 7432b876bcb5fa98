"""Optimizers as short recipes over shared transforms, each a drop-in for those of `torch.optim`."""

from nearly.optim.comparison import OptimizerComparison, compare
from nearly.optim.few_gradients.coordinate_gradient import coordinate_gradient, draw_masks, grasp_densities
from nearly.optim.few_gradients.fogzo import Fogzo
from nearly.optim.few_gradients.optex import OptEx
from nearly.optim.few_gradients.target_surrogate import TargetSurrogate
from nearly.optim.few_gradients.teleport import teleport
from nearly.optim.few_gradients.zeroth_order import ZerothOrder
from nearly.optim.first_order.adafactor import Adafactor
from nearly.optim.first_order.adagrad_norm import AdaGradNorm
from nearly.optim.first_order.adahessian import AdaHessian
from nearly.optim.first_order.adamw import AdamW
from nearly.optim.first_order.bloop import Bloop
from nearly.optim.first_order.frugal import Frugal
from nearly.optim.first_order.momentum_polyak import MomentumPolyak
from nearly.optim.first_order.nesterov import Nesterov
from nearly.optim.first_order.perp_grad import PerpGrad, log_stablemax, stablemax_cross_entropy
from nearly.optim.first_order.riemannian_adam import RiemannianAdam
from nearly.optim.first_order.sania import Sania
from nearly.optim.first_order.stochastic_model_building import StochasticModelBuilding
from nearly.optim.first_order.triple_momentum import TripleMomentum
from nearly.optim.matrices.adamuon import AdaMuon
from nearly.optim.matrices.auon import AuON
from nearly.optim.matrices.inverse_free_natural_gradient import InverseFreeNaturalGradient
from nearly.optim.matrices.kfac import KFAC
from nearly.optim.matrices.mkor import MKOR
from nearly.optim.matrices.muon import Muon
from nearly.optim.matrices.positive_definite_momentum import PositiveDefiniteMomentum
from nearly.optim.matrices.quantized_shampoo import QuantizedShampoo
from nearly.optim.matrices.shampoo import Shampoo
from nearly.optim.matrices.trust_region import TrustRegion
from nearly.optim.memory import held_bytes, peak_bytes
from nearly.optim.newton.fosi import FOSI
from nearly.optim.newton.gradient_regularized_newton import GradientRegularizedNewton
from nearly.optim.newton.input_gain import OptimalInputGain
from nearly.optim.newton.lazy_newton import LazyNewton
from nearly.optim.newton.polynomial_preconditioning import PolynomialPreconditioning
from nearly.optim.newton.psgd import PSGD
from nearly.optim.newton.stepsized_newton import StepsizedNewton
from nearly.optim.optimizer import Optimizer, Options
from nearly.optim.training import Training

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
