"""Slow, independent ways to the same numbers: dense matrices and many starts."""

import numpy as np
from scipy import optimize


def highest_restricted_loglik(named, points=6):
    """Search the restricted likelihood from every hill of a grid of variance ratios."""
    n, p = named.x.shape
    contrasts = np.linalg.qr(named.x, mode="complete")[0][:, p:]  # REML: the part free of effects
    y = contrasts.T @ named.y
    kernels = [contrasts.T @ (z := term.matrix()) @ z.T @ contrasts for term in named.terms]
    own = contrasts.T @ np.diag(1 / named.weights) @ contrasts
    count = len(kernels)

    def loglik(ratios):
        """One value per row of ratios, the residual variance at its best."""
        root = np.linalg.cholesky(own + np.einsum("bk,kij->bij", ratios, np.array(kernels)))
        half = np.linalg.solve(root, np.broadcast_to(y[:, None], (len(ratios), n - p, 1)))
        logdet = 2 * np.log(np.diagonal(root, axis1=1, axis2=2)).sum(1)
        scale = (half[..., 0] ** 2).sum(1) / (n - p)
        return -(logdet + (n - p) * (np.log(2 * np.pi * scale) + 1)) / 2

    def fall(ratios):
        step = np.maximum(1e-7, 1e-6 * ratios)
        here, *beside = loglik(np.vstack([ratios, ratios + np.diag(step)]))
        return -here, -(np.array(beside) - here) / step

    axis = np.r_[0, np.logspace(-2.5, 2.5, points - 1)]
    corners = np.array(np.meshgrid(*[axis] * count, indexing="ij")).reshape(count, -1).T
    height = loglik(corners).reshape((points,) * count)
    around = np.pad(height, 1, constant_values=-np.inf)
    hills = np.full(height.shape, True)
    for way in range(count):
        for shift in (-1, 1):
            moved = np.roll(around, shift, way)
            hills &= height >= moved[(slice(1, -1),) * count]
    ends = [
        optimize.minimize(
            fall, corner, jac=True, method="L-BFGS-B", bounds=[(0, 1e7)] * count,
            options={"ftol": 1e-14, "gtol": 1e-9},
        )
        for corner in corners[hills.ravel()]
    ]  # fmt: skip
    return float(-min(end.fun for end in ends) - np.linalg.slogdet(named.x.T @ named.x)[1] / 2)
