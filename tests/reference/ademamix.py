"""AdEMAMix (Pagliardini, Ablin & Grangier 2024, arXiv:2409.03137), Algorithm 1 and its schedulers as printed."""

from math import exp, log

import numpy as np

from .notation import Array, Options, State

ADEMAMIX = {
    "lr": 1e-3,
    "betas": (0.9, 0.999, 0.9999),
    "alpha": 5.0,
    "beta3_warmup": None,
    "alpha_warmup": None,
    "eps": 1e-8,
    "weight_decay": 0.0,
    "decoupled_weight_decay": True,
    "schedule_start": 0,
}


def update(g: Array, s: State, t: int, h: Options) -> Array:
    β1, β2, β3 = h.betas
    α_t = h.alpha * progress(t, h.alpha_warmup, h.schedule_start)
    β3_t = beta3(progress(t, h.beta3_warmup, h.schedule_start), β1, β3)
    s["m1"] = β1 * s["m1"] + (1 - β1) * g
    s["m2"] = β3_t * s["m2"] + (1 - β3_t) * g  # never bias-corrected
    s["ν"] = β2 * s["ν"] + (1 - β2) * g**2
    m1_hat = s["m1"] / (1 - β1**t)
    ν_hat = s["ν"] / (1 - β2**t)
    return (m1_hat + α_t * s["m2"]) / (np.sqrt(ν_hat) + h.eps)


def progress(t: int, T: int | None, start: int = 0) -> float:
    """μ = min(t/T, 1), counted from the step at which the schedules start; without a schedule it is over at once."""
    return min(max(t - start, 0) / T, 1.0) if T else 1.0


def beta3(μ: float, β_start: float, β3: float) -> float:
    """f_β3: linear from β_start to β3 in the half-life of the average, not in β."""
    if μ in (0, 1):
        return β3 if μ else β_start
    if β_start == 0:  # the limit of the line below
        return exp(log(β3) / μ)
    return min(exp(log(β_start) * log(β3) / ((1 - μ) * log(β3) + μ * log(β_start))), β3)
