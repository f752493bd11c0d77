"""The base class: one step loop for every optimizer, every mode and every kind of parameter."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from . import checkpoints, joining, rule
from . import options as option_rules
from .buckets import Bucket, Piece, default_piece, flat_pieces, measured_piece, pieces, sharding, zeros
from .closures import Closure, evaluated
from .first_step import FirstStep
from .fused import SMALLEST, Fused, fused_rule
from .options import Options, describe
from .reports import Reporting
from .scalars import hyperparameters, precise, split, table, wrapped
from .scaled import Scaled, reduce_counts

_FLAGS = frozenset({bool, str, type(None)})
# A tensor, because foreach would make one of a number for every step count.
_ONE = torch.tensor(1.0, dtype=torch.float64, device="cpu")


class Optimizer(FirstStep, Reporting, torch.optim.Optimizer):
    """Base of the optimizers here: θ ← θ − lr · (gain · T(u) + λθ) with u = update(p, g, s, h).

    A subclass names its ``buffers`` and writes ``update`` in Tensor's methods; the base does everything else: parameter
    groups, gradients, step counts, transforms T, weight decay, modes, precision, sharding and checkpoints. ``p``, ``g``
    and ``s.<buffer>`` are Tensors or TensorLists, ``h.<option>`` the group's options (``betas`` as ``h.beta1``, ...)
    and what ``scalars`` and ``prepare`` add. ``update`` returns a new tensor, or g itself, may overwrite its buffers,
    and must not write into p or g.

    A tensor that ``update`` or ``measure`` sees may be a piece of a parameter, or many parameters at once. So there are
    only operators and elementwise methods, those that :class:`~optzoo.optimizers.core.TensorList` lists: ``abs``,
    ``clamp``, ``exp``, ``lerp_``, ``maximum``, ``pow``, ``sqrt``, ``where`` and so on. Reductions, products of
    matrices, shapes and indices raise at the first step. Norms of whole parameters come from ``measure``.

    >>> import torch
    >>> class SignedMomentum(Optimizer):
    ...     buffers = ("exp_avg",)
    ...     def __init__(self, params, lr=1e-3, betas=(0.9,), **options):
    ...         super().__init__(params, dict(lr=lr, betas=betas, weight_decay=0.0), options)
    ...     @staticmethod
    ...     def update(p, g, s, h):
    ...         return s.exp_avg.lerp_(g, 1 - h.beta1).sign()
    >>> w = torch.nn.Parameter(torch.tensor([1.0, -2.0]))
    >>> w.grad = torch.tensor([3.0, -4.0])
    >>> SignedMomentum([w], lr=0.5).step(); w.data
    tensor([ 0.5000, -1.5000])
    """

    buffers: ClassVar[tuple[str, ...]] = ()
    """State tensors per parameter: zeros of its shape at first, in float32 where the parameter's precision is less."""
    scalar_buffers: ClassVar[tuple[str, ...]] = ()
    """State of one number per parameter, which ``update`` does not see."""
    optional_buffers: ClassVar[frozenset[str]] = frozenset()
    """What ``buffer_names`` returns beside ``buffers`` under some options."""
    recoverable: ClassVar[frozenset[str]] = frozenset()
    """Buffers that may start afresh when a loaded checkpoint lacks them."""
    rules: ClassVar[Mapping[str, option_rules.Rule]] = {}
    """Ranges of the options that are this optimizer's own."""
    presets: ClassVar[Mapping[str, Any]] = {}
    """Defaults of shared options that differ in this class."""
    variants: ClassVar[frozenset[str]] = frozenset({"cautious", "grams", "decoupled_weight_decay"})
    """Options that make one optimizer of another: they are not taken from another's checkpoint."""
    __signature__: ClassVar[inspect.Signature]
    _rehearsed: ClassVar[set[Any]] = set()
    """Buffers and flags that ``update`` has been tried with."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.__signature__ = option_rules.expand_signature(cls)
        cls._rehearsed = set()

    def __init__(self, params: ParamsT, defaults: dict[str, Any], options: Options) -> None:
        name = type(self).__name__
        option_rules.refuse_differentiable(name, options)
        shared: dict[str, Any] = {key: value for key, value in options.items() if key != "differentiable"}
        unknown = shared.keys() - option_rules.DEFAULTS.keys()
        if unknown:
            option_rules.reject_unknown(type(self), unknown)
        defaults = {"decoupled_weight_decay": True, **defaults, **option_rules.DEFAULTS, **self.presets, **shared}
        option_rules.validate(name, defaults, defaults, self._rules())
        params = option_rules.given_params(name, params)
        if not isinstance(params, Tensor) and not params:
            raise ValueError(f"{name}: params is empty; the model has none, or the iterator was read before")
        super().__init__(params, defaults)

    def _rules(self) -> Mapping[str, option_rules.Rule]:
        return {**option_rules.RULES, **self.rules}

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """As in torch.optim; options the group does not name are the constructor's. Raises before anything changes.

        Where the other groups have names and this has none, parameter i is called ``added.<number of the group>.<i>``;
        where they have none, names are dropped. A tensor that another group has, such as an lr, is copied.
        """
        name = type(self).__name__
        option_rules.warn_of_near_misses(name, param_group, self.defaults)
        group: dict[str, Any] = {**self.defaults, **param_group}
        option_rules.validate(name, group, self.defaults, self._rules())
        group["params"] = option_rules.given_params(name, group["params"])
        self.check_group(group)
        group = joining.named_alike(group, self.param_groups)
        joining.make_writable(name, group)
        joining.own_tensors([*self.param_groups, group, self.defaults])
        super().add_param_group(group)

    # What a subclass says

    @staticmethod
    def update(p: Any, g: Any, s: Any, h: Any) -> Any:
        """The direction u of the paper, from parameter, gradient, buffers and the numbers of this step."""
        raise NotImplementedError("an optimizer defines update(p, g, s, h)")

    @staticmethod
    def measure(p: Any, g: Any, s: Any, h: Any) -> tuple[Any, ...]:
        """Quantities of p's shape whose norms over whole parameters the step needs before the first update."""
        raise NotImplementedError("an optimizer that asks for norms defines measure(p, g, s, h)")

    def prepare(self, buckets: Sequence[Bucket]) -> None:
        """Add to the ``h`` of ``buckets`` what takes whole parameters, or all of them, to know; before any update.

        Such numbers are float64 tensors, one for a bucket or one per parameter. :meth:`square_sums` measures.
        """

    def prepare_bucket(self, bucket: Bucket) -> None:
        """The same for one bucket, just before its update: for what takes memory until then."""

    def kind(self, group: Mapping[str, Any], param: Tensor) -> Any:
        """What parameters of a bucket must have in common beside group, device, dtype, sharding and step."""
        return None

    @staticmethod
    def scalars(h: Any) -> None:
        """Add to ``h`` the numbers of this step that ``update`` needs beside the options, such as bias corrections.

        ``h.gain`` (1) is a positive factor of u that all coordinates share: as part of the step size it costs nothing.
        ``h.step`` counts this parameter's steps from 1. It is a float, or a float64 tensor where counts live on the
        device, so only arithmetic and the functions of scalars.py apply.
        """

    def buffer_names(self, group: Mapping[str, Any], param: Tensor) -> tuple[str, ...]:
        """The buffers a group's options call for."""
        return self.buffers

    def buffer_kind(self, name: str, param: Tensor, group: Mapping[str, Any]) -> tuple[Sequence[int], torch.dtype]:
        """Shape and dtype of a buffer. A dimension of ``param`` that it lacks has size 1 there."""
        if name in self.scalar_buffers:
            return (), rule.real_dtype(param.dtype)
        return param.shape, rule.working_dtype(param.dtype)

    def new_buffer(self, name: str, param: Tensor, state: Mapping[str, Any], group: Mapping[str, Any]) -> Tensor:
        """The first value of a buffer; ``state`` holds the buffers named before it."""
        return zeros(param, *self.buffer_kind(name, param, group))

    def check_group(self, group: Mapping[str, Any]) -> None:
        """Raise ValueError for options that do not go together."""

    def takes_whole_parameters(self, group: Mapping[str, Any]) -> bool:
        cls = type(self)
        prepares = cls.prepare is not Optimizer.prepare or cls.prepare_bucket is not Optimizer.prepare_bucket
        return prepares or bool(group["cautious"] and group["cautious_scale"] is not None)

    def saved_options(self, saved: Mapping[str, Any]) -> Mapping[str, Any]:
        """A saved group as this version would have saved it."""
        return saved

    def on_load(self, group: dict[str, Any], saved: Mapping[str, Any], step: int) -> None:
        """Adjust the options ``group``, or refuse, for the state of ``step`` steps under the options ``saved``."""

    @property
    def own_options(self) -> frozenset[str]:
        """Options that loading a checkpoint leaves alone: how to run, and what makes the class what it is."""
        fixed = self.variants - inspect.signature(type(self)).parameters.keys()
        return option_rules.MODES | self.presets.keys() | fixed

    # The step

    @torch.no_grad()
    def step(self, closure: Closure | None = None) -> Any:
        """Update every parameter that has a gradient; its gradient is read and never written.

        closure: evaluated once, with gradients enabled, before the update; its value is returned.
        """
        loss = None if closure is None else evaluated(closure)
        self.descend(self.buckets(lambda p: p.grad))
        return loss

    def descend(self, buckets: Sequence[Bucket]) -> None:
        """The step itself, once the gradients are known."""
        for bucket in buckets:
            bucket.h = self.numbers(bucket)
        self.prepare(buckets)
        sharded: list[Scaled] = []
        for bucket in buckets:
            self.prepare_bucket(bucket)
            self._step_bucket(bucket, sharded)
        if sharded:
            reduce_counts(sharded)
            for scaled in sharded:
                scaled.finish()

    def numbers(self, bucket: Bucket) -> Any:
        """The ``h`` of a bucket, but for what :meth:`prepare` adds."""
        names = [name for name in self.defaults if name not in option_rules.MODES]
        h = hyperparameters(bucket.group, names, bucket.step())
        self.scalars(h)
        return h

    def _step_bucket(self, bucket: Bucket, sharded: list[Scaled]) -> None:
        """Step a bucket's parameters, except that sharded updates that need a scale are left in ``sharded``."""
        h = bucket.h
        self._rehearse(bucket)
        scaled = Scaled(bucket, h, self) if rule.needs_count(h, self.recording) else None
        compiled = []
        for run, piece, numbers in self._pass(bucket, default_piece(bucket.device)):
            if isinstance(run, Fused):
                compiled += [bucket.params[row] for row in piece.rows]
            if scaled is None:
                run.whole(piece, numbers)
                continue
            scaled.add(run, piece, numbers)
            if piece.complete and not bucket.sharding:
                scaled.finish()
        torch.autograd.graph.increment_version(compiled)
        if scaled is not None and bucket.sharding:
            sharded.append(scaled)

    def _rehearse(self, bucket: Bucket) -> None:
        """See :func:`.rule.rehearse`: once in every path that flags choose through the code."""
        if torch.compiler.is_compiling():
            return
        path = (bucket.buffers, *[value for value in vars(bucket.h).values() if type(value) in _FLAGS])
        if path not in self._rehearsed:
            rule.rehearse(self.update, bucket)
            self._rehearsed.add(path)

    def square_sums(self, bucket: Bucket) -> Tensor:
        """The square sum of each quantity that ``measure`` returns: (parameters, quantities), of local shards."""
        rows: list[int] = []
        columns: list[list[Tensor]] = []
        for run, piece, numbers in self._pass(bucket, measured_piece(bucket.device), wrap=True):
            rows += piece.rows
            norms = run.norms(piece, numbers)
            columns = columns or [[] for _ in norms]
            for column, norm in zip(columns, norms, strict=True):
                column += norm
        squares = torch.stack([precise(torch.stack(column)) for column in columns], dim=1).square_()
        if rows == list(range(len(bucket.rows))):
            return squares
        index = torch.tensor(rows).to(bucket.device, non_blocking=True)
        return squares.new_zeros(len(bucket.rows), len(columns)).index_add_(0, index, squares)

    def _pass(self, bucket: Bucket, size: float, wrap: bool = False) -> Iterator[tuple[rule.Eager | Fused, Piece, Any]]:
        """A pass over a bucket: its parameters in pieces, each with what runs it and the numbers that takes."""
        h, group = bucket.h, bucket.group
        rest: Sequence[int] = range(len(bucket.rows))
        compiling = torch.compiler.is_compiling()
        if group["fused"] and not compiling:
            numbers, flags = split(h)
            fused = fused_rule(self.update, self.measure, bucket.buffers, tuple(numbers), tuple(flags.items()))
            hs = table(numbers, len(bucket.rows), bucket.device)
            big = {piece.rows[0]: piece for piece in flat_pieces(bucket, SMALLEST)}
            for row, piece in big.items():
                yield fused, piece, hs[row]
            rest = [row for row in rest if row not in big]
        eager = rule.Eager(self.update, self.measure)
        on_tensors = any(isinstance(value, Tensor) for value in vars(h).values())
        pack = (group["foreach"] is not False or wrap) and not compiling
        for piece in pieces(bucket, rest, size, pack, wrap=on_tensors or wrap):
            yield eager, piece, wrapped(h, piece.rows) if on_tensors else h

    def buckets(self, gradient: Callable[[Tensor], Tensor | None]) -> list[Bucket]:
        """Count this step and sort the parameters that have a gradient into buckets."""
        if not torch.compiler.is_compiling():
            self.begin()
        work = []
        for group in self.param_groups:
            for i, p in enumerate(group["params"]):
                g = gradient(p)
                if g is None:
                    continue
                if g.layout is not torch.strided:
                    raise RuntimeError(
                        f"{type(self).__name__} takes dense gradients only; that of {describe(group, i)} is {g.layout}."
                        " Make the layer with sparse=False, or give it to torch.optim.SparseAdam"
                    )
                work.append((group, self.buffer_names(group, p), p, g))
        self.make_state([(group, p) for group, _, p, _ in work])
        states = [self.state[p] for _, _, p, _ in work]
        on_device = torch.compiler.is_compiling()
        host = [
            s["step"] for s, (group, *_) in zip(states, work, strict=True) if not (on_device or group["capturable"])
        ]
        if host:
            torch._foreach_add_(host, _ONE)
        counts = iter(torch.stack(host).tolist() if host else ())
        buckets: dict[Any, Bucket] = {}
        for state, (group, names, p, g) in zip(states, work, strict=True):
            count = None if on_device or group["capturable"] else next(counts)
            key = (id(group), p.device, p.dtype, sharding(p), count, names, self.kind(group, p))
            if key not in buckets:
                buckets[key] = Bucket(group, names, sharding(p), count)
            buckets[key].add(p, g, state)
        for bucket in buckets.values():
            if bucket.count is None:
                torch._foreach_add_([state["step"] for state in bucket.states], 1)
        return list(buckets.values())

    # State

    def init_state(self) -> None:
        """Make the state of every trainable parameter now, without a step.

        State is otherwise made at a parameter's first step. Call this before torch.distributed.checkpoint reads or
        loads a fresh optimizer: it would else make the state by a step of its own, which counts.
        """
        self.make_state([(group, p) for group in self.param_groups for p in group["params"] if p.requires_grad])

    def make_state(self, params: Sequence[tuple[Mapping[str, Any], Tensor]]) -> None:
        """Make what state parameters, given with their groups, lack."""
        for group, p in params:
            self._complete_state(p, group)

    def _complete_state(self, p: Tensor, group: Mapping[str, Any]) -> None:
        """Make the state ``p`` lacks: all at first, a buffer when an option comes to need it."""
        state: dict[str, Any] = self.state[p]
        if "step" not in state:
            state["step"] = checkpoints.count(0, p, group)
        for name in (*self.buffer_names(group, p), *self.scalar_buffers):
            if name not in state:
                state[name] = self.new_buffer(name, p, state, group)

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore what pickle, deepcopy and load_state_dict carry; options unknown to an older version get defaults."""
        super().__setstate__(state)
        self.defaults.pop("differentiable", None)  # torch.optim's, which it adds here
        self.defaults = {**option_rules.DEFAULTS, **self.presets, **self.defaults}
        for group in self.param_groups:
            for name, value in self.defaults.items():
                group.setdefault(name, value)
        joining.own_tensors([*self.param_groups, self.defaults])

    def state_dict(self) -> dict[str, Any]:
        """As in torch.optim, with the name of the class as ``"optimizer"``, so that another one knows whose it is.

        Without options that are functions: a file cannot hold them, and loading keeps its own.
        """
        state_dict = super().state_dict()
        groups = [
            {name: value for name, value in group.items() if not callable(value)}
            for group in state_dict["param_groups"]
        ]
        return {**state_dict, "param_groups": groups, checkpoints.OPTIMIZER: type(self).__name__}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Resume from a copy of ``state_dict``, of this class or of one that keeps the same moments, torch's included.

        As in torch.optim the checkpoint's options win, but for ``own_options``. What makes a class what it is does not
        change: on the file of another optimizer AdamW does not become cautious, CAdamW stays it, and Lion keeps its own
        lr and betas, which mean something else than AdamW's. A warning then names what the file says and what holds.
        :func:`optzoo.optimizers.adopt` keeps all options.

        Each buffer keeps its precision: torch.optim would cast float32 moments of bfloat16 parameters to bfloat16. What
        users and other libraries keep in ``state`` stays there, as in torch.optim.

        Raises ValueError, and leaves the optimizer as it is, where groups, names, shapes or moments do not fit.
        """
        fitted: list[checkpoints.Fitted] = []

        def fit(_: Any, incoming: dict[str, Any]) -> dict[str, Any]:
            adopting = checkpoints.ADOPT in state_dict or checkpoints.ADOPT in incoming
            fitted.append(checkpoints.fit(self, incoming, adopting))
            return fitted[0].state_dict

        handle = self.register_load_state_dict_pre_hook(fit)  # the last hook, so it sees what users' hooks make of it
        try:
            super().load_state_dict(state_dict)
        finally:
            handle.remove()
        checkpoints.restore(self, fitted[0].state_dict)
        if fitted[0].warning:
            warnings.warn(fitted[0].warning, stacklevel=2)

    def has_state(self, p: Tensor) -> bool:
        """Whether ``p`` has made a step, or ``init_state`` its state. (Users may keep something there before.)"""
        return "step" in self.state.get(p, ())
