"""Published tables, analysed by the same code: IBM's model-recycling scores of RoBERTa models.

The table (Apache-2.0) holds the scores of hundreds of published fine-tuned RoBERTa models, each
fine-tuned again on 36 English targets: intermediate-task training at a scale nobody could plan. It
is not part of this package; a reader downloads it. Model names tell what a model was trained on, so
a crude relatedness, "same family of tasks", can be tested on it with the methods of this book.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from helpers.errors import BadFit, BadRecord, MissingData
from helpers.files import sha256_file
from helpers.stats import naive, permutation, reml

REPOSITORY = "https://github.com/IBM/model-recycling"
TABLE = "results/roberta-base_table.csv"
SEEDS = "results/models_results_roberta_base_pretrain.csv"
BASELINE = "roberta-base"
# Family of each target, by what it asks; the table's own names.
TARGETS: Mapping[str, str] = {
    **dict.fromkeys(["anli", "cb", "esnli", "mnli", "qnli", "rte", "wnli"], "inference"),
    **dict.fromkeys(["mrpc", "qqp", "stsb"], "paraphrase"),
    **dict.fromkeys(
        [
            "amazon_reviews_multi", "financial_phrasebank", "imdb", "poem_sentiment",
            "rotten_tomatoes", "sst2", "sst_5bins", "tweet_ev_sentiment",
        ],
        "sentiment",
    ),
    **dict.fromkeys(
        [
            "isear", "tweet_ev_emoji", "tweet_ev_emotion", "tweet_ev_hate", "tweet_ev_irony",
            "tweet_ev_offensive",
        ],
        "emotion",
    ),
    **dict.fromkeys(
        ["20_newsgroup", "ag_news", "dbpedia", "trec_coarse", "trec_fine", "yahoo_answers"], "topic"
    ),
    **dict.fromkeys(["boolq", "cola", "copa", "multirc", "wic", "wsc"], "other"),
}  # fmt: skip
# Words in a model's name that tell its family; a name that tells two families is not used.
WORDS: Mapping[str, str] = {
    "inference": r"nli\b|nli[-_]|snli|mnli|\brte\b|fever",
    "paraphrase": r"mrpc|qqp|stsb|sts-b|paws|paraphrase",
    "sentiment": r"sentiment|imdb|sst|rotten|amazon|yelp|financial|review",
    "emotion": r"emotion|emoji|hate|irony|offensive|toxic|abus",
    "topic": r"ag_?-?news|newsgroup|dbpedia|trec|yahoo|topic",
    "question answering": r"squad|boolq|quora-?qa|newsqa|triviaqa|multirc",
}


def read_table(path: str | Path, sha256: str = "") -> pd.DataFrame:
    """Read the table of fine-tuned models, as gains over the plain encoder.

    Args:
        path: a copy of ``results/roberta-base_table.csv`` of the repository.
        sha256: checksum to insist on; empty: none (``attrs["sha256"]`` says what was read, so that
            a book can state it).

    Returns:
        One row per fully tested model and target: intermediate (model name), target, score and
        baseline (points), gain (points), intermediate_family, target_family, block (both families)
        and same_family. Models whose name tells no family, or two, have family "".

    Raises:
        MissingData: no such file; the text says where to get it.
        BadRecord: the checksum differs, or the file is not that table.
    """
    wide, digest = _read(path, sha256, ",", TABLE)
    missing = [c for c in ("model_name", *TARGETS) if c not in wide.columns]
    if missing:
        raise BadRecord(f"{path} is not {TABLE}: it lacks {', '.join(missing[:5])}.")
    scores = wide.set_index("model_name")[list(TARGETS)].apply(pd.to_numeric, errors="coerce")
    if BASELINE not in scores.index:
        raise BadRecord(f"{path} has no row {BASELINE!r}, so there is nothing to compare with.")
    scores = scores[~scores.index.duplicated()].dropna()
    if BASELINE not in scores.index or len(scores) < 3:
        raise BadRecord(f"{path} has too few complete rows ({len(scores)}).")
    if not scores.to_numpy().min() >= 0 or not scores.to_numpy().max() <= 100:
        raise BadRecord(f"{path} holds scores outside 0 to 100.")
    baseline = scores.loc[BASELINE]
    long = scores.drop(index=BASELINE).rename_axis(columns="target").stack().rename("score")
    out = long.reset_index().rename(columns={"model_name": "intermediate"})
    out["baseline"] = out["target"].map(baseline)
    out["gain"] = out["score"] - out["baseline"]
    out = add_families(out)
    out.attrs["sha256"] = digest
    return out


def _read(path: str | Path, sha256: str, separator: str, name: str) -> tuple[pd.DataFrame, str]:
    file = Path(path)
    if not file.is_file():
        raise MissingData(
            f"{file} is not there. Download {name} from {REPOSITORY} (Apache-2.0) and pass its path."
        )
    digest = sha256_file(file)
    if sha256 and digest != sha256:
        raise BadRecord(f"{file} has checksum {digest}, not {sha256}; download it again.")
    try:
        return pd.read_csv(file, sep=separator), digest
    except (pd.errors.ParserError, UnicodeDecodeError, pd.errors.EmptyDataError) as error:
        raise BadRecord(f"{file} cannot be read as a table: {error}") from None


def add_families(table: pd.DataFrame) -> pd.DataFrame:
    """Add families of models and targets, their block, and whether they agree."""
    out = table.copy()
    names = {m: family_of(str(m)) for m in out["intermediate"].unique()}
    out["intermediate_family"] = out["intermediate"].map(names)
    out["target_family"] = out["target"].map(dict(TARGETS))
    out["block"] = out["intermediate_family"] + " x " + out["target_family"]
    out["same_family"] = (out["intermediate_family"] == out["target_family"]).astype(float)
    return out


def family_of(model: str) -> str:
    """Return the family a model's name tells; empty if it tells none or several."""
    found = [f for f, words in WORDS.items() if re.search(words, model.lower())]
    return found[0] if len(found) == 1 else ""


def read_seeds(path: str | Path, sha256: str = "") -> pd.DataFrame:
    """Read the baselines of the plain encoder over seeds.

    Args:
        path: a copy of ``results/models_results_roberta_base_pretrain.csv`` (tab separated).
        sha256: checksum to insist on.

    Returns:
        target, seed, score in points (accuracy, or Spearman correlation for stsb).

    Raises:
        MissingData, BadRecord: as in `read_table`.
    """
    wide, _ = _read(path, sha256, "\t", SEEDS)
    needed = ["dataset name", "accuracy", "spearmanr", "stage"]
    if any(c not in wide.columns for c in needed):
        raise BadRecord(f"{path} is not {SEEDS}: it lacks one of {', '.join(needed)}.")
    score = 100 * wide["accuracy"].fillna(wide["spearmanr"])
    out = pd.DataFrame({"target": wide["dataset name"], "seed": wide["stage"], "score": score})
    return out.dropna().reset_index(drop=True)


def collapsed_rows(table: pd.DataFrame, points: float = 10.0) -> pd.Series:
    """Tell which gains are losses of more than some points: collapsed or misplaced scores.

    In this table some rows lose tens of points, from runs that failed and from scores that stand in
    another target's column. There is no English development score to judge them by, so they can
    only be shown apart, never silently dropped: dropping by the outcome changes the slope.
    """
    return table["gain"] < -points


def compare(table: pd.DataFrame, n: int = 9999, seed: int = 0) -> pd.DataFrame:
    """Estimate the effect of a shared family in ways that differ in what they take as independent.

    Args:
        table: what `read_table` returned; models without a family are left out.
        n: relabellings of families.
        seed: random seed.

    Returns:
        Indexed by method: estimate (points), se, df, low, high, p. The permutation works on the
        table of family means (model family x target family), whose cells are what varies.

    Raises:
        BadFit: no model has a family.
    """
    used = table[table["intermediate_family"] != ""]
    if used.empty:
        raise BadFit("no model name tells a family, so there is nothing to compare.")
    both, term = ["intermediate", "target"], "same_family"
    fits = {
        "REML, model and target": both,
        "REML, model, target and block": [*both, "block"],
    }
    rows = {
        "OLS on rows": naive.ols(used, "gain", term),
        "OLS, clustered both ways": naive.ols(used, "gain", term, clusters=both),
        **{name: reml.crossed_reml(used, "gain", [term], e)[term] for name, e in fits.items()},
    }
    out = pd.DataFrame(rows).T[["estimate", "se", "df", "low", "high", "p"]].astype(float)
    rows_by, columns_by = "intermediate_family", "target_family"
    means = used.groupby([rows_by, columns_by], as_index=False)[["gain", term]].mean()
    found = permutation.qap(means, "gain", term, rows_by, columns_by, n=n, seed=seed)
    out.loc["permutation of families", ["estimate", "p"]] = [found.estimate, found.p]
    return out.rename_axis("method")


def noise(seeds: pd.DataFrame) -> pd.Series:
    """Return the standard deviation over seeds per target, in points.

    Args:
        seeds: what `read_seeds` returned.

    Raises:
        BadFit: a target has one seed only.
    """
    counts = seeds.groupby("target")["score"].size()
    if (counts < 2).any():
        raise BadFit(f"{counts.idxmin()!r} has one seed; its noise is unknown.")
    return pd.Series(np.sqrt(seeds.groupby("target")["score"].var(ddof=1)), name="seed_sd")
