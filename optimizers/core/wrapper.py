"""Optimizers around other optimizers, of this library or of any other."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from . import checkpoints
from .closures import Closure, calls_backward
from .eager import EagerFrame, eager
from .evaluation import evaluation_weights
from .first_step import FirstStep
from .hooks import Within, hooked
from .joining import named_alike
from .making import Base, check_made, made
from .optimizer import Optimizer
from .options import Rule, describe, given_params, validate
from .reports import Reported, Reporter, Reporting
from .rule import working_dtype


class OptimizerWrapper(FirstStep, Reporting, torch.optim.Optimizer):
    """Base of optimizers that do something before and after each step of another one, ``base_optimizer``.

    There is one set of groups, state and defaults, the base's, so schedulers, scalers and checkpoints reach both. What
    a wrapper adds lives there too: options and counters as keys of the groups, tensors as keys of the state, behind its
    ``prefix``. A subclass says which options there are (``rules``) and writes ``before_step`` and ``after_step``.

    >>> class Clamped(OptimizerWrapper):
    ...     default_base, prefix, rules = torch.optim.SGD, "clamped_", {"low": Rule(lambda x: x < 0, "negative")}
    ...     def __init__(self, params, base=None, low=-1.0, **base_options):
    ...         super().__init__(params, base, base_options, low=low)
    ...     def after_step(self, before):
    ...         for group in self.param_groups:
    ...             torch._foreach_clamp_min_(group["params"], group["clamped_low"])
    >>> w = torch.nn.Parameter(torch.tensor([0.5, 2.0]))
    >>> w.sum().backward()
    >>> Clamped([w], lr=3.0).step(); w.data
    tensor([-1., -1.])
    """

    default_base: ClassVar[type[torch.optim.Optimizer]]
    """What is wrapped where neither an optimizer nor a way to make one is given."""
    prefix: ClassVar[str] = ""
    """What the names of the wrapper's group keys begin with and, unless empty, those of its state."""
    rules: ClassVar[Mapping[str, Rule]] = {}
    """The options, without prefix, and their ranges."""
    counters: ClassVar[frozenset[str]] = frozenset()
    """Those of them, with prefix, that count steps, for all groups together."""

    base_optimizer: torch.optim.Optimizer

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "step" in vars(cls):
            untyped: Any = cls
            untyped.step = hooked(vars(cls)["step"])

    def __init__(
        self,
        params: ParamsT | torch.optim.Optimizer,
        base: Base | str | None,
        base_options: Mapping[str, Any],
        **options: Any,
    ) -> None:
        validate(type(self).__name__, options, options, self.rules)
        given: list[Any] = []
        if isinstance(params, torch.optim.Optimizer):
            check_made(type(self).__name__, params, base, base_options)
            optimizer = params
        else:
            params = given_params(type(self).__name__, params)
            given = params if isinstance(params, list) else []
            optimizer = made(type(self).__name__, self.default_base if base is None else base, params, base_options)
        self.check_base(optimizer)
        defaults = {self.prefix + name: value for name, value in options.items()}
        own = [
            self._checked({**defaults, **{key: group[key] for key in defaults if key in group}})
            for group in self.explicit(optimizer, given)
        ]
        self.__setstate__({"base_optimizer": optimizer})  # nothing is changed before this line
        self.defaults = {**self.defaults, **{key: defaults[key] for key in defaults.keys() - self.counters}}
        for group, mine in zip(self.param_groups, own, strict=True):
            group.update(mine)

    def check_base(self, optimizer: torch.optim.Optimizer) -> None:
        """Raise ValueError for an optimizer that cannot be wrapped."""
        name, inner = type(self).__name__, optimizer
        while isinstance(inner, OptimizerWrapper):
            if isinstance(inner, type(self)):
                options = ", ".join(key for key in self.rules if self.prefix + key not in self.counters)
                raise ValueError(f"{name} around {name}: one {name} is enough; set {options} there")
            inner = inner.base_optimizer
        if calls_backward(optimizer) is False and not self.is_native(optimizer):
            raise ValueError(
                f"{name} around {type(optimizer).__name__}, whose closure does not call backward(): {name} needs the "
                "gradients that it leaves; PSGD's take such a closure with hessian='finite_difference'"
            )
        taken = [key for key in self._keys() if key in inner.defaults and not self.is_native(inner)]
        if taken:
            raise ValueError(
                f"{name}: {type(inner).__name__} has an option {taken[0]!r} already, its own or that of another "
                f"{name} around it; set it in its param_groups"
            )

    def is_native(self, optimizer: torch.optim.Optimizer) -> bool:
        """Whether the wrapper's options are the optimizer's own, which then does the work."""
        return False

    def explicit(self, optimizer: torch.optim.Optimizer, given: Sequence[Any]) -> Sequence[Mapping[str, Any]]:
        """Per group of ``optimizer`` a dict with the options that its user has set for that group."""
        return optimizer.param_groups

    # Options and state of the wrapper

    def _keys(self) -> list[str]:
        return [self.prefix + name for name in self.rules]

    def _checked(self, options: dict[str, Any]) -> dict[str, Any]:
        rules = {self.prefix + name: rule for name, rule in self.rules.items()}
        validate(type(self).__name__, options, rules, rules)
        return options

    def _is_own_state(self, name: Any) -> bool:
        return self.prefix != "" and isinstance(name, str) and name.startswith(self.prefix)

    # The step

    def before_step(self, aside: Mapping[Tensor, Mapping[str, Any]]) -> Any:
        """Called when the gradients are there and no parameter has moved; what it returns goes to ``after_step``.

        aside: state of the wrapper that is out of ``self.state`` while the base steps.
        """
        return None

    def after_step(self, before: Any) -> None:
        """Called when the base has stepped."""

    def evaluate(self, closure: Closure) -> Any:
        """The closure as the base gets it; a subclass may evaluate it again, see :class:`.closures.Evaluations`."""
        return closure()

    @property
    def closure_calls_backward(self) -> bool | None:
        """What closure a step needs: one that calls backward(), one that does not, or, None, no closure; the base's."""
        return calls_backward(self.base_optimizer)

    def check(self, action: str) -> None:
        """Raise RuntimeError where ``action`` is not possible now."""

    @hooked
    def step(self, closure: Closure | None = None) -> Any:
        """Step the base optimizer, and do what this wrapper adds.

        Step hooks are called once, torch's global ones among them, around all of it; those of the base around its part.

        closure: handed to the base, which evaluates it with gradients enabled; its value is returned.
        """
        self.check("step()")
        return self._step(closure)

    def _step(self, closure: Closure | None = None) -> Any:
        before: list[Any] = []
        aside = self._set_aside()

        def prepare(loss: Any = None) -> Any:
            if not before:  # a base may evaluate its closure many times
                before.append(self._before(aside))
            return loss

        value: Any
        try:
            if closure is None:
                prepare()
            with Within(self.base_optimizer):
                if closure is None:
                    value = self.base_optimizer.step()
                else:
                    value = self.base_optimizer.step(lambda: prepare(self.evaluate(closure)))
        finally:
            for param, own in aside.items():
                self.state[param].update(own)
        if before:
            self._after(before[0])
        return value

    # Compiled is the base's step, not what changes with every step: a counter would make a new graph each time.
    _step = EagerFrame(_step)  # type: ignore[assignment]

    @eager
    @torch.no_grad()
    def _before(self, aside: Mapping[Tensor, Mapping[str, Any]]) -> Any:
        whole = not self.is_native(self.base_optimizer) and any(map(self.takes_whole_parameters, self.param_groups))
        if whole or not isinstance(self.base_optimizer, FirstStep):
            self.begin()
        return self.before_step(aside)

    @eager
    @torch.no_grad()
    def _after(self, before: Any) -> None:
        self.after_step(before)

    @eager
    def _set_aside(self) -> dict[Tensor, dict[str, Any]]:
        """Take the wrapper's state from parameters the base has none for: it would not make its own beside it."""
        aside = {
            p: state
            for p, state in self.state.items()
            if isinstance(state, dict) and state and all(map(self._is_own_state, state))
        }
        for p in aside:
            del self.state[p]
        return aside

    # What is the base's

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        return self.base_optimizer.param_groups

    @param_groups.setter
    def param_groups(self, value: list[dict[str, Any]]) -> None:
        self.base_optimizer.param_groups = value

    @property
    def state(self) -> Any:
        return self.base_optimizer.state

    @state.setter
    def state(self, value: Any) -> None:
        self.base_optimizer.state = value

    @property
    def defaults(self) -> dict[str, Any]:
        return self.base_optimizer.defaults

    @defaults.setter
    def defaults(self, value: dict[str, Any]) -> None:
        self.base_optimizer.defaults = value

    def zero_grad(self, set_to_none: bool = True) -> None:
        """As in torch.optim."""
        self.base_optimizer.zero_grad(set_to_none)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """As in torch.optim; options the group does not name are the constructor's. Raises before anything changes.

        Names are given and dropped as in :meth:`optzoo.optimizers.Optimizer.add_param_group`.
        """
        if isinstance(param_group, dict):  # else the base refuses it
            counters = {key: self.param_groups[0][key] for key in self.counters}
            mine = {key: param_group.get(key, self.defaults.get(key)) for key in self._keys()}
            param_group = named_alike({**param_group, **self._checked({**mine, **counters})}, self.param_groups)
        self.base_optimizer.add_param_group(param_group)

    def evaluation_weights(self) -> AbstractContextManager[None]:
        """Those of the base; TypeError if it has none. See :func:`optzoo.optimizers.evaluation_weights`."""
        return evaluation_weights(self.base_optimizer)

    def train(self) -> None:
        """That of the base, if it has one: schedule-free optimizers do."""
        getattr(self.base_optimizer, "train", lambda: None)()

    def eval(self) -> None:
        """That of the base, if it has one."""
        getattr(self.base_optimizer, "eval", lambda: None)()

    def init_state(self) -> None:
        """Make the state of every trainable parameter now, without a step; see ``Optimizer.init_state``.

        Raises:
            TypeError: the base has no ``init_state``; those of torch make their state at their first step only.
        """
        base: Any = self.base_optimizer
        if not hasattr(base, "init_state"):
            name = type(base).__name__
            raise TypeError(f"{type(self).__name__}: {name} has no init_state(); its state comes with its first step")
        base.init_state()

    def report(self) -> dict[str, Reported]:
        """What the base reports, if it does, and what the wrapper adds."""
        base = self.base_optimizer
        return {**(base.report() if isinstance(base, Reporter) else {}), **super().report()}

    def record(self, on: bool = True) -> None:
        """As in the optimizers, for the base too."""
        super().record(on)
        if isinstance(self.base_optimizer, Reporting):
            self.base_optimizer.record(on)

    # Checkpoints and copies

    def state_dict(self) -> dict[str, Any]:
        """The base's state_dict, which has the wrapper's options and state in it."""
        self.check("state_dict()")
        for pre_hook in self._optimizer_state_dict_pre_hooks.values():
            pre_hook(self)
        state_dict = self.base_optimizer.state_dict()
        if self.is_native(self.base_optimizer):
            state_dict.pop(checkpoints.OPTIMIZER, None)  # the base alone would not do what it does here
        for post_hook in self._optimizer_state_dict_post_hooks.values():
            state_dict = post_hook(self, state_dict) or state_dict
        return state_dict

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Resume from a copy of ``state_dict``, of this wrapper around such a base or of the base alone.

        As in torch.optim the checkpoint's options win; :func:`optzoo.optimizers.adopt` keeps all options. Tensors of
        the wrapper keep their precision.

        Raises ValueError, and leaves wrapper and base as they are, where groups, options or shapes do not fit.
        """
        self.check("load_state_dict()")
        state_dict, asked = dict(state_dict), checkpoints.ADOPT in state_dict
        for pre_hook in self._optimizer_load_state_dict_pre_hooks.values():
            state_dict = pre_hook(self, state_dict) or state_dict
        checkpoints.check_sizes(type(self).__name__, self.param_groups, state_dict)
        adopting = asked or checkpoints.ADOPT in state_dict
        options = [
            self._checked(self.load_options(group, {} if adopting else saved))
            for group, saved in zip(self.param_groups, state_dict["param_groups"], strict=True)
        ]
        own = self._own_state(state_dict)
        before = self.state, self.param_groups
        try:
            self.base_optimizer.load_state_dict(self._for_base(state_dict, adopting))
        except Exception:
            self.state, self.param_groups = before
            raise
        for group, mine in zip(self.param_groups, options, strict=True):
            group.update(mine)
        for param, name, value in own:
            self.state[param][name] = checkpoints.like(param, value, working_dtype(param.dtype))
        for post_hook in self._optimizer_load_state_dict_post_hooks.values():
            post_hook(self)

    def load_options(self, group: Mapping[str, Any], saved: Mapping[str, Any]) -> dict[str, Any]:
        """The wrapper's options out of a saved group; ours where it has none, as in a checkpoint of the base alone."""
        return {key: saved.get(key, 0 if key in self.counters else group[key]) for key in self._keys()}

    def _own_state(self, state_dict: Mapping[str, Any]) -> list[tuple[Tensor, str, Tensor]]:
        """The wrapper's tensors in a checkpoint, each with the parameter it belongs to."""
        own = []
        for group, saved in zip(self.param_groups, state_dict["param_groups"], strict=True):
            for index, (param, key) in enumerate(zip(group["params"], saved["params"], strict=True)):
                for name, value in state_dict["state"].get(key, {}).items():
                    if not self._is_own_state(name):
                        continue
                    found = tuple(value.shape) if isinstance(value, Tensor) else f"none, being {value!r},"
                    if found != tuple(param.shape):
                        raise ValueError(
                            f"{name!r} of {describe(group, index)} has shape {found} in the checkpoint, the parameter "
                            f"has {tuple(param.shape)}"
                        )
                    own.append((param, name, value))
        return own

    def _for_base(self, state_dict: Mapping[str, Any], adopting: bool) -> dict[str, Any]:
        """The base's part of a checkpoint; copied for bases that would share its tensors."""
        keys = set(self._keys())
        state = {
            key: {name: value for name, value in saved.items() if not self._is_own_state(name)}
            if isinstance(saved, Mapping)
            else saved
            for key, saved in state_dict["state"].items()
        }
        groups = [
            {name: value for name, value in group.items() if name not in keys} for group in state_dict["param_groups"]
        ]
        if not isinstance(self.base_optimizer, (Optimizer, OptimizerWrapper)):
            state = copy.deepcopy(state)
            if adopting:
                groups = [checkpoints.constructed(*pair) for pair in zip(self.param_groups, groups, strict=True)]
        adopt = {checkpoints.ADOPT: True} if adopting else {}
        return {**state_dict, **adopt, "state": state, "param_groups": groups}

    def __getstate__(self) -> dict[str, Any]:
        self.check("a copy")  # by pickle or deepcopy
        return {"base_optimizer": self.base_optimizer}

    def __setstate__(self, state: dict[str, Any]) -> None:
        known = "differentiable" in state["base_optimizer"].defaults
        super().__setstate__(state)  # makes the hooks, which a copy starts without
        if not known:
            self.defaults.pop("differentiable", None)  # which torch.optim adds, and only its own optimizers read

    def __repr__(self) -> str:
        return f"{type(self).__name__} around {self.base_optimizer!r}"
