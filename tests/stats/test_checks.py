"""The loader of a published table, tried on a generated stand-in of the same shape."""

import hashlib

import numpy as np
import pandas as pd
import pytest
import statsmodels.formula.api as smf

from helpers.errors import BadFit, BadRecord, MissingData
from helpers.stats import checks
from tests.stats.tables import crossed

NAMES = {
    "inference": "org/roberta-base-mnli-{k}",
    "sentiment": "org/roberta-base-imdb-{k}",
    "topic": "org/roberta-base-ag_news-{k}",
    "emotion": "org/roberta-base-tweet-emotion-{k}",
    "": "org/roberta-base-mystery-{k}",
}


def stand_in(same=0.0, block=1.0, models=386, incomplete=40, seed=0) -> pd.DataFrame:
    """Random scores laid out as the published table; no number in it is a published one."""
    rng = np.random.default_rng(seed)
    targets = list(checks.TARGETS)
    families = list(NAMES)
    own = [families[k % len(families)] for k in range(models)]
    effect = {(a, b): block * rng.normal() for a in families for b in checks.TARGETS.values()}
    base = rng.uniform(50, 90, len(targets))
    node, ease = rng.normal(size=models), 0.5 * rng.normal(size=len(targets))
    rows = [["roberta-base", base.mean(), np.nan, *base]]
    for k, family in enumerate(own):
        shift = (
            [same * (family == f) + effect[family, f] for f in checks.TARGETS.values()]
            + node[k]
            + ease
            + rng.normal(size=len(targets))
        )
        rows.append([NAMES[family].format(k=k), 0.0, 0.0, *np.clip(base + shift, 0, 100)])
    for k in range(incomplete):
        part = np.where(rng.random(len(targets)) < 0.5, np.nan, base)
        rows.append([f"org/partly-tested-{k}", np.nan, np.nan, *part])
    return pd.DataFrame(rows, columns=["model_name", "avg", "mnli_lp", *targets])


@pytest.fixture
def path(tmp_path):
    file = tmp_path / "roberta-base_table.csv"
    stand_in().to_csv(file)
    return file


def test_the_table_becomes_gains_over_the_plain_encoder(path):
    found = checks.read_table(path)
    assert len(found) == 386 * 36
    assert found["target"].nunique() == 36
    wide = stand_in().set_index("model_name")
    row = found[(found["intermediate"] == "org/roberta-base-imdb-1") & (found["target"] == "sst2")]
    row = row.iloc[0]
    gain = wide.loc["org/roberta-base-imdb-1", "sst2"] - wide.loc["roberta-base", "sst2"]
    assert row["gain"] == pytest.approx(gain)
    assert (row["intermediate_family"], row["target_family"]) == ("sentiment", "sentiment")
    assert row["same_family"] == 1
    assert checks.TARGETS.keys() == set(found["target"])


def test_checksum_is_insisted_on_only_if_known(path):
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert len(checks.read_table(path, digest)) == 386 * 36
    with pytest.raises(BadRecord, match="checksum"):
        checks.read_table(path, "0" * 64)


def test_files_that_are_not_the_table(tmp_path, path):
    with pytest.raises(MissingData, match="github.com/IBM/model-recycling"):
        checks.read_table(tmp_path / "nothing.csv")
    table = stand_in()
    for wrong, said in [
        (table.drop(columns="sst2"), "lacks sst2"),
        (table[table["model_name"] != "roberta-base"], "no row 'roberta-base'"),
        (table.assign(sst2=table["sst2"] * 10), "outside 0 to 100"),
        (table.tail(10).assign(model_name="roberta-base"), "too few complete rows"),
    ]:
        wrong.to_csv(path)
        with pytest.raises(BadRecord, match=said):
            checks.read_table(path)
    path.write_bytes(b"")
    with pytest.raises(BadRecord, match="cannot be read"):
        checks.read_table(path)


@pytest.mark.parametrize(
    ("name", "family"),
    [
        ("textattack/roberta-base-MNLI", "inference"),
        ("someone/roberta_anli_v2", "inference"),
        ("someone/roberta-base-rte", "inference"),
        ("someone/roberta-base-smarter", ""),
        ("someone/roberta-base-imdb", "sentiment"),
        ("someone/roberta-squad2", "question answering"),
        ("someone/roberta-mnli-imdb", ""),
        ("someone/ColD-Fusion-itr13", ""),
    ],
)
def test_names_tell_families(name, family):
    assert checks.family_of(name) == family


def test_five_methods_on_a_true_effect_and_on_none():
    true = checks.add_families(long(stand_in(same=2.0, block=0.2)))
    found = checks.compare(true, n=499)
    assert len(found) == 5
    assert found["estimate"].between(1.4, 2.6).all()
    assert (found["p"] < 0.05).all()
    none = checks.add_families(long(stand_in(same=0.0, block=2.0, seed=3)))
    blind = checks.compare(none, n=499)
    # the block variance makes the standard error honest, whatever the draw
    honest = blind.loc["REML, model, target and block", "se"]
    assert honest > 4 * blind.loc["REML, model and target", "se"]
    assert blind.loc["REML, model, target and block", "df"] < 60
    assert blind.loc["permutation of families", "p"] > 0.05


def long(wide):
    scores = wide.set_index("model_name")[list(checks.TARGETS)].dropna()
    gains = scores.drop(index="roberta-base") - scores.loc["roberta-base"]
    out = gains.rename_axis(columns="target").stack().rename("gain").reset_index()
    return out.rename(columns={"model_name": "intermediate"})


def test_nothing_to_compare():
    table = checks.add_families(long(stand_in()))
    with pytest.raises(BadFit, match="no model name"):
        checks.compare(table.assign(intermediate_family=""))


@pytest.mark.parametrize("clusters", [[], ["target"], ["intermediate", "target"]])
def test_ols_is_that_of_the_formula(clusters):
    data = crossed(8, 6, seed=3)
    groups = {"groups": np.squeeze(data[clusters].to_numpy())} if clusters else None
    robust = {"cov_type": "cluster", "cov_kwds": groups} if clusters else {}
    theirs = smf.ols("gain ~ similarity + C(target_format)", data).fit(use_t=True, **robust)
    found = checks.ols(data, "gain", "similarity", ["target_format"], clusters)
    names = ["estimate", "se", "t", "p"]
    by_hand = [theirs.params, theirs.bse, theirs.tvalues, theirs.pvalues]
    assert found[names].tolist() == pytest.approx([v["similarity"] for v in by_hand])
    assert found["df"] == (min(data[c].nunique() for c in clusters) - 1 if clusters else 45)
