"""Regressions that ignore part of the structure: here to be measured, not to be used."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy import stats

from helpers.errors import BadFit
from helpers.stats import design


def ols(
    data: pd.DataFrame,
    outcome: str,
    predictor: str,
    effects: Sequence[str] = (),
    clusters: Sequence[str] = (),
) -> pd.Series:
    """Fit ordinary least squares with indicators of ``effects``.

    Args:
        data: complete rows.
        outcome, predictor: numeric columns.
        effects: columns turned into indicators.
        clusters: none: one error variance; one or two columns: cluster-robust.

    Returns:
        estimate, se, df, t, p, low, high of the predictor.

    Raises:
        BadFit: the clustered variance is not positive.

    Source: Cameron, Gelbach & Miller, J. Bus. Econ. Stat. 29 (2011) for two-way clusters, with
        negative eigenvalues set to zero and the smaller number of clusters less one as df.
    """
    x, names = design.fixed_matrix(data, [predictor, *effects])
    y = data[outcome].to_numpy(float)
    inverse = np.linalg.inv(x.T @ x)
    beta = inverse @ x.T @ y
    rest = y - x @ beta
    df = y.size - x.shape[1]
    covariance = inverse * float(rest @ rest) / df
    if clusters:
        groups = [data[c].astype(object).to_numpy() for c in clusters]
        covariance, df = _clustered(x, rest, inverse, groups)
    at = names.index(predictor)
    if not covariance[at, at] > 0:
        raise BadFit(
            f"the variance of {predictor!r} is not positive: with few clusters the two-way formula "
            "can give that; use a mixed model."
        )
    return estimate(float(beta[at]), float(np.sqrt(covariance[at, at])), df)


def estimate(value: float, se: float, df: float) -> pd.Series:
    """Return estimate, se, df, t, p, low, high of a t-distributed estimate."""
    t, half = value / se, float(stats.t.ppf(0.975, df)) * se
    p = 2 * float(stats.t.sf(abs(t), df))
    index = ["estimate", "se", "df", "t", "p", "low", "high"]
    return pd.Series([value, se, df, t, p, value - half, value + half], index=index)


def _clustered(
    x: np.ndarray, rest: np.ndarray, inverse: np.ndarray, groups: Sequence[np.ndarray]
) -> tuple[np.ndarray, int]:
    scores = x * rest[:, None]
    middle, sizes = np.zeros_like(inverse), []
    codes = [pd.factorize(g)[0] for g in groups]
    for code in codes:
        part, size = _meat(scores, code)
        middle += part
        sizes.append(size)
    if len(codes) == 2:
        middle -= _meat(scores, codes[0] * (codes[1].max() + 1) + codes[1])[0]
    values, vectors = np.linalg.eigh(inverse @ middle @ inverse)
    return vectors @ np.diag(np.maximum(values, 0)) @ vectors.T, min(sizes) - 1


def _meat(scores: np.ndarray, codes: np.ndarray) -> tuple[np.ndarray, int]:
    """Return the cluster sums' cross-product with its small-sample factor, and the clusters."""
    _, codes = np.unique(codes, return_inverse=True)
    size, (n, k) = int(codes.max()) + 1, scores.shape
    sums = np.zeros((size, k))
    np.add.at(sums, codes, scores)
    return size / (size - 1) * (n - 1) / (n - k) * sums.T @ sums, size
