"""Regressions that ignore part of the structure, and a published table analysed by the same code.

The table is IBM's model recycling (Apache-2.0): scores of hundreds of published fine-tuned RoBERTa
models, each fine-tuned again on 36 English targets. It is not part of this package; a reader
downloads it. Model names tell what a model was trained on, so a crude relatedness, "same family of
tasks", can be tested on it with the methods of this book.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import statsmodels.api as sm

from helpers.errors import BadFit, BadRecord, MissingData
from helpers.files import sha256_file
from helpers.stats import design, permutation, reml

REPOSITORY = "https://github.com/IBM/model-recycling"
TABLE = "results/roberta-base_table.csv"
BASELINE = "roberta-base"
# Family of each target, by what it asks; the table's own names.
FAMILIES: Mapping[str, str] = {
    "inference": "anli cb esnli mnli qnli rte wnli",
    "paraphrase": "mrpc qqp stsb",
    "sentiment": "amazon_reviews_multi financial_phrasebank imdb poem_sentiment rotten_tomatoes sst2 "
    "sst_5bins tweet_ev_sentiment",
    "emotion": "isear tweet_ev_emoji tweet_ev_emotion tweet_ev_hate tweet_ev_irony tweet_ev_offensive",
    "topic": "20_newsgroup ag_news dbpedia trec_coarse trec_fine yahoo_answers",
    "other": "boolq cola copa multirc wic wsc",
}
TARGETS = {target: family for family, names in FAMILIES.items() for target in names.split()}
# Words in a model's name that tell its family; a name that tells two families is not used.
WORDS: Mapping[str, str] = {
    "inference": r"nli\b|nli[-_]|snli|mnli|\brte\b|fever",
    "paraphrase": r"mrpc|qqp|stsb|sts-b|paws|paraphrase",
    "sentiment": r"sentiment|imdb|sst|rotten|amazon|yelp|financial|review",
    "emotion": r"emotion|emoji|hate|irony|offensive|toxic|abus",
    "topic": r"ag_?-?news|newsgroup|dbpedia|trec|yahoo|topic",
    "question answering": r"squad|boolq|quora-?qa|newsqa|triviaqa|multirc",
}


def ols(
    data: pd.DataFrame,
    outcome: str,
    predictor: str,
    effects: Sequence[str] = (),
    clusters: Sequence[str] = (),
) -> pd.Series:
    """Fit ordinary least squares with indicators of ``effects``; return the row of the predictor.

    One or two ``clusters``: cluster-robust, the smaller number of clusters less one as df.
    """
    x, names = design.fixed_matrix(data, [predictor, *effects])
    robust: dict[str, Any] = {}
    if clusters:
        groups = np.column_stack([pd.factorize(data[c].astype(object))[0] for c in clusters])
        robust = {"cov_type": "cluster", "cov_kwds": {"groups": np.squeeze(groups)}}
    fit, at = (
        sm.OLS(data[outcome].to_numpy(float), x).fit(use_t=True, **robust),
        names.index(predictor),
    )
    if not (variance := fit.cov_params()[at, at]) > 0:
        raise BadFit(
            f"the variance of {predictor!r} is not positive: with few clusters the two-way formula "
            "can give that; use a mixed model."
        )
    df = getattr(fit, "df_resid_inference", fit.df_resid)
    return reml.t_table([predictor], fit.params[[at]], np.sqrt([variance]), np.array([df])).iloc[0]


def read_table(path: str | Path, sha256: str = "") -> pd.DataFrame:
    """Read the table of fine-tuned models, as gains over the plain encoder.

    Args:
        path: a copy of ``results/roberta-base_table.csv`` of the repository.
        sha256: checksum to insist on; empty: none.

    Returns:
        One row per fully tested model and target: intermediate (model name), target, score, baseline,
        gain (points), intermediate_family, target_family ("" if the name tells none, or two), block,
        same_family.
    """
    file = Path(path)
    if not file.is_file():
        raise MissingData(
            f"{file} is not there. Download {TABLE} from {REPOSITORY} (Apache-2.0) and pass its path."
        )
    digest = sha256_file(file)
    if sha256 and digest != sha256:
        raise BadRecord(f"{file} has checksum {digest}, not {sha256}; download it again.")
    try:
        wide = pd.read_csv(file)
    except (pd.errors.ParserError, UnicodeDecodeError, pd.errors.EmptyDataError) as error:
        raise BadRecord(f"{file} cannot be read as a table: {error}") from None
    if missing := [c for c in ("model_name", *TARGETS) if c not in wide.columns]:
        raise BadRecord(f"{path} is not {TABLE}: it lacks {', '.join(missing[:5])}.")
    scores = wide.set_index("model_name")[list(TARGETS)].apply(pd.to_numeric, errors="coerce")
    scores = scores[~scores.index.duplicated()].dropna()
    if BASELINE not in scores.index or len(scores) < 3:
        raise BadRecord(
            f"{path} has no row {BASELINE!r}, or too few complete rows ({len(scores)})."
        )
    if not scores.to_numpy().min() >= 0 or not scores.to_numpy().max() <= 100:
        raise BadRecord(f"{path} holds scores outside 0 to 100.")
    long = scores.drop(index=BASELINE).rename_axis(columns="target").stack().rename("score")
    out = long.reset_index().rename(columns={"model_name": "intermediate"})
    out["baseline"] = out["target"].map(scores.loc[BASELINE])
    out["gain"] = out["score"] - out["baseline"]
    return add_families(out)


def add_families(table: pd.DataFrame) -> pd.DataFrame:
    """Add families of models and targets, their block, and whether they agree."""
    out = table.copy()
    names = {m: family_of(str(m)) for m in out["intermediate"].unique()}
    out["intermediate_family"] = out["intermediate"].map(names)
    out["target_family"] = out["target"].map(TARGETS)
    out["block"] = out["intermediate_family"] + " x " + out["target_family"]
    out["same_family"] = (out["intermediate_family"] == out["target_family"]).astype(float)
    return out


def family_of(model: str) -> str:
    """Return the family a model's name tells; empty if it tells none or several."""
    found = [f for f, words in WORDS.items() if re.search(words, model.lower())]
    return found[0] if len(found) == 1 else ""


def compare(table: pd.DataFrame, n: int = 9999, seed: int = 0) -> pd.DataFrame:
    """Estimate the effect of a shared family in ways that differ in what they take as independent.

    Args:
        table: what `read_table` returned; models without a family are left out.
        n, seed: relabellings of families, on the means of model family x target family.

    Returns:
        Indexed by method: estimate (points), se, df, low, high, p.
    """
    used = table[table["intermediate_family"] != ""]
    if used.empty:
        raise BadFit("no model name tells a family, so there is nothing to compare.")
    both, term = ["intermediate", "target"], "same_family"
    blocks = [*both, "block"]
    rows = {
        "OLS on rows": ols(used, "gain", term),
        "OLS, clustered both ways": ols(used, "gain", term, clusters=both),
        "REML, model and target": reml.crossed_reml(used, "gain", [term], both)[term],
        "REML, model, target and block": reml.crossed_reml(used, "gain", [term], blocks)[term],
    }
    out = pd.DataFrame(rows).T[["estimate", "se", "df", "low", "high", "p"]].astype(float)
    families = ("intermediate_family", "target_family")
    means = used.groupby(list(families), as_index=False)[["gain", term]].mean()
    found = permutation.qap(means, "gain", term, *families, n=n, seed=seed)
    out.loc["permutation of families", ["estimate", "p"]] = [found.estimate, found.p]
    return out.rename_axis("method")
