import numpy as np
import pytest

from helpers.errors import BadFit
from helpers.stats import design, mixed, scenarios
from helpers.stats.reml import crossed_reml
from tests.stats.tables import crossed

THREE = ["intermediate", "target", "block"]


@pytest.mark.parametrize("reml", [True, False])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_mixedlm_and_ours_agree_on_regular_tables(seed, reml):
    data = crossed(9, 8, seed=seed)
    theirs = mixed.mixedlm(data, "gain", ["similarity"], THREE, reml=reml)
    ours = crossed_reml(data, "gain", ["similarity"], THREE, reml=reml, method="satterthwaite")
    assert theirs.loglik == pytest.approx(ours.loglik, abs=1e-3)
    assert theirs.table["estimate"].to_numpy() == pytest.approx(
        ours.table["estimate"].to_numpy(), abs=1e-3
    )
    assert theirs.table["se"].to_numpy() == pytest.approx(ours.table["se"].to_numpy(), rel=1e-2)
    assert theirs.variances.to_numpy() == pytest.approx(ours.variances.to_numpy(), abs=2e-2)


def test_mixedlm_takes_weights_and_slopes():
    data = crossed(9, 8, seed=4)
    effects = ["intermediate", "similarity|target"]
    theirs = mixed.mixedlm(data, "gain", ["similarity"], effects, "w")
    ours = crossed_reml(data, "gain", ["similarity"], effects, "w")
    assert theirs.loglik == pytest.approx(ours.loglik, abs=1e-3)


def test_rows_per_language_agree():
    rng = np.random.default_rng(0)
    data = scenarios.language_rows(rng, 0.3, 0.0, (6, 5, 7, 4), 5, 12)
    effects = ["intermediate", "target", "intermediate:target", "language", "target:language"]
    theirs = mixed.mixedlm(data, "gain", ["similarity"], effects)
    ours = crossed_reml(data, "gain", ["similarity"], effects)
    assert ours.notes[-1].startswith("agrees")
    assert theirs.loglik == pytest.approx(ours.loglik, abs=5e-3)
    assert ours.levels["target:language"] == 22
    assert ours.levels["intermediate:target"] == 20


def test_sparse_and_dense_searches_agree(monkeypatch):
    data = crossed(9, 8, seed=5)
    dense = mixed.mixedlm(data, "gain", ["similarity"], THREE)
    monkeypatch.setattr(mixed, "SPARSE_FROM", 10)
    sparse = mixed.mixedlm(data, "gain", ["similarity"], THREE)
    assert sparse.loglik == pytest.approx(dense.loglik, abs=1e-4)


def _peak(data):
    fit = crossed_reml(data, "gain", ["similarity"], THREE, check=False)
    return fit.model.design, fit.model.cross, fit.peak


def test_a_fit_short_of_the_optimum_is_refused():
    named, cross, peak = _peak(crossed(9, 8, seed=6))
    assert mixed.confirm(named, cross, peak, True).startswith("agrees")
    short = peak.__class__(
        peak.variances, peak.state, peak.slopes, peak.loglik - 1.0, peak.steps, peak.gap
    )
    with pytest.raises(BadFit, match="better fit"):
        mixed.confirm(named, cross, short, True)


def test_another_likelihood_at_the_same_variances_is_refused():
    named, cross, peak = _peak(crossed(9, 8, seed=6))
    other = crossed(9, 8, seed=6).assign(gain=lambda d: d["gain"] + np.sin(np.arange(72)))
    named = design.build(other, "gain", ["similarity"], THREE)
    raised = peak.__class__(
        peak.variances, peak.state, peak.slopes, peak.loglik + 50, peak.steps, peak.gap
    )
    with pytest.raises(BadFit, match="disagree"):
        mixed.confirm(named, cross, raised, True)


def test_a_mixedlm_that_stops_short_is_named(monkeypatch):
    named, cross, peak = _peak(crossed(9, 8, seed=6))
    whole = mixed._search(named, True)
    # what the default search of statsmodels does near zero variances: it stops early
    worse = whole.variances * np.array([3.0, 0.3, 1.0, 1.0])
    state = mixed.likelihood.solve(cross, worse.to_numpy()[:-1] / worse.iloc[-1])
    value = mixed.likelihood.loglik(cross, state, worse.iloc[-1], True)
    table = whole.table.assign(
        estimate=state.beta, se=np.sqrt(worse.iloc[-1] * np.diag(np.linalg.inv(state.info)))
    )
    early = mixed.Mixed(table, worse, value, "bfgs", whole.result)
    monkeypatch.setattr(mixed, "_search", lambda named, reml: early)
    assert "stopped" in mixed.confirm(named, cross, peak, True)


def test_a_mixedlm_that_fails_is_named(monkeypatch):
    named, cross, peak = _peak(crossed(9, 8, seed=6))

    class Broken:
        def fit(self, **settings):
            raise np.linalg.LinAlgError

    monkeypatch.setattr(mixed, "_model", lambda named: Broken())
    assert "could not be compared" in mixed.confirm(named, cross, peak, True)
    with pytest.raises(BadFit, match="every search"):
        mixed.mixedlm(crossed(9, 8, seed=6), "gain", ["similarity"], THREE)


def test_no_random_effect_is_a_sentence():
    data = crossed(6, 5, seed=1).assign(one="x")
    with pytest.raises(BadFit, match="no random effect"):
        mixed.mixedlm(data, "gain", ["similarity"], ["one"])
