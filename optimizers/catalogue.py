"""The optimizers of this library, each with what one wants to know before choosing it."""

from __future__ import annotations

from .adafactor import Adafactor
from .adam import Adam, AdamW
from .ademamix import AdEMAMix
from .amsgrad import AMSGrad
from .cautious import CAdamW, Cautious, CLion
from .diffgrad import DiffGrad
from .dog import DoG, LDoG
from .grams import Grams
from .info import ELEMENTWISE, OptimizerInfo
from .lion import Lion
from .lookahead import Lookahead
from .muon import Muon
from .psgd import PSGD, PSGDLRA, PSGDDense, PSGDNewton
from .roles import matrix_groups, psgd_groups
from .sam import SAM
from .schedulefree import ScheduleFreeAdamW, ScheduleFreeSGD

_ADAM = "Adam: A Method for Stochastic Optimization, Kingma & Ba, 2015"
_CAUTIOUS = "Cautious Optimizers: Improving Training with One Line of Code, Liang et al., 2024"
_DOG = "DoG is SGD's Best Friend: A Parameter-Free Dynamic Step Size Schedule, Ivgi, Hinder & Carmon, 2023"
_FREE = ("The Road Less Scheduled, Defazio et al., 2024", "2405.15682")
_NO_SCHEDULE = "a run has no known end, or its schedule is not to be tuned"
_PSGD_PAPER = "Stochastic Hessian Fittings with Lie Groups, Li, 2024"
_PSGD_NEWTON = "Curvature-Informed SGD via General Purpose Lie-Group Preconditioners, Pooladzandi & Li, 2024"
_PSGD = tuple(name for name in ELEMENTWISE if name != "capturable")
_PSGD_WHOLE = tuple(name for name in _PSGD if name != "dtensor")

CATALOGUE = (
    OptimizerInfo(
        "adam",
        Adam,
        _ADAM,
        "1412.6980",
        "mean of gradients over root of their mean square",
        "the baseline",
        8,
        floats=7,
    ),
    OptimizerInfo(
        "adamw",
        AdamW,
        "Decoupled Weight Decay Regularization, Loshchilov & Hutter, 2019",
        "1711.05101",
        "Adam with decoupled weight decay",
        "the default choice for neural networks",
        8,
        floats=7,
    ),
    OptimizerInfo(
        "amsgrad",
        AMSGrad,
        "On the Convergence of Adam and Beyond, Reddi, Kale & Kumar, 2018",
        "1904.09237",
        "Adam over the largest second moment so far",
        "rare large gradients keep Adam from converging",
        12,
        floats=9,
    ),
    OptimizerInfo(
        "ademamix",
        AdEMAMix,
        "The AdEMAMix Optimizer: Better, Faster, Older, Pagliardini, Ablin & Grangier, 2024",
        "2409.03137",
        "Adam plus a slow average over the last 10,000 gradients",
        "long training runs, language models above all",
        12,
        floats=9,
    ),
    OptimizerInfo(
        "grams",
        Grams,
        "Grams: Gradient Descent with Adaptive Momentum Scaling, Cao, Li & Song, 2024",
        "2412.17107",
        "size of Adam's update, sign of the gradient",
        "noisy training with beta1 near 0.9",
        8,
        floats=7,
    ),
    OptimizerInfo(
        "lion",
        Lion,
        "Symbolic Discovery of Optimization Algorithms, Chen et al., 2023",
        "2302.06675",
        "sign of an interpolated momentum",
        "large batches; half of Adam's state",
        4,
        floats=5,
    ),
    OptimizerInfo(
        "diffgrad",
        DiffGrad,
        "diffGrad: An Optimization Method for Convolutional Neural Networks, Dubey et al., 2020",
        "1909.11015",
        "Adam slowed down where the gradient barely changes",
        "to reproduce the paper; elsewhere near Adam at half the lr",
        12,
        floats=9,
    ),
    OptimizerInfo(
        "cadamw",
        CAdamW,
        _CAUTIOUS,
        "2411.16085",
        "AdamW without the coordinates that disagree with the gradient",
        "wherever AdamW works, at AdamW's settings",
        8,
        floats=10,
    ),
    OptimizerInfo(
        "clion",
        CLion,
        _CAUTIOUS,
        "2411.16085",
        "Lion without the coordinates that disagree with the gradient",
        "wherever Lion works, at Lion's settings",
        4,
        floats=7,
    ),
    OptimizerInfo(
        "cautious",
        Cautious,
        _CAUTIOUS,
        "2411.16085",
        "any optimizer without the coordinates that disagree with the gradient",
        "wherever the optimizer inside works, at its settings",
        8,
        floats=10,
    ),
    OptimizerInfo(
        "lookahead",
        Lookahead,
        "Lookahead Optimizer: k steps forward, 1 step back, Zhang, Lucas, Hinton & Ba, 2019",
        "1907.08610",
        "every k steps of any optimizer, go back half of the way",
        "noisy gradients or a large lr, around an optimizer that works",
        12,
        floats=11,
    ),
    OptimizerInfo(
        "dog",
        DoG,
        _DOG,
        "2302.12022",
        "SGD whose step size is the distance travelled over the root of the gradients' sum of squares",
        "no learning rate is to be tuned; evaluate on the average of the iterates",
        4,
        tensor_bytes=16,
        sums=True,
        floats=6,
    ),
    OptimizerInfo(
        "ldog",
        LDoG,
        _DOG,
        "2302.12022",
        "DoG with a step size of its own for every tensor",
        "no learning rate is to be tuned, on transformers above all",
        4,
        tensor_bytes=16,
        sums=True,
        floats=6,
    ),
    OptimizerInfo(
        "adafactor",
        Adafactor,
        "Adafactor: Adaptive Learning Rates with Sublinear Memory Cost, Shazeer & Stern, 2018",
        "1804.04235",
        "second moments of matrices kept as a row and a column",
        "memory is short, or the model is of the T5 family",
        4,
        tuning_lr=1e-2,
        sums=True,
        floats=6,
    ),
    OptimizerInfo(
        "muon",
        Muon,
        "Muon is Scalable for LLM Training, Liu et al., 2025",
        "2502.16982",
        "momentum of matrices with all its singular values made equal",
        "the hidden matrices of transformers and convolutional networks",
        4,
        sums=True,
        groups=matrix_groups,
    ),
    OptimizerInfo(
        "psgd",
        PSGD,
        _PSGD_PAPER,
        "2402.11858",
        "momentum whitened by a Kronecker-factored preconditioner that is fitted on the way",
        "fewer steps matter more than cheap ones; ill-conditioned problems",
        4,
        tensor_bytes=12,
        supports=_PSGD,
        groups=psgd_groups,
    ),
    OptimizerInfo(
        "schedulefreeadamw", ScheduleFreeAdamW, *_FREE, "AdamW between iterate and average", _NO_SCHEDULE, 8, 24
    ),
    OptimizerInfo("schedulefreesgd", ScheduleFreeSGD, *_FREE, "SGD between iterate and average", _NO_SCHEDULE, 4, 24),
    OptimizerInfo(
        "psgdnewton",
        PSGDNewton,
        _PSGD_NEWTON,
        "2402.04553",
        "Newton's method with Kronecker factors that are fitted to products of the Hessian with random vectors",
        "the loss is smooth, and a step may cost two to three gradients",
        4,
        tensor_bytes=12,
        closure="loss",
        supports=_PSGD_WHOLE,
    ),
    OptimizerInfo(
        "psgdlra",
        PSGDLRA,
        _PSGD_NEWTON,
        "2402.04553",
        "momentum whitened, or Newton's method, with a low-rank preconditioner of all parameters together",
        "coordinates of different tensors are coupled, and twenty numbers per parameter fit",
        88,
        tensor_bytes=20,
        supports=_PSGD_WHOLE,
        sums=True,
    ),
    OptimizerInfo(
        "psgddense",
        PSGDDense,
        _PSGD_PAPER,
        "2402.11858",
        "Newton's method with one dense matrix for all parameters together",
        "a few thousand parameters at most, badly scaled",
        4,
        tensor_bytes=12,
        closure="loss",
        supports=_PSGD_WHOLE,
        sums=True,
    ),
    OptimizerInfo(
        "sam",
        SAM,
        "Sharpness-Aware Minimization for Efficiently Improving Generalization, Foret et al., 2021",
        "2010.01412",
        "any optimizer on the gradient of the worst point nearby, at twice the price",
        "generalization matters more than the time of a step: image classification, fine-tuning",
        8,
        closure="backward",
        sums=True,
    ),
)
