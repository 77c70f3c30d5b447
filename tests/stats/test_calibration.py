import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import statsmodels.formula.api as smf

from data.make import calibration as make
from helpers import results, tasks
from helpers.errors import BadFit, BadRecord, MissingData
from helpers.files import sha256_file
from helpers.stats import calibration
from tests.stats.tables import crossed, world

STORED = Path(__file__).parents[2] / "data" / "calibration"
COUNTS = ["replicates", "refused", "rejected", "covered", "intervals"]


@pytest.mark.parametrize(
    ("study", "name", "slope"),
    [("dyads", "blocks, pairs missing", 0.0), ("dyads", "7 x 3", 0.2), ("decision", "4 x 3", 0.8)],
)
def test_a_stored_batch_is_what_the_code_gives(study, name, slope):
    counts = calibration.load(STORED, study)
    old = counts[(counts["scenario"] == name) & (counts["slope"] == slope) & (counts["batch"] == 0)]
    draw = make.dyad_tables(make.SCENARIOS[name], slope)
    new = calibration.batch(name, slope, 0, draw, calibration.specified, make.BATCH)
    by_method = new.set_index("method")["rejected"]
    assert by_method[calibration.DECISION] <= by_method.drop(calibration.DECISION).min()
    both = old.merge(new, on="method", suffixes=("", "_new"))
    methods = {calibration.FINAL, calibration.COMPANION}
    assert set(both["method"]) == methods | ({calibration.DECISION} & set(counts["method"]))
    for column in COUNTS:
        assert both[column].to_numpy() == pytest.approx(both[f"{column}_new"].to_numpy(), abs=1)
    # the search of the stored counts stopped at a lower maximum in one of a thousand tables
    old, new = (both[name].to_numpy() for name in ("sum_estimate", "sum_estimate_new"))
    assert old == pytest.approx(new, rel=1e-4, abs=1e-2)


def test_stored_studies_are_complete():
    for study in make.STUDIES:
        summary = calibration.summary(calibration.load(STORED, study))
        have = set(zip(summary["scenario"], summary["slope"], strict=True))
        assert have == {(c[0], c[1]) for c in make.cells(study)}
        final = summary[summary["method"].str.endswith(calibration.FINAL)]
        assert (final["replicates"] >= {"decision": 190, "scaled": 240}.get(study, 950)).all()
        about = json.loads((STORED / f"{study}.json").read_text())
        assert (about["seed"], about["batch"]) == (calibration.SEED, make.BATCH)


def test_summary_counts():
    counts = pd.DataFrame(
        {
            "scenario": "s", "slope": 0.5, "method": "m", "batch": [0, 1],
            "replicates": 50, "refused": [0, 10], "rejected": [10, 8], "wrong_sign": 0,
            "covered": [45, 36], "intervals": [50, 40], "sum_estimate": [25.0, 20.0],
            "sum_square": [13.5, 10.8], "sum_se": [5.0, 4.0],
        }
    )  # fmt: skip
    row = calibration.summary(counts).iloc[0]
    expected = {"replicates": 90, "rejected": 0.2, "coverage": 0.9, "bias": 0, "refused": 0.1}
    expected["se_ratio"] = 0.1 / np.sqrt((24.3 - 90 * 0.25) / 89)
    assert row[list(expected)].to_dict() == pytest.approx(expected)
    assert row["mc_low"] < 0.2 < row["mc_high"]


def test_run_continues_where_it_stopped(tmp_path, monkeypatch):
    calls, draw = [], make.dyad_tables(make.SCENARIOS["4 x 3"], 0.0)

    def answer(data, seed):
        calls.append(seed)
        return {"flat": lambda: pd.Series({"estimate": float(data["gain"].mean()), "p": 0.5})}

    cells = [(name, 0.0, draw, answer) for name in ("one", "two")]
    monkeypatch.setattr(make, "cells", lambda study: cells)
    first = make.run(tmp_path, "dyads", 50)
    assert len(calls) == 100
    again = make.run(tmp_path, "dyads", 100)
    assert len(calls) == 200
    pd.testing.assert_frame_equal(first, again.head(2))
    fresh = make.run(tmp_path / "fresh", "dyads", 100)
    ordered = [t.sort_values(["scenario", "batch"], ignore_index=True) for t in (fresh, again)]
    pd.testing.assert_frame_equal(*ordered)


def test_a_refused_replicate_is_counted_and_power_is_read_between_slopes():
    def refuse():
        raise BadFit("no")

    def answer(data, seed):
        return {"a": refuse, "b": lambda: pd.Series({"estimate": 1.0, "p": 0.01})}

    draw = lambda rng: pd.DataFrame()  # noqa: E731
    found = calibration.batch("x", 0.0, 0, draw, answer, 10).set_index("method")
    assert found.loc["a", ["refused", "rejected"]].tolist() == [10, 0]
    assert found.loc["b", ["refused", "rejected"]].tolist() == [0, 10]
    power = pd.DataFrame({"scenario": ["s"] * 3 + ["weak"] * 2, "method": calibration.DECISION})
    power["slope"], power["rejected"] = [0.0, 0.4, 0.8, 0.0, 0.4], [0.05, 0.6, 1.0, 0.05, 0.3]
    found = calibration.detectable(power).set_index("scenario")["slope"]
    assert found["s"] == pytest.approx(0.6) and np.isnan(found["weak"])


def test_relabelled_real_table_has_no_effect():
    data = world("blocks", 3.0, 0)
    counts = calibration.permuted_tables(data.rename(columns={"similarity": "m"}), "m", 40)
    final = calibration.summary(counts).set_index("method").loc[calibration.FINAL]
    # a slope of 3 would always be found; relabelled, it is not
    assert final["rejected"] < 0.2 and final["replicates"] == 40


def test_scenarios_have_the_structure_they_say():
    rng = np.random.default_rng(1)
    for s in make.SCENARIOS.values():
        similarity, gain = make.draw(s, 0.0, rng)
        assert similarity.shape == gain.shape == (len(s.formats[0]), len(s.formats[1]))
        assert similarity.std() == pytest.approx(1)
        assert np.isnan(gain).sum() == len(s.missing)
        if s.within:
            scaled = make.table(s, similarity, gain).groupby("target")["gain"]
            assert scaled.mean().abs().max() < 1e-9 and scaled.std().to_numpy() == pytest.approx(1)
    blocks = world("blocks", 0.0, rng)
    assert blocks.groupby(["intermediate_format", "target_format"]).ngroups == 20
    rows = make.language_rows(rng, 0.3)
    assert len(rows) == 9 * 202
    assert rows.groupby(["intermediate", "target"])["similarity"].nunique().max() == 1


def test_stored_counts_of_a_study_belong_to_its_results_and_can_be_repeated():
    for file in sorted(results.FOLDER.glob("*-relabelled.csv")):
        profile = file.stem.removesuffix("-relabelled")
        counts = pd.read_csv(file)
        stale = f"it belongs to other gains; python -m data.make.calibration --relabelled {profile}"
        now = {name: make.fingerprint(make.prepared(profile, name)) for name in make.OUTCOMES}
        stored = counts[["scenario", "gains"]].drop_duplicates()
        assert sorted(now.items()) == sorted(stored.itertuples(index=False)), f"{file}: {stale}"
        few = counts[counts["size"] == min(make.SIZES)].reset_index(drop=True)
        again = make.on_own_gains(profile, min(make.SIZES))
        pd.testing.assert_frame_equal(few, again, check_dtype=False)


def test_a_study_is_relabelled_as_it_is_analysed():
    whole = make.prepared("pilot", "gain_within")
    assert {tasks.get(name).format for name in whole["target"]}.isdisjoint({"retrieval"})
    own = whole["identity_pair"].astype(bool)
    assert own.any() and whole.loc[own, "gain"].isna().all()
    by = whole.groupby("target")["gain"]
    assert by.mean().abs().max() < 1e-9 and by.std().to_numpy() == pytest.approx(1)
    points = make.prepared("pilot", "gain")["gain"]
    assert (points.notna() == ~own).all() and points.std() != pytest.approx(whole["gain"].std())


# The table of others: a generated stand-in of the same shape.

NAMES = {"inference": "mnli", "sentiment": "imdb", "topic": "ag_news", "emotion": "tweet-emotion"}
NAMES[""] = "mystery"


def stand_in(same=0.0, block=1.0, models=386, seed=0):
    """Random scores laid out as the published table; no number in it is a published one."""
    rng, targets, families = np.random.default_rng(seed), list(calibration.TARGETS), list(NAMES)
    of = list(calibration.TARGETS.values())
    effect = {(a, b): block * rng.normal() for a in families for b in of}
    base, ease = rng.uniform(60, 80, len(targets)), 0.5 * rng.normal(size=len(targets))
    rows = {"roberta-base": base, "org/partly-tested": np.where(np.arange(36) < 9, np.nan, base)}
    for k in range(models):
        family = families[k % len(families)]
        shift = [same * (family == f) + effect[family, f] for f in of]
        rows[f"org/roberta-base-{NAMES[family]}-{k}"] = (
            base + shift + ease + rng.normal() + rng.normal(size=36)
        )
    return pd.DataFrame.from_dict(rows, "index", columns=targets).rename_axis("model_name")


@pytest.fixture
def recycled(tmp_path, monkeypatch):
    """Write stand-ins and read them back as the table of others."""

    def read(wide):
        file = tmp_path / "table.csv"
        pd.concat([wide, wide.head(1)]).to_csv(file)  # the published table names some twice
        monkeypatch.setattr(calibration, "SHA256", sha256_file(file))
        return calibration.read_recycled(file)

    return read


def test_the_table_of_others_becomes_gains_over_the_plain_encoder(recycled, tmp_path):
    wide = stand_in()
    found = recycled(wide)
    assert len(found) == 386 * 36
    row = found.query("intermediate == 'org/roberta-base-imdb-1' and target == 'sst2'").iloc[0]
    gain = wide.loc["org/roberta-base-imdb-1", "sst2"] - wide.loc["roberta-base", "sst2"]
    assert row["gain"] == pytest.approx(gain)
    assert (row["intermediate_family"], row["target_family"]) == ("sentiment", "sentiment")
    assert row["same_family"] == 1 and not row["identity_pair"]
    (tmp_path / "table.csv").write_text("something else")
    with pytest.raises(BadRecord, match="checksum .*github.com/IBM/model-recycling"):
        calibration.read_recycled(tmp_path / "table.csv")
    with pytest.raises(MissingData, match="github.com/IBM/model-recycling"):
        calibration.read_recycled(tmp_path / "nothing.csv")


def test_names_tell_families_and_identity_pairs():
    names = json.loads((Path(__file__).parent / "model_names.json").read_text("utf-8"))
    families, own = names.values()
    assert {name: calibration.family_of(name) for name in families} == families
    assert [calibration.trained_on(*pair) for *pair, _ in own] == [told for *_, told in own]


def test_five_methods_on_a_true_effect_and_on_none(recycled):
    found = calibration.compare_recycled(recycled(stand_in(same=2.0, block=0.2)), n=499)
    assert len(found) == 5
    assert found["estimate"].between(1.4, 2.6).all() and (found["p"] < 0.05).all()
    none = recycled(stand_in(same=0.0, block=2.0, seed=3))
    blind = calibration.compare_recycled(none, n=499)
    # the block variance makes the standard error honest, whatever the draw
    honest = blind.loc["REML, model, target and block"]
    assert honest["se"] > 4 * blind.loc["REML, model and target", "se"] and honest["df"] < 60
    assert blind.loc["permutation of families", "p"] > 0.05
    with pytest.raises(BadFit, match="no model name"):
        calibration.compare_recycled(none.assign(intermediate_family=""))


@pytest.mark.parametrize("clusters", [[], ["target"], ["intermediate", "target"]])
def test_ols_is_that_of_the_formula(clusters):
    data = crossed(8, 6, seed=3)
    groups = {"groups": np.squeeze(data[clusters].to_numpy())} if clusters else None
    robust = {"cov_type": "cluster", "cov_kwds": groups} if clusters else {}
    theirs = smf.ols("gain ~ similarity + C(target_format)", data).fit(use_t=True, **robust)
    found = calibration.ols(data, "gain", "similarity", ["target_format"], clusters)
    names = ["estimate", "se", "t", "p"]
    by_hand = [theirs.params, theirs.bse, theirs.tvalues, theirs.pvalues]
    assert found[names].tolist() == pytest.approx([v["similarity"] for v in by_hand])
    assert found["df"] == (min(data[c].nunique() for c in clusters) - 1 if clusters else 45)
