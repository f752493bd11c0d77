"""Parameter groups of a model, for any optimizer: what decays, layer-wise learning rates, overrides by name."""

from __future__ import annotations

import difflib
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

from torch import Tensor, nn

from .core.options import FRACTION, NON_NEGATIVE, RULES

NO_DECAY = ("bias", "norm", "no_weight_decay")
"""What does not decay by default."""


def param_groups(
    model: nn.Module,
    weight_decay: float | None = 0.0,
    *,
    lr: float | Tensor | None = None,
    no_decay: Sequence[str] = NO_DECAY,
    layer_decay: float | None = None,
    layer_of: Callable[[str], int] | None = None,
    overrides: Mapping[str, Mapping[str, Any]] | None = None,
    include_frozen: bool | None = None,
) -> list[dict[str, Any]]:
    """Every trainable parameter of ``model`` in exactly one group, ready for any optimizer of optzoo or torch.

    A parameter of layer k = 0 (stem) … K (head) gets

        lr_k = lr · layer_decay^(K − k),    weight_decay, or 0 where ``no_decay`` names it.

    Parameters are passed with their names, which torch.optim keeps as ``group["param_names"]``. Each group has a
    ``"name"``, which Lightning's LearningRateMonitor shows. Shared parameters appear once, under their first name.
    Groups are in the model's order and never empty.

    Args:
        model: the module to train; may be compiled. With FSDP1, whose flat parameters have lost their shapes, call this
            before wrapping.
        weight_decay: for the parameters that decay, >= 0. It is set in every group, so the optimizer's own is not used.
            Default 0, under which nothing decays. None leaves it to the optimizer where parameters decay.
        lr: set in every group, >= 0, a number or a Tensor of one element. None (default) leaves it to the optimizer.
        no_decay: which parameters do not decay. Kinds, and glob patterns for names (``"*.pos_embed"``; ``*`` also
            matches dots):
            ``"bias"``: at most one dimension (biases, gains, layer scales), or called ``bias``;
            ``"norm"``: owned by a normalisation module, of torch or of a class called ``…Norm``;
            ``"embedding"``: owned by ``nn.Embedding`` or ``nn.EmbeddingBag``;
            ``"no_weight_decay"``: named by the method ``no_weight_decay()`` of the model or of a module in it, as
            timm's models have it for position tables and class tokens.
            Default ``("bias", "norm", "no_weight_decay")``, as BERT, GPT-2 and timm's models were trained; ``()`` makes
            everything decay.
        layer_decay: in (0, 1]; needs ``lr``. Default None: one lr. Fine-tuning practice is 0.65 to 0.9, from Clark et
            al., ELECTRA, 2020, arXiv:2003.10555 and Bao et al., BEiT, 2022, arXiv:2106.08254.
        layer_of: the layer of a parameter's name, an int >= 0. By default the model's blocks, layers 1, 2, …, are the
            children of the longest ``nn.ModuleList`` or ``nn.Sequential`` that is not itself inside a block; what is
            registered before them is layer 0, what comes after is the last. Give it for models with several stacks
            (encoder and decoder, stages of a ResNet).
        overrides: glob pattern for names → options of the matching parameters, such as
            ``{"head.*": {"lr": 1e-2, "betas": (0.9, 0.99)}}``. They replace what the arguments above say; a later
            pattern wins over an earlier one.
        include_frozen: whether frozen parameters (``requires_grad=False``) get into the groups too, to be trained once
            they are unfrozen; until then they have no state and do not move. None (default) and False leave them out:
            for good, or until somebody adds them, as Lightning's BackboneFinetuning does. None says so in a warning,
            unless the model has adapters of PEFT.

    Raises:
        TypeError, ValueError: an argument is not what is written above, a pattern matches no parameter, the model has
            no trainable parameter, or no blocks to tell its layers by.

    >>> import torch
    >>> model = nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.Linear(8, 2))
    >>> groups = param_groups(model, weight_decay=0.1, overrides={"2.*": {"lr": 1e-2}})
    >>> for group in groups:
    ...     print(group["name"], group["weight_decay"], [name for name, _ in group["params"]])
    decay 0.1 ['0.weight']
    no_decay 0.0 ['0.bias', '1.weight', '1.bias']
    decay 2.* 0.1 ['2.weight']
    no_decay 2.* 0.0 ['2.bias']
    >>> optimizer = torch.optim.AdamW(groups, lr=1e-3)
    """
    _check_model(model)
    _check_numbers(weight_decay, lr, layer_decay)
    parameters = parameters_of(model)
    _check_frozen(model, parameters, include_frozen)
    exempt = _exemption(no_decay, parameters)
    layers = _layers(model, parameters, layer_decay, layer_of)
    depth = max(layers.values(), default=0)
    override = _overriding({} if overrides is None else overrides, parameters)

    groups: dict[tuple[str, ...], dict[str, Any]] = {}
    for p in parameters:
        if not (include_frozen or p.tensor.requires_grad):
            continue
        decays = not exempt(p)  # whatever weight_decay is: a resumed run may have another, in the same groups
        decay = weight_decay if decays else 0.0
        options: dict[str, Any] = {} if decay is None else {"weight_decay": float(decay)}
        if lr is not None:
            options["lr"] = lr * (layer_decay or 1.0) ** (depth - layers.get(p.name, 0))
        patterns, own = override(p)
        label = _label(layers.get(p.name), decays, patterns, own)
        group = groups.setdefault(label, {"params": [], "name": " ".join(label), **options, **own})
        group["params"].append((p.name, p.tensor))
    return list(groups.values())


@dataclass(eq=False)
class Parameter:
    """A parameter, the names it goes by and the modules that own it: more than one where it is shared."""

    tensor: nn.Parameter
    names: list[str] = field(default_factory=list)
    owners: list[nn.Module] = field(default_factory=list)
    named_by_model: bool = False
    """A module says that it does not decay."""

    @property
    def name(self) -> str:
        return self.names[0]

    def matches(self, pattern: str) -> bool:
        return any(fnmatchcase(name, pattern) for name in self.names)


def parameters_of(model: nn.Module) -> list[Parameter]:
    """All parameters, each once, in the model's order."""
    found: dict[nn.Parameter, Parameter] = {}
    for path, module in model.named_modules(remove_duplicate=False):
        for name, tensor in module.named_parameters(path, recurse=False, remove_duplicate=False):
            p = found.setdefault(tensor, Parameter(tensor))
            p.names.append(plain(name))
            p.owners.append(module)
    exempt = list(_named_by_modules(model))
    for p in found.values():
        p.named_by_model = any(map(p.matches, exempt))
    return list(found.values())


def _named_by_modules(model: nn.Module) -> Iterator[str]:
    """Patterns of what ``no_weight_decay()`` names, with the path of the module that has the method."""
    for path, module in model.named_modules(remove_duplicate=False):
        names = getattr(module, "no_weight_decay", None)
        if names is not None:
            yield from (plain(f"{path}." if path else "") + name for name in (names() if callable(names) else names))


def plain(name: str) -> str:
    """The name without what torch.compile, activation checkpointing and FSDP1 put into it."""
    return re.sub(r"(^|(?<=\.))(_orig_mod|_checkpoint_wrapped_module|_fsdp_wrapped_module)\.", "", name)


# Which parameters do not decay


def _is_bias(p: Parameter) -> bool:
    return p.tensor.ndim <= 1 or any(name.split(".")[-1] == "bias" for name in p.names)


def _is_norm(p: Parameter) -> bool:
    """By torch's classes, or by name for the many others (LlamaRMSNorm, LayerNorm2d)."""
    norms = (nn.LayerNorm, nn.RMSNorm, nn.GroupNorm, nn.modules.batchnorm._NormBase)
    return any(isinstance(m, norms) or re.search(r"Norm(\dd)?$", type(m).__name__) for m in p.owners)


def is_embedding(p: Parameter) -> bool:
    return any(isinstance(m, (nn.Embedding, nn.EmbeddingBag)) for m in p.owners)


_KINDS: Mapping[str, Callable[[Parameter], bool]] = {
    "bias": _is_bias,
    "norm": _is_norm,
    "embedding": is_embedding,
    "no_weight_decay": lambda p: p.named_by_model,
}


def _exemption(no_decay: Sequence[str], parameters: list[Parameter]) -> Callable[[Parameter], bool]:
    """Whether ``no_decay`` names a parameter, by kind or by pattern."""
    if isinstance(no_decay, str) or not all(isinstance(entry, str) for entry in no_decay):
        raise TypeError(f'param_groups: no_decay must be a sequence of strings such as ("bias",), got {no_decay!r}')
    kinds = [_KINDS[entry] for entry in no_decay if entry in _KINDS]
    patterns = [entry for entry in no_decay if entry not in _KINDS]
    check_patterns("no_decay", patterns, parameters, kinds=_KINDS)
    return lambda p: any(kind(p) for kind in kinds) or any(p.matches(pattern) for pattern in patterns)


# Which layer a parameter belongs to


def _layers(
    model: nn.Module, parameters: list[Parameter], layer_decay: float | None, layer_of: Callable[[str], int] | None
) -> dict[str, int]:
    """Layer by parameter name, empty without ``layer_decay``. A shared parameter is in the lowest of its layers."""
    if layer_decay is None:
        if layer_of is not None:
            raise ValueError("param_groups: layer_of has no effect without layer_decay, give both or neither")
        return {}
    if layer_of is None:
        layer_of = _layer_by_structure(model, parameters)
    layers = {p.name: min(map(layer_of, p.names)) for p in parameters}
    for name, layer in layers.items():
        if not isinstance(layer, int) or layer < 0:
            raise ValueError(f"param_groups: layer_of must return an int >= 0, got {layer!r} for {name!r}")
    return layers


def _layer_by_structure(model: nn.Module, parameters: list[Parameter]) -> Callable[[str], int]:
    blocks = [plain(path + ".") for path in blocks_of(model)]
    if len(blocks) < 2:
        raise ValueError(
            f"param_groups: layer_decay finds no nn.ModuleList or nn.Sequential of blocks in {type(model).__name__}; "
            "say which layer a parameter is in with layer_of=lambda name: ..."
        )

    def block_of(name: str) -> int | None:
        return next((k for k, block in enumerate(blocks, start=1) if name.startswith(block)), None)

    before: set[str] = set()
    for p in parameters:
        if block_of(p.name) is not None:
            break
        before.add(p.name)

    def layer_of(name: str) -> int:
        return block_of(name) or (0 if name in before else len(blocks) + 1)

    return layer_of


def blocks_of(module: nn.Module, path: str = "") -> list[str]:
    """The paths of the children with parameters of the longest list of modules; the outermost of equally long ones."""
    children = [(name, child) for name, child in module.named_children() if any(True for _ in child.parameters())]
    paths = [f"{path}.{name}" if path else name for name, _ in children]
    chain = paths if isinstance(module, (nn.ModuleList, nn.Sequential)) else []
    kinds = {type(child) for _, child in children}
    if len(chain) > 1 and len(kinds) == 1 and not kinds & {nn.ModuleList, nn.Sequential}:
        return chain  # a stack of equal blocks; a list inside a block, however long, is not the model's depth
    return max([chain, *(blocks_of(child, path) for path, (_, child) in zip(paths, children, strict=True))], key=len)


# What is overridden


def _overriding(
    overrides: Mapping[str, Mapping[str, Any]], parameters: list[Parameter]
) -> Callable[[Parameter], tuple[list[str], dict[str, Any]]]:
    """The patterns that match a parameter and the options they give it together."""
    if not isinstance(overrides, Mapping):
        raise TypeError(f"param_groups: overrides must be a mapping of patterns to options, got {overrides!r}")
    for pattern, options in overrides.items():
        if not isinstance(options, Mapping):
            raise TypeError(f"param_groups: overrides[{pattern!r}] must be a mapping of options, got {options!r}")
        if taken := {"params", "param_names", "name"} & options.keys():
            raise ValueError(f"param_groups: overrides[{pattern!r}] must not set {sorted(taken)}")
    check_patterns("overrides pattern", overrides, parameters)

    def override(p: Parameter) -> tuple[list[str], dict[str, Any]]:
        patterns = [pattern for pattern in overrides if p.matches(pattern)]
        return patterns, {name: value for pattern in patterns for name, value in overrides[pattern].items()}

    return override


def _label(layer: int | None, decays: bool, patterns: list[str], own: Mapping[str, Any]) -> tuple[str, ...]:
    """What tells a group from the others; a setting that is overridden does not."""

    def parts() -> Iterator[str]:
        if layer is not None and "lr" not in own:
            yield f"layer_{layer}"
        if "weight_decay" not in own:
            yield "decay" if decays else "no_decay"
        yield from patterns

    return tuple(parts())


# Errors


def _check_model(model: object) -> None:
    if not isinstance(model, nn.Module):
        raise TypeError(
            f"param_groups: model must be an nn.Module, got {type(model).__name__}; pass the model, not parameters"
        )


def _check_frozen(model: nn.Module, parameters: list[Parameter], include: bool | None) -> None:
    """Whether there is something to train, and what a user may not know of: that the rest is left out."""
    name = type(model).__name__
    if include not in (None, True, False):
        raise ValueError(f"param_groups: include_frozen must be None, True or False, got {include!r}")
    frozen = [p.name for p in parameters if not p.tensor.requires_grad]
    if len(frozen) == len(parameters) and not (include and frozen):
        raise ValueError(
            f"param_groups: {name} has no trainable parameter; set requires_grad on those to train"
            + (", or give include_frozen=True" if frozen else "")
        )
    if include is None and frozen and not any(hasattr(module, "peft_config") for module in model.modules()):
        warnings.warn(
            f"param_groups: {len(frozen)} of {len(parameters)} parameters of {name} are frozen and left out, "
            f"{frozen[0]!r} the first; they will not be trained when they are unfrozen. include_frozen=True takes them "
            "in, include_frozen=False leaves them out without this warning",
            stacklevel=3,
        )


def _check_numbers(weight_decay: object, lr: object, layer_decay: object) -> None:
    if weight_decay is not None and not NON_NEGATIVE.holds(weight_decay):
        raise ValueError(f"param_groups: weight_decay must be {NON_NEGATIVE.wording} or None, got {weight_decay!r}")
    if lr is not None and not RULES["lr"].holds(lr):
        raise ValueError(f"param_groups: lr must be {NON_NEGATIVE.wording} or None, got {lr!r}")
    if layer_decay is not None and not FRACTION.holds(layer_decay):
        raise ValueError(f"param_groups: layer_decay must be {FRACTION.wording} or None, got {layer_decay!r}")
    if layer_decay is not None and lr is None:
        raise ValueError(f"param_groups: layer_decay={layer_decay!r} scales lr, so give lr as well")


def check_patterns(
    argument: str,
    patterns: Iterable[str],
    parameters: list[Parameter],
    kinds: Iterable[str] = (),
    owner: str = "param_groups",
) -> None:
    """What names no parameter, frozen ones included, was mistyped: say what is nearest to it."""
    for pattern in patterns:
        if any(p.matches(pattern) for p in parameters):
            continue
        names = [*kinds, *(name for p in parameters for name in p.names)]
        near = difflib.get_close_matches(pattern, names, n=3, cutoff=0.3) or names[-3:]
        problem = f"is no kind ({', '.join(kinds)}) and matches no parameter" if kinds else "matches no parameter"
        raise ValueError(f"{owner}: {argument} {pattern!r} {problem}; nearest: {', '.join(map(repr, near))}")
