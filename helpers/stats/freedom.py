"""Small-sample standard errors and degrees of freedom of fixed effects."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from helpers.stats import likelihood
from helpers.stats.likelihood import Cross, Peak

Method = Literal["kenward-roger", "satterthwaite"]


@dataclass(frozen=True)
class Precision:
    """Uncertainty of the fixed effects.

    Attributes:
        covariance: of the fixed effects, shape (fixed, fixed); adjusted for Kenward-Roger.
        df: degrees of freedom of each, shape (fixed,).
        plain: (X'V^-1X)^-1, not adjusted.
        jacobian: derivative of ``plain`` in each variance, shape (variances, fixed, fixed).
        variances: covariance of the estimated variances, shape (variances, variances).
    """

    covariance: np.ndarray
    df: np.ndarray
    plain: np.ndarray
    jacobian: np.ndarray
    variances: np.ndarray

    def df_of(self, contrast: np.ndarray) -> float:
        """Return the degrees of freedom of a contrast of the fixed effects, shape (fixed,)."""
        return _ratio(contrast, self.plain, self.jacobian, self.variances)


def precision(cross: Cross, peak: Peak, method: Method, residual: bool = True) -> Precision:
    """Return covariance and degrees of freedom of the fixed effects.

    For one coefficient the Kenward-Roger scale is exactly 1 and its degrees of freedom are
    Satterthwaite's formula with the *expected* information of all variances, also of those
    estimated at zero; its standard error is enlarged for the variances being estimated.
    Satterthwaite here uses the observed information of the variances above zero, as lmerTest does.

    Args:
        cross: the model.
        peak: its restricted maximum.
        method: ``"kenward-roger"`` or ``"satterthwaite"``.
        residual: whether the residual variance was estimated (else it is known).

    Source: Kenward & Roger, Biometrics 53 (1997), 983-997; Satterthwaite as in Kuznetsova,
        Brockhoff & Christensen, J. Stat. Software 82(13) (2017).
    """
    v = peak.variances
    plain = v[-1] * np.linalg.inv(peak.state.info)
    first, second = _kernels(cross, peak)
    jacobian = np.array([plain @ f @ plain for f in first])
    use = np.full(v.size, True)
    use[-1] = residual
    if method == "satterthwaite":
        use[:-1] &= v[:-1] > 1e-8 * v.sum()
        information = likelihood.observed_information(cross, peak.state, v, peak.slopes)
    else:
        information = peak.slopes.expected
    w = np.zeros((v.size, v.size))
    if use.any():
        w[np.ix_(use, use)] = np.linalg.pinv(information[np.ix_(use, use)], hermitian=True)
    covariance = plain
    if method == "kenward-roger":
        inner = np.einsum("kl,klij->ij", w, second)
        inner -= np.einsum("kl,kij,jm,lmn->in", w, first, plain, first)
        covariance = plain + 2 * plain @ inner @ plain
        covariance = (covariance + covariance.T) / 2
    df = np.array([_ratio(e, plain, jacobian, w) for e in np.eye(len(plain))])
    return Precision(covariance, df, plain, jacobian, w)


def _ratio(c: np.ndarray, plain: np.ndarray, jacobian: np.ndarray, w: np.ndarray) -> float:
    """Satterthwaite's formula: twice the squared variance over the variance of that variance."""
    slope = np.einsum("i,kij,j->k", c, jacobian, c)
    spread = float(slope @ w @ slope)
    return 2 * float(c @ plain @ c) ** 2 / spread if spread > 0 else np.inf


def _kernels(cross: Cross, peak: Peak) -> tuple[np.ndarray, np.ndarray]:
    """Return X'V^-1 K V^-1 X per variance and X'V^-1 K V^-1 K V^-1 X per pair of variances."""
    v, f, n = peak.variances, peak.slopes.zhx, peak.slopes.zhz
    s, k = v[-1], cross.terms
    gamma = cross.spread(v[:-1] / s)
    e = f - n @ (gamma[:, None] * f)  # Z'H^-2X
    blocks = [slice(a, b) for a, b in zip(cross.starts[:-1], cross.starts[1:], strict=True)]
    p = peak.state.info.shape[0]
    first, second = np.zeros((k + 1, p, p)), np.zeros((k + 1, k + 1, p, p))
    for i, a in enumerate(blocks):
        first[i] = f[a].T @ f[a]
        for j, b in enumerate(blocks):
            second[i, j] = f[a].T @ n[a, b] @ f[b]
        second[i, k] = f[a].T @ e[a]
        second[k, i] = second[i, k].T
    ratios = v[:-1] / s
    first[k] = peak.state.info - np.einsum("k,kij->ij", ratios, first[:k])
    second[k, k] = first[k] - np.einsum("k,kij->ij", ratios, second[:k, k])
    return first / s**2, second / s**3
