"""One training run: train, evaluate outside the clock, measure."""

import statistics
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from time import perf_counter_ns

import torch
from torch import Tensor
from torch.optim import Optimizer

from .candidates import Candidate
from .problem import Problem
from .results import MISS, Evaluation, Stage, Trial, first_hit, has_diverged


@contextmanager
def _one_thread() -> Iterator[None]:
    """On tensors this small one thread is the fastest, and the results are the same bit for bit on every run."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@_one_thread()
def train(
    problem_class: type[Problem], candidate: Candidate, lr: float, seed: int, stage: Stage, stop_at_hit: bool = False
) -> Trial:
    """Train for the problem's budget, or until the run diverges or (`stop_at_hit`) its hit is confirmed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # for optimizers that draw random numbers; the problem has its own generator
        problem = problem_class(seed)
        optimizer = candidate.build(problem.parameters(), lr)
        curve = [Evaluation(0, problem.metric())]
        target = problem.target.threshold(curve[0].metric)
        step_ns: list[int] = []
        optimizer_ns: list[int] = []
        for step in range(problem.budget):
            _set_lr(optimizer, lr * problem.lr_factor(step))
            started = perf_counter_ns()
            optimizer.zero_grad()
            torch.autograd.backward(problem.loss(step))
            differentiated = perf_counter_ns()
            optimizer.step()
            finished = perf_counter_ns()
            step_ns.append(finished - started)
            optimizer_ns.append(finished - differentiated)
            if (step + 1) % problem.eval_every == 0 or step + 1 == problem.budget:
                curve.append(_evaluate(problem, optimizer, step + 1))
                confirmed = first_hit(curve[-2:], target) < MISS
                if has_diverged(curve) or (stop_at_hit and confirmed):
                    break
        _switch_mode(optimizer, "eval")
        return Trial(
            stage=stage,
            lr=lr,
            seed=seed,
            target=target,
            curve=tuple(curve),
            extra=problem.extra(),
            parameters=sum(parameter.numel() for parameter in problem.parameters()),
            state_bytes=_tensor_bytes(optimizer.state.values()),
            step_us=statistics.median(step_ns) / 1e3,
            optimizer_us=statistics.median(optimizer_ns) / 1e3,
        )


def _set_lr(optimizer: Optimizer, lr: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = lr


def _evaluate(problem: Problem, optimizer: Optimizer, step: int) -> Evaluation:
    _switch_mode(optimizer, "eval")
    evaluation = Evaluation(step, problem.metric())
    _switch_mode(optimizer, "train")
    return evaluation


def _switch_mode(optimizer: Optimizer, mode: str) -> None:
    """Call `optimizer.train()` or `.eval()` if it has them: schedule-free methods evaluate at another point."""
    switch = getattr(optimizer, mode, None)
    if callable(switch):
        switch()


def _tensor_bytes(values: Iterable[object]) -> int:
    """Bytes of all tensors in a nest of dicts and sequences."""
    total = 0
    for value in values:
        if isinstance(value, Tensor):
            total += value.numel() * value.element_size()
        elif isinstance(value, dict):
            total += _tensor_bytes(value.values())
        elif isinstance(value, list | tuple):
            total += _tensor_bytes(value)
    return total
