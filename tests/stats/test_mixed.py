"""Our fits against statsmodels' MixedLM."""

import numpy as np
import pytest

from benchmarks.stats import mixedlm
from data.make import calibration as scenarios
from helpers.stats.reml import crossed_reml
from tests.stats.tables import crossed

THREE = ["intermediate", "target", "block"]


@pytest.mark.parametrize("reml", [True, False])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_mixedlm_and_ours_agree_on_regular_tables(seed, reml):
    data = crossed(9, 8, seed=seed)
    theirs = mixedlm(data, THREE, reml=reml)
    ours = crossed_reml(data, "gain", ["similarity"], THREE, reml=reml, method="satterthwaite")
    assert theirs.llf == pytest.approx(ours.loglik, abs=1e-3)
    assert theirs.fe_params == pytest.approx(ours.table["estimate"].to_numpy(), abs=1e-3)
    variances = [*theirs.vcomp, theirs.scale]
    assert variances == pytest.approx(ours.variances.to_numpy(), abs=2e-2)
    v = theirs.scale * np.eye(72)
    for variance, name in zip(theirs.vcomp, THREE, strict=True):
        v += variance * (data[name].to_numpy()[:, None] == data[name].to_numpy())
    x = ours.design.x
    # MixedLM's own standard errors come from a joint Hessian that fails at zero variances
    se = np.sqrt(np.diag(np.linalg.inv(x.T @ np.linalg.solve(v, x))))
    assert se == pytest.approx(ours.table["se"].to_numpy(), rel=1e-2)


def test_mixedlm_and_ours_agree_with_weights_and_slopes():
    data, effects = crossed(9, 8, seed=4), ["intermediate", "similarity|target"]
    theirs = mixedlm(data, effects, weights="w")
    ours = crossed_reml(data, "gain", ["similarity"], effects, "w")
    jacobian = 0.5 * float(np.log(data["w"]).sum())
    assert theirs.llf + jacobian == pytest.approx(ours.loglik, abs=1e-3)


def test_mixedlm_and_ours_agree_on_rows_per_language():
    rng = np.random.default_rng(0)
    data = scenarios.language_rows(rng, 0.3, 0.0, (6, 5, 7, 4), 5, 12)
    effects = ["intermediate", "target", "intermediate:target", "language", "target:language"]
    theirs = mixedlm(data, effects)
    ours = crossed_reml(data, "gain", ["similarity"], effects)
    assert theirs.llf == pytest.approx(ours.loglik, abs=5e-3)
    assert ours.levels["target:language"] == 22
    assert ours.levels["intermediate:target"] == 20
