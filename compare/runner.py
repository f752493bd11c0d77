"""One training run: train, evaluate outside the clock, measure."""

from __future__ import annotations

import functools
import math
import os
import platform
import re
import statistics
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from time import perf_counter, process_time, process_time_ns
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.graph import register_multi_grad_hook

from optzoo.optimizers import PolynomialDecayAverager, evaluation_weights, has_evaluation_weights
from optzoo.optimizers.core.closures import calls_backward

from .candidates import AVERAGE, Candidate
from .problem import Problem
from .results import Clock, Evaluation, Stage, Trial, Update, first_hit, has_diverged
from .schedule import canonical, lr_factors
from .store import Identity, key_of


class Request(NamedTuple):
    """A run to make; everything in it but `seconds` determines what comes out."""

    problem: type[Problem]
    candidate: Candidate
    hyperparameters: dict[str, Any]
    seed: int
    stage: Stage = "evaluate"
    stop_at_hit: bool = False
    limit: int | None = None  # stop where the hit can no longer be by this step
    schedule: str = "auto"
    seconds: float = 30.0

    @property
    def own_schedule(self) -> bool:
        """Whether the optimizer sets its step sizes itself: it says so, or its lr is left at a default of None."""
        return self.candidate.own_schedule or "lr" not in self.hyperparameters

    @property
    def identity(self) -> Identity:
        schedule = self.problem.schedule if self.schedule == "auto" else canonical(self.schedule)
        return {
            "problem": self.problem.name,
            "problem_version": self.problem.version,
            "optimizer": self.candidate.qualname,
            "optimizer_version": self.candidate.version,
            "hyperparameters": {**self.candidate.options, **self.hyperparameters},
            "seed": self.seed,
            "schedule": "own" if self.own_schedule else schedule,
            "stage": self.stage,
            "stop_at_hit": self.stop_at_hit,
            "limit": self.limit,
            "torch": torch.__version__,
        }

    def failed(self, reason: str) -> Trial:
        """The trial of a run of which nothing came out."""
        identity = self.identity
        return Trial(
            key=key_of(identity),
            stage=self.stage,
            hyperparameters=identity["hyperparameters"],
            seed=self.seed,
            target=math.nan,
            curve=(),
            extra={},
            parameters=0,
            state_bytes=0,
            failure=reason,
            limit=self.limit,
        )


@contextmanager
def one_thread() -> Iterator[None]:
    """On tensors this small one thread is the fastest, and the results are the same bit for bit on every run."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


class Driver:
    """A problem under an optimizer, one step at a time, with the CPU time each part took."""

    def __init__(self, request: Request) -> None:
        self.problem = request.problem(request.seed)
        self.optimizer = request.candidate.build(self.problem.parameters(), request.hyperparameters)
        self.gradients = 0
        self._evaluate_on = request.candidate.evaluate_on
        self.averager = PolynomialDecayAverager(self.problem.parameters()) if self._evaluate_on == AVERAGE else None
        self.forward_ns: list[int] = []
        self.backward_ns: list[int] = []
        self.optimizer_ns: list[int] = []
        self._step = 0
        self._factor = None if request.own_schedule else lr_factors(request.problem, request.schedule)
        self._base_lrs = [group["lr"] for group in self.optimizer.param_groups]
        register_multi_grad_hook(self.problem.parameters(), self._count, mode="any")
        self._calls_backward = calls_backward(self.optimizer)

    def _count(self, _: Tensor) -> None:
        """A backward pass, whoever asked for it: a product with the Hessian costs another."""
        self.gradients += 1

    def step(self, losses: list[Tensor] | None = None) -> None:
        """Data, forward, backward and update, on the clock of the CPU; the first loss is put into `losses`."""
        if self._factor is not None:
            factor = self._factor(self._step)
            for group, lr in zip(self.optimizer.param_groups, self._base_lrs, strict=True):
                group["lr"] = lr * factor
        forward = backward = 0
        noise = None if self._calls_backward is None else self.problem.generator.get_state()

        def closure() -> Tensor:
            nonlocal forward, backward
            started = process_time_ns()
            if noise is not None:  # the loss is asked for several times: of the same data
                self.problem.generator.set_state(noise)
            self.optimizer.zero_grad()
            loss = self.problem.loss(self._step)
            computed = process_time_ns()
            if self._calls_backward is not False:
                torch.autograd.backward(loss)
            forward += computed - started
            backward += process_time_ns() - computed
            if losses == []:
                losses.append(loss)
            return loss

        started = process_time_ns()
        step: Callable[..., Any] = self.optimizer.step
        if self._calls_backward is not None:
            step(closure)
        else:
            closure()
            step()
        if self.averager is not None:
            self.averager.update()
        self.forward_ns.append(forward)
        self.backward_ns.append(backward)
        self.optimizer_ns.append(process_time_ns() - started - forward - backward)
        self._step += 1

    def observed_step(self) -> Update:
        """A step, and what it was; copying and comparing the parameters is not on its clock.

        Of an optimizer with modes these are the parameters that it trains, not those that are evaluated.
        """
        parameters = self.problem.parameters()
        before = _vector(parameters)
        losses: list[Tensor] = []
        self.step(losses)
        change = _vector(parameters) - before
        lr = self.optimizer.param_groups[0]["lr"]
        return Update(
            step=self._step,
            loss=losses[0].item() if losses else math.nan,  # nan: it did without one
            lr=None if lr is None else float(lr),
            norm=torch.linalg.vector_norm(change).item(),
        )

    @contextmanager
    def judged(self) -> Iterator[None]:
        """Within the block the parameters are those that are judged: an average, slow weights, those of eval mode."""
        holder = self.averager or self.optimizer
        weights: AbstractContextManager[None] = nullcontext()
        if self.averager is not None or (self._evaluate_on is None and has_evaluation_weights(holder)):
            weights = evaluation_weights(holder)
        elif self._evaluate_on:
            weights = getattr(holder, self._evaluate_on)()
        with weights:
            yield

    def evaluate(self) -> Evaluation:
        with self.judged():
            return Evaluation(self._step, float(self.problem.metric()), self.gradients)

    def state_bytes(self) -> int:
        """Of all tensors in the optimizer's state, and of the average that it is judged on."""
        average = self.averager.state_dict() if self.averager is not None else {}
        return tensor_bytes([*self.optimizer.state.values(), average])


def train(request: Request) -> Trial:
    """Train for the problem's budget, or until the run fails, diverges or (`stop_at_hit`) its hit is confirmed.

    What an optimizer or a problem raises is recorded in the trial, and it is a miss.
    """
    started = perf_counter()
    with one_thread(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(request.seed)  # for optimizers that draw random numbers; the problem has its own generator
        try:
            return _train(request, started)
        except Exception as error:
            return request.failed(f"raised {_one_line(error)}")


def _train(request: Request, started: float) -> Trial:
    cpu_started = process_time()
    driver = Driver(request)
    problem = driver.problem
    curve = [driver.evaluate()]
    updates = []
    target = problem.target.threshold(curve[0].metric)
    failure = None
    for step in range(1, problem.budget + 1):
        evaluated = step % problem.eval_every == 0 or step == problem.budget
        if evaluated and request.stage == "evaluate":
            updates.append(driver.observed_step())
        else:
            driver.step()
        if evaluated:
            curve.append(driver.evaluate())
            if has_diverged(curve) or (request.stop_at_hit and first_hit(curve[-2:], target)):
                break
            if request.limit is not None and step >= request.limit and curve[-1].metric > target:
                break
        if process_time() - cpu_started > request.seconds:  # not wall time: load on the machine makes no misses
            failure = f"took over {request.seconds:g} CPU-seconds"
            break
    with driver.judged():
        extra = {name: float(value) for name, value in problem.extra().items()}
    identity = request.identity
    steps = [sum(parts) for parts in zip(driver.forward_ns, driver.backward_ns, driver.optimizer_ns, strict=True)]
    return Trial(
        key=key_of(identity),
        stage=request.stage,
        hyperparameters=identity["hyperparameters"],
        seed=request.seed,
        target=target,
        curve=tuple(curve),
        extra=extra,
        parameters=sum(parameter.numel() for parameter in problem.parameters()),
        state_bytes=driver.state_bytes(),
        failure=failure,
        limit=request.limit,
        updates=tuple(updates),
        clock=Clock(
            step_us=statistics.median(steps) / 1e3,
            optimizer_us=statistics.median(driver.optimizer_ns) / 1e3,
            seconds=perf_counter() - started,
            load=load_average(),
            machine=processor(),
        ),
    )


def _vector(tensors: Iterable[Tensor]) -> Tensor:
    """A copy of all of them, one after the other, in double precision."""
    vector = torch.cat([tensor.detach().cpu().flatten() for tensor in tensors])
    return vector.to(torch.promote_types(vector.dtype, torch.float64))


def tensor_bytes(values: Iterable[object]) -> int:
    """Bytes of all tensors in a nest of dicts and sequences."""
    total = 0
    for value in values:
        if isinstance(value, Tensor):
            total += value.numel() * value.element_size()
        elif isinstance(value, dict):
            total += tensor_bytes(value.values())
        elif isinstance(value, list | tuple):
            total += tensor_bytes(value)
    return total


def load_average() -> float | None:
    """The system's one-minute load average, where it has one."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else None


@functools.cache
def processor() -> str:
    """The name of the processor; the last bits of the results and all times depend on it."""
    cpuinfo = Path("/proc/cpuinfo")
    text = cpuinfo.read_text(encoding="utf-8", errors="replace") if cpuinfo.exists() else ""
    names = re.findall(r"^model name\s*:\s*(.+)$", text, re.M)
    return names[0] if names else platform.processor() or platform.machine()


def _one_line(error: BaseException) -> str:
    """The error's first line without addresses in memory, which differ from run to run."""
    lines = str(error).strip().splitlines()
    text = f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
    return re.sub(r"0x[0-9a-fA-F]+", "0x…", text)[:300]
