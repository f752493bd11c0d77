"""Optimizers, each equal to a float64 transcription of its paper, behind ``torch.optim``'s interface."""

from .adafactor import Adafactor
from .adam import Adam, AdamW
from .ademamix import AdEMAMix
from .adoption import adopt, adopt_on_load
from .amsgrad import AMSGrad
from .averaging import PolynomialDecayAverager, polynomial_decay_avg_fn, polynomial_decay_multi_avg_fn
from .cautious import CAdamW, Cautious, CLion
from .core import Optimizer, Options
from .core.evaluation import evaluation_weights, has_evaluation_weights
from .diffgrad import DiffGrad
from .dog import DoG, LDoG
from .grams import Grams
from .groups import param_groups
from .info import OptimizerInfo
from .lion import Lion
from .lookahead import Lookahead, slow_weights
from .matrices import MatrixOptimizer
from .muon import Muon
from .psgd import PSGD, PSGDLRA, PSGDDense, PSGDNewton
from .registry import create_optimizer, list_optimizers, optimizer_info, register_optimizer
from .roles import matrix_groups, psgd_groups
from .sam import SAM
from .schedulefree import ScheduleFreeAdamW, ScheduleFreeSGD

__all__ = [
    "PSGD",
    "PSGDLRA",
    "SAM",
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
    "ScheduleFreeAdamW",
    "ScheduleFreeSGD",
    "adopt",
    "adopt_on_load",
    "create_optimizer",
    "evaluation_weights",
    "has_evaluation_weights",
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
