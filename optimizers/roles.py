"""Which parameters of a model are for an optimizer of matrices, and AdamW's groups for the rest."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

from torch import Tensor, nn

from .groups import NO_DECAY, Parameter, blocks_of, check_patterns, is_embedding, param_groups, parameters_of, plain

ROLES = ("matrices", "embeddings", "head", "vectors")
Groups: TypeAlias = list[dict[str, Any]]


def matrix_groups(
    model: nn.Module,
    weight_decay: float | None = 0.0,
    *,
    fallback_lr: float | Tensor | None = 1e-3,
    split: Mapping[str, int | Sequence[int]] | None = None,
    embeddings: Sequence[str] = (),
    head: Sequence[str] | None = None,
    no_decay: Sequence[str] = NO_DECAY,
    include_frozen: bool | None = None,
) -> Groups:
    """The trainable parameters of ``model`` by role, for an optimizer of matrices such as :class:`Muon`.

    The optimizer's own are the ``"matrices"``: hidden matrices and convolutions. The others are AdamW's, with
    ``adamw=True`` and an lr of their own: ``"embeddings"``, whose rows mostly have no gradient, the ``"head"``, that
    is the output layer, whose rows are classes, and ``"vectors"``. The role is the group's ``"name"``; followed by
    ``decay`` or ``no_decay`` where that is not what its role has by default, and by the rows where it is split. It is
    one optimizer, so one scheduler scales every group's lr, each from its own.

    Args:
        model: the module to train.
        weight_decay: for the parameters that decay, >= 0. Default 0; None leaves it to the optimizer.
        fallback_lr: lr of AdamW's groups. Default 1e-3, AdamW's own; None: no roles, all groups are the optimizer's.
        split: glob pattern for names → the matrices, one below the other, that a fused parameter consists of: how many
            of equal size, or the rows of each, as in ``{"*.qkv.weight": 3}`` or ``{"*.qkv.weight": (512, 128, 128)}``.
            Default None.
        embeddings: glob patterns of parameters that are embeddings too, beside those of ``nn.Embedding`` and those that
            a module's ``no_weight_decay()`` names (position tables). Default none.
        head: glob patterns of the output layer's parameters. Default None: what Hugging Face's
            ``get_output_embeddings()`` returns, else the last matrix after the model's blocks, or, without blocks, the
            last one of several; ``()``: there is none.
        no_decay, include_frozen: which parameters do not decay, and whether frozen ones are there, see
            :func:`optzoo.optimizers.param_groups`.

    Raises:
        TypeError, ValueError: as :func:`optzoo.optimizers.param_groups`; a split that is not the rows of a parameter.

    >>> model = nn.Sequential(nn.Embedding(10, 4), nn.Linear(4, 12), nn.Linear(12, 10))
    >>> for group in matrix_groups(model, weight_decay=0.1, split={"1.weight": 3}):
    ...     print(group["name"], group["weight_decay"], group.get("lr"), [name for name, _ in group["params"]])
    matrices 4+4+4 0.1 None ['1.weight']
    embeddings 0.1 0.001 ['0.weight']
    head 0.1 0.001 ['2.weight']
    vectors 0.0 0.001 ['1.bias', '2.bias']
    """
    groups = param_groups(model, weight_decay, no_decay=no_decay, include_frozen=include_frozen)
    if fallback_lr is None and split:
        raise ValueError(f"matrix_groups: split={split!r} is of matrices by role; give a fallback_lr")
    if fallback_lr is None:
        return groups
    roles = _roles(model, embeddings, head)
    rows = _rows({} if split is None else split, [p for p, role in roles.items() if role == "matrices"])
    role_of: dict[Tensor, str] = {p.tensor: role for p, role in roles.items()}

    def place(_: int, group: Mapping[str, Any], tensor: Tensor) -> tuple[Any, str, dict[str, Any]]:
        role = role_of[tensor]
        label = [role] if (group["name"] == "decay") == (role != "vectors") else [role, group["name"]]
        own: dict[str, Any] = {} if role == "matrices" else {"adamw": True, "lr": fallback_lr}
        if tensor in rows:
            label, own = [*label, "+".join(map(str, rows[tensor]))], {"parts": rows[tensor]}
        return ROLES.index(role), " ".join(label), own

    return _regrouped(groups, place)


def psgd_groups(
    model: nn.Module,
    weight_decay: float | None = 0.0,
    *,
    adamw_lr: float | None = 1e-3,
    no_decay: Sequence[str] = NO_DECAY,
    include_frozen: bool | None = None,
) -> Groups:
    """:func:`matrix_groups` as :class:`PSGD` has it: the output layer is a matrix, and names say what decays.

    Vectors have nothing to whiten but their entries, and rows of embeddings mostly no gradient: both are better off
    with AdamW, at an lr of their own.

    Args:
        model: the module to train.
        weight_decay: for the parameters that decay, >= 0. Default 0; None leaves it to the optimizer.
        adamw_lr: lr of AdamW's groups. Default 1e-3, AdamW's own; None: PSGD for everything.
        no_decay, include_frozen: which parameters do not decay, and whether frozen ones are there, see
            :func:`optzoo.optimizers.param_groups`.

    Raises:
        TypeError, ValueError: as :func:`optzoo.optimizers.param_groups`.

    >>> model = nn.Sequential(nn.Embedding(10, 4), nn.Linear(4, 3))
    >>> for group in psgd_groups(model, weight_decay=0.1):
    ...     print(group["name"], group["weight_decay"], [name for name, _ in group["params"]])
    decay 0.1 ['1.weight']
    decay adamw 0.1 ['0.weight']
    no_decay adamw 0.0 ['1.bias']
    """
    groups = param_groups(model, weight_decay, no_decay=no_decay, include_frozen=include_frozen)
    matrices = {p.tensor for p in parameters_of(model) if _is_matrix(p) and not is_embedding(p)}

    def place(number: int, group: Mapping[str, Any], tensor: Tensor) -> tuple[Any, str, dict[str, Any]]:
        if tensor in matrices:
            return (number, 0), group["name"], {}
        return (number, 1), f"{group['name']} adamw", {"adamw": True, "lr": adamw_lr}

    return groups if adamw_lr is None else _regrouped(groups, place)


def _regrouped(
    groups: Groups, place: Callable[[int, Mapping[str, Any], Tensor], tuple[Any, str, dict[str, Any]]]
) -> Groups:
    """The parameters in the groups that ``place`` says: in what order, under which name, with what options."""
    made: dict[tuple[Any, str], dict[str, Any]] = {}
    for number, group in enumerate(groups):
        for name, tensor in group["params"]:
            order, label, own = place(number, group, tensor)
            new = made.setdefault((order, label), {**group, "params": [], "name": label, **own})
            new["params"].append((name, tensor))
    return [group for _, group in sorted(made.items(), key=lambda item: item[0][0])]


def _is_matrix(p: Parameter) -> bool:
    return sum(n > 1 for n in p.tensor.shape) >= 2


def _roles(model: nn.Module, embeddings: Sequence[str], head: Sequence[str] | None) -> dict[Parameter, str]:
    """The role of every parameter, in the model's order."""
    parameters = parameters_of(model)
    check_patterns("embeddings", embeddings, parameters, owner="matrix_groups")
    check_patterns("head", head or (), parameters, owner="matrix_groups")
    roles = {p: "matrices" if _is_matrix(p) else "vectors" for p in parameters}
    for p in parameters:
        if _is_matrix(p) and (is_embedding(p) or p.named_by_model or any(map(p.matches, embeddings))):
            roles[p] = "embeddings"
    matrices = [p for p, role in roles.items() if role == "matrices"]
    for p in _head(model, matrices) if head is None else matrices:
        if head is None or any(map(p.matches, head)):
            roles[p] = "head"
    return roles


def _head(model: nn.Module, matrices: list[Parameter]) -> list[Parameter]:
    """The matrix of the output layer, if there are others."""
    find = getattr(model, "get_output_embeddings", None)
    output = getattr(find() if callable(find) else None, "weight", None)
    composite = (path for path in blocks_of(model) if any(True for _ in model.get_submodule(path).children()))
    blocks = tuple(plain(f"{path}.") for path in composite)
    within = [i for i, p in enumerate(matrices) if len(blocks) > 1 and p.name.startswith(blocks)]
    after = [p for p in matrices if p.tensor is output] or matrices[max(within, default=-1) + 1 :]
    return after[-1:] if len(matrices) > 1 else []


def _rows(split: Mapping[str, int | Sequence[int]], matrices: Sequence[Parameter]) -> dict[Tensor, tuple[int, ...]]:
    """The rows of the parts of every parameter that is split."""
    if not isinstance(split, Mapping):
        raise TypeError(f"matrix_groups: split must be a mapping of patterns to parts, got {split!r}")
    check_patterns("split of matrices:", split, list(matrices), owner="matrix_groups")
    found: dict[Tensor, tuple[int, ...]] = {}
    for pattern, parts in split.items():
        for p in matrices:
            if p.matches(pattern):
                found[p.tensor] = _rows_of(p, pattern, parts)
    return found


def _rows_of(p: Parameter, pattern: str, parts: int | Sequence[int]) -> tuple[int, ...]:
    rows = p.tensor.shape[0]
    if isinstance(parts, int) and not isinstance(parts, bool) and parts > 1 and rows % parts == 0:
        return (rows // parts,) * parts
    if not isinstance(parts, (int, str)) and len(parts) > 1 and all(n > 0 for n in parts) and sum(parts) == rows:
        return tuple(parts)
    raise ValueError(
        f"matrix_groups: split {pattern!r} must be a number of equal parts, >= 2, or the rows of each, and make up the "
        f"{rows} rows of {p.name!r}, got {parts!r}"
    )
