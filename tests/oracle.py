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


# For each norm its value, and its two sums, of one layer before and after as flat arrays. No element before is infinite
# or nan, and not all of them are zero, where a value is asked for.
VALUES = {
    "l1": lambda p, c: np.linalg.norm(c - p, 1) / np.linalg.norm(p, 1),
    "l2": lambda p, c: np.linalg.norm(c - p, 2) / np.linalg.norm(p, 2),
    "elementwise": lambda p, c: np.mean(np.abs(c - p)[p != 0] / np.abs(p)[p != 0]),
}
SUMS = {
    "l1": lambda p, c: (np.abs(c - p).sum(), np.abs(p).sum()),
    "l2": lambda p, c: ((np.abs(c - p) ** 2).sum(), (np.abs(p) ** 2).sum()),
    # What is left out must still show when it is not finite.
    "elementwise": lambda p, c: (
        (np.abs(c - p)[p != 0] / np.abs(p)[p != 0]).sum() + (0 * np.abs(c - p)[p == 0]).sum(),
        np.count_nonzero(p),
    ),
}
NORMS = list(VALUES)
# Weights before and after that kernels have to get right too.
EDGES = [
    ([0, 0], [0, 0]),
    ([0, 0], [0, 1]),
    ([1, 0], [1, 1]),
    ([1, 1], [1, 1]),
    ([1, torch.nan], [1, 1]),
    ([0, 1], [torch.nan, 1]),
    ([0, 1], [torch.inf, 1]),
    ([torch.inf, 1], [torch.inf, 1]),
    ([-0.0, 1], [0.0, -0.0]),
    # What float32 cannot hold: squares, changes, sums, and ratios that are too large, squares that are too small.
    ([1e30, 1e30], [1e30, -1e30]),
    ([3e38, 3e38], [-3e38, 3e38]),
    ([1e-30, 1e-30], [1e-30, 2e-30]),
    ([1, 1e-30], [1, 2e-30]),
    ([1e-40, 1e-40], [1e-40, 1]),
]


def numpy_rwc(previous, current, norm):
    """Relative weight change of one layer: lists of tensors, before and after."""
    p = np.concatenate([wide(t) for t in previous])
    c = np.concatenate([wide(t) for t in current])
    if not (np.isfinite(p).all() and np.isfinite(c).all()):
        return float("nan")
    if not p.any():
        return float("inf") if c.any() else 0.0
    return VALUES[norm](p, c)


def numpy_sums(previous, current, norm):
    """The six sums of one tensor: those of the norm, and where the change points."""
    p, c = wide(previous), wide(current)
    with np.errstate(invalid="ignore", over="ignore"):
        d = c - p
        dot = (d.real * p.real).sum() + (d.imag * p.imag).sum()
        squares = [(x.real**2).sum() + (x.imag**2).sum() for x in (d, p)]
        return *SUMS[norm](p, c), np.count_nonzero(c != p), dot, *squares


def numpy_piece_sums(previous, current, pieces, norm):
    """The six sums of each piece of each tensor, of shape ``(6, pieces)``."""
    columns = [
        numpy_sums(p, c, norm)
        for before, after, count in zip(previous, current, pieces, strict=True)
        if count
        for p, c in zip(*(side.view(count, side.numel() // count) for side in (before, after)), strict=True)
    ]
    return np.array(columns).reshape(-1, 6).T


def assert_equal_sums(found, expected, rtol=1e-12):
    """Compare six sums with NumPy's. Only those of the norm, which come first, may be less exact than float64."""
    found, expected = np.asarray(found), np.asarray(expected)
    np.testing.assert_allclose(found[:2], expected[:2], rtol=rtol)
    np.testing.assert_array_equal(found[2], expected[2])
    np.testing.assert_allclose(found[4:], expected[4:], rtol=1e-12)
    # Products of both signs cancel. Their sum is as exact as its largest possible value.
    finite = np.isfinite(expected).all(axis=0)
    dots = np.stack((found[3], expected[3])) / np.maximum(np.sqrt(expected[4]) * np.sqrt(expected[5]), 1e-150)
    np.testing.assert_allclose(*dots[:, finite], rtol=0, atol=1e-12)
    np.testing.assert_array_equal(np.isfinite(found).all(axis=0), finite)


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
