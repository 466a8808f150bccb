# SPDX-License-Identifier: Apache-2.0
"""Relative weight change in float64 NumPy, written from the definitions and sharing nothing with the package."""

import numpy as np
import torch


def wide(tensor):
    """The tensor as a flat float64 or complex128 array."""
    tensor = tensor.detach().cpu()
    if tensor.is_complex():
        return tensor.to(torch.complex128).resolve_conj().numpy().ravel()
    return tensor.to(torch.float64).numpy().ravel()


def numpy_rwc(previous, current, norm):
    """Relative weight change of one layer: lists of tensors, before and after."""
    p = np.concatenate([wide(t) for t in previous])
    c = np.concatenate([wide(t) for t in current])
    if not (np.isfinite(p).all() and np.isfinite(c).all()):
        return float("nan")
    if not p.any():
        return float("inf") if c.any() else 0.0
    if norm == "l1":
        return np.linalg.norm(c - p, 1) / np.linalg.norm(p, 1)
    if norm == "l2":
        return np.linalg.norm(c - p, 2) / np.linalg.norm(p, 2)
    kept = p != 0
    return np.mean(np.abs(c[kept] - p[kept]) / np.abs(p[kept]))


def numpy_strengths(weights):
    """Incoming plus outgoing weights of every unit of a chain of matrices, element by element."""
    strengths = []
    for index, weight in enumerate(weights):
        following = weights[index + 1] if index + 1 < len(weights) else np.zeros((0, len(weight)))
        strengths.append(
            [
                sum(float(w) for w in weight[unit]) + sum(float(w) for w in following[:, unit])
                for unit in range(len(weight))
            ]
        )
    return strengths
