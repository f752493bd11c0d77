"""Every optimizer by name, with what one wants to know before choosing it."""

from __future__ import annotations

import fnmatch
import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from .adafactor import Adafactor
from .adam import Adam, AdamW
from .ademamix import AdEMAMix
from .amsgrad import AMSGrad
from .cautious import CAdamW, Cautious, CLion
from .core.options import nearest
from .diffgrad import DiffGrad
from .dog import DoG, LDoG
from .grams import Grams
from .groups import param_groups
from .info import ELEMENTWISE, OptimizerInfo
from .lion import Lion
from .lookahead import Lookahead
from .muon import Muon
from .plugins import Plugins, check_class, import_path, is_path, path_of
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

_REGISTRY = {
    info.name: info
    for info in (
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
        OptimizerInfo(
            "schedulefreesgd", ScheduleFreeSGD, *_FREE, "SGD between iterate and average", _NO_SCHEDULE, 4, 24
        ),
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
}


_PLUGINS = Plugins(_REGISTRY, OptimizerInfo)


def register_optimizer(info: OptimizerInfo) -> None:
    """Make an optimizer known by name: to ``create_optimizer``, as ``base`` of wrappers, and to ``optzoo compare``.

    A package does it for everyone who installs it by an entry point of the group ``optzoo.optimizers``, which is the
    class or an :class:`OptimizerInfo` of the same name::

        [project.entry-points."optzoo.optimizers"]
        mine = "my_package.optimizers:Mine"

    Args:
        info: name and class; all else is optional. The name is of lower-case letters, digits, ``_`` and ``-``. A class
            that is registered again, as by a notebook's cell that runs twice, replaces itself.

    Raises:
        ValueError: the name is taken, or of other characters.
        TypeError: no OptimizerInfo, or its class is no subclass of torch.optim.Optimizer.

    >>> class Signs(Optimizer):
    ...     def __init__(self, params, lr=1e-3):
    ...         super().__init__(params, {"lr": lr})
    ...     def step(self, closure=None):
    ...         for group in self.param_groups:
    ...             for p in group["params"]:
    ...                 p.data.sub_(p.grad.sign(), alpha=group["lr"])
    >>> register_optimizer(OptimizerInfo("signs", Signs, description="the sign of the gradient"))
    >>> create_optimizer("signs", nn.Linear(3, 2), lr=0.1).param_groups[0]["lr"]
    0.1
    """
    _PLUGINS.load()
    _PLUGINS.add(info)


def list_optimizers(pattern: str = "*") -> list[str]:
    """Names of the optimizers, plugins too, that match a glob pattern, sorted; upper and lower case are the same.

    >>> list_optimizers("c*")
    ['cadamw', 'cautious', 'clion']
    """
    _PLUGINS.load()
    return sorted(fnmatch.filter(_REGISTRY, pattern.lower()))


def failed_plugins() -> Mapping[str, str]:
    """Names of plugins that are installed and cannot be used, and why."""
    _PLUGINS.load()
    return _PLUGINS.failed


def optimizer_info(optimizer: str | type[Optimizer]) -> OptimizerInfo:
    """What is known of an optimizer; upper and lower case of a name are the same.

    Args:
        optimizer: one of :func:`list_optimizers`, an import path ("module:Class" or "module.Class") or a class. Of one
            that is not registered no more than the options is known.

    Raises:
        ValueError: there is none of that name or under that path; the message has the nearest.
        TypeError: no subclass of torch.optim.Optimizer.

    >>> optimizer_info("AdEMAMix").state_bytes
    12
    >>> optimizer_info("torch.optim:SGD").defaults["momentum"]
    0
    """
    if isinstance(optimizer, str) and not is_path(optimizer):
        name = optimizer.lower()
        if name not in _REGISTRY:
            _PLUGINS.load()
        if name in _REGISTRY:
            return _REGISTRY[name]
        if name in _PLUGINS.failed:
            raise ValueError(f"the optimizer {name!r} cannot be used ({_PLUGINS.failed[name]})")
        raise ValueError(f"no optimizer is called {optimizer!r}; {nearest(name, _REGISTRY, 'there are')}")
    made: Any = import_path(optimizer) if isinstance(optimizer, str) else optimizer
    if not isinstance(made, type):
        raise TypeError(f"an optimizer is a name, an import path (module:Class) or a class, not {optimizer!r}")
    check_class(made)
    registered = (info for info in _REGISTRY.values() if info.optimizer_class is made)
    return next(registered, OptimizerInfo(path_of(made), made))


def create_optimizer(
    name: str | type[Optimizer],
    params_or_model: nn.Module | Iterable[Any],
    lr: float | Tensor | None = None,
    weight_decay: float | None = None,
    **options: Any,
) -> Optimizer:
    """Make an optimizer by name, import path or class.

    Of a model it takes the trainable parameters, with their names, in two groups: matrices with weight decay, biases
    and norms without (:func:`param_groups` has more to choose from). Parameters or groups are taken as they are. The
    wrappers, Lookahead and Cautious, are made around AdamW; another one is given as ``base``, by name too.

    Args:
        name: one of :func:`list_optimizers`, an import path ("module:Class" or "module.Class") or a class: any subclass
            of torch.optim.Optimizer.
        params_or_model: a model, or what the optimizer's constructor takes as ``params``.
        lr: None (default) for the optimizer's own default.
        weight_decay: None (default) for the optimizer's own default.
        **options: options of that optimizer, and for a wrapper of the one inside; of a model also those of the function
            that makes its groups, such as ``no_decay``.

    Raises:
        ValueError: no optimizer of that name, or an option out of its range.
        TypeError: an option it does not have, with the nearest one it has.

    >>> optimizer = create_optimizer("ademamix", nn.Linear(3, 2), lr=3e-4, weight_decay=0.1, alpha=8.0)
    >>> [(group["param_names"], group["weight_decay"]) for group in optimizer.param_groups]
    [(['weight'], 0.1), (['bias'], 0.0)]
    """
    info = optimizer_info(name)
    if lr is not None:
        options["lr"] = lr
    if weight_decay is not None:
        options["weight_decay"] = weight_decay
    params: Any = params_or_model
    if isinstance(params_or_model, nn.Module):
        inside = _inside(info, options.get("base"))
        groups = groups_for(inside)
        own = [name for name in inspect.signature(groups).parameters if name not in info.defaults]
        grouping = {name: options.pop(name) for name in own if name in options}
        if grouping.get("layer_decay") is not None:
            grouping["lr"] = default_lr(inside) if lr is None else lr
        params = groups(params_or_model, weight_decay, **grouping)
    factory: Any = info.optimizer_class
    optimizer: Optimizer = factory(params, **options)
    return optimizer


def _inside(info: OptimizerInfo, base: Any) -> Any:
    """What makes the optimizer that moves the parameters: in a wrapper its base."""
    if isinstance(base, str):
        return optimizer_info(base).optimizer_class
    return base or info.base or info.optimizer_class


def groups_for(make: Any) -> Callable[..., list[dict[str, Any]]]:
    """What makes a model's groups for what ``make`` makes: ``param_groups`` unless it is registered with another."""
    return next((info.groups for info in _REGISTRY.values() if info.optimizer_class is make), param_groups)


def default_lr(make: Callable[..., Any]) -> Any:
    """The lr of what ``make`` makes unless told otherwise; None where it has none."""
    parameter = inspect.signature(make).parameters.get("lr")
    return None if parameter is None or parameter.default is parameter.empty else parameter.default
