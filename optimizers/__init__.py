"""Optimizers, each equal to a float64 transcription of its paper, behind ``torch.optim``'s interface."""

from .adafactor import Adafactor
from .adam import Adam, AdamW
from .ademamix import AdEMAMix
from .adoption import adopt, adopt_on_load
from .amsgrad import AMSGrad
from .averaging import PolynomialDecayAverager, polynomial_decay_avg_fn, polynomial_decay_multi_avg_fn
from .cautious import CAdamW, Cautious, CLion
from .core import Optimizer, Options
from .diffgrad import DiffGrad
from .dog import DoG, LDoG
from .grams import Grams
from .groups import param_groups
from .lion import Lion
from .lookahead import Lookahead, slow_weights
from .matrices import MatrixOptimizer
from .muon import Muon
from .psgd import PSGD, PSGDLRA, PSGDDense, PSGDNewton
from .registry import OptimizerInfo, create_optimizer, list_optimizers, optimizer_info, register_optimizer
from .roles import matrix_groups, psgd_groups

__all__ = [
    "PSGD",
    "PSGDLRA",
    "AMSGrad",
    "AdEMAMix",
    "Adafactor",
    "Adam",
    "AdamW",
    "CAdamW",
    "CLion",
    "Cautious",
    "DiffGrad",
    "DoG",
    "Grams",
    "LDoG",
    "Lion",
    "Lookahead",
    "MatrixOptimizer",
    "Muon",
    "Optimizer",
    "OptimizerInfo",
    "Options",
    "PSGDDense",
    "PSGDNewton",
    "PolynomialDecayAverager",
    "adopt",
    "adopt_on_load",
    "create_optimizer",
    "list_optimizers",
    "matrix_groups",
    "optimizer_info",
    "param_groups",
    "polynomial_decay_avg_fn",
    "polynomial_decay_multi_avg_fn",
    "psgd_groups",
    "register_optimizer",
    "slow_weights",
]
