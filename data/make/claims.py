"""Make data/results/claims.csv: ten claims of Phang et al. (2020), theirs and ours, by fixed rules.

    python -m data.make.claims

Claims 1 to 6 are tested where a study has the runs; 7 to 10 are facts with their sources. An interval is
over the targets or the intermediates that a mean is taken over, identity pairs and half-converged runs
left out. Over intermediates the noise of the baselines is common to all, and added (Welch's degrees of
freedom). The paper's means are over all its targets; the same over trained targets stands beside them.
The best task of a target is chosen by all seeds but one, and judged by that one.
"""

import numpy as np
import pandas as pd
from scipy import stats

from helpers import results
from helpers.files import write_atomic
from helpers.stats import gains
from helpers.study.profiles import RETRY_SEED

OUTPUT = results.FOLDER / "claims.csv"
PAPER = "Phang et al. (2020), abstract and section 4"
# Claim, what the paper states in points, and the rule by which ours is judged.
STATED = {
    "1 squad1": ("SQuAD improves the targets by 8.2 points on average", 8.2),
    "1 mnli": ("MNLI improves the targets by 7.5 points on average", 7.5),
    "1 hellaswag": ("HellaSwag improves the targets by 7.0 points on average", 7.0),
    "2": ("multi-task training on all intermediate tasks is best, by 8.7 points", 8.7),
    "3": ("BUCC and Tatoeba, which have no training data of their own, gain most", np.nan),
    "4 tydiqa": ("TyDiQA gains with many intermediate tasks", np.nan),
    "4 xnli": ("XNLI does not gain", np.nan),
    "5": ("the best intermediate task for each target brings 5.4 points", 5.4),
    "6 mlm": ("English tasks beat further multilingual masked language modelling", np.nan),
    "6 translated": ("English tasks beat machine-translated intermediate data", np.nan),
}
# Means over all targets are judged over the trained ones, too, for which the paper states no number.
MEANS = ("1 squad1", "1 mnli", "1 hellaswag", "5")
STATED |= {f"{name}, trained": (STATED[name][0], np.nan) for name in MEANS}
FACTS = {
    "7": "XLM-R Large was the state of the art before: the leaderboard of XTREME, June 2020",
    "8": "XTREME tests zero-shot transfer over diverse tasks in up to 40 languages: Hu et al. (2020)",
    "9": "nine intermediate tasks, each alone, are tried: section 3.1",
    "10": "they are question answering, tagging, sentence completion, paraphrase and inference: section 3.1",
}


def claims(scores: pd.DataFrame) -> pd.DataFrame:
    """Return a row per claim: theirs with its source, ours with an interval, the rule, the outcome."""
    scores, _ = gains.converged(gains.usable(scores)[0])
    table = gains.gains(scores)
    single = gains.exclude(gains.dyads(table))
    wide = single.pivot(index="target", columns="intermediate", values="gain")
    best = wide[wide.mean().idxmax()].dropna()

    def against(condition: str) -> pd.Series:
        """Return, per target, the best single intermediate less another condition."""
        rows = gains.exclude(table[(table["condition"] == condition) & ~table["english"]])
        means = rows.groupby(["target", "intermediate", "language"])["gain"].mean()
        return (best - means.groupby("target").mean()).dropna()

    trained = wide.index.isin(gains.trained_targets(single)["target"])
    # Variance (points squared) and degrees of freedom of each target's mean baseline.
    base = gains.clean(scores).query("condition == 'none' and language != 'en'")
    by = (100 * base.groupby(["target", "seed"])["value"].mean()).groupby("target")
    noise = pd.DataFrame({"variance": by.var() / by.size(), "df": by.size() - 1})
    # Baselines that all values of a sample share; none where the study has no such target.
    shared = {"4 tydiqa": noise[noise.index == "tydiqa"], "4 xnli": noise[noise.index == "xnli"]}
    of_mean = noise[noise.index.isin(wide.index[trained])]
    shared["3"] = of_mean.assign(variance=of_mean["variance"] / len(of_mean) ** 2)
    tasks = ("squad1", "mnli", "hellaswag")
    samples = {f"1 {name}": wide.get(name, pd.Series(dtype=float)) for name in tasks}
    by_task = wide.T.reindex(columns=["tydiqa", "xnli"])
    samples |= {
        "2": -against("multitask"),
        "3": wide[wide.index.isin(["bucc2018", "tatoeba"])].mean() - wide[trained].mean(),
        "4 tydiqa": by_task["tydiqa"],
        "4 xnli": -by_task["xnli"],
        "5": _favourites(table),
        "6 mlm": against("mlm"),
        "6 translated": against("translated"),
    }
    of_trained = wide.index[trained]
    samples |= {
        f"{name}, trained": samples[name][lambda x: x.index.isin(of_trained)] for name in MEANS
    }
    rows = [
        {"claim": name, "text": text, "theirs": theirs, "source": PAPER}
        | _judged(samples[name].dropna(), shared.get(name))
        for name, (text, theirs) in STATED.items()
    ]
    rows += [{"claim": name, "text": text, "outcome": "a fact"} for name, text in FACTS.items()]
    return pd.DataFrame(rows)


def _favourites(table: pd.DataFrame) -> pd.Series:
    """Return, per target, the mean gain in one seed of the intermediate that the other seeds favour."""
    rows = gains.exclude(table[(table["condition"] == "single") & ~table["english"]])
    rows = rows[gains.everywhere(rows)]
    start = rows["seed"] % RETRY_SEED  # a repeated run stands in for the first
    each = rows.groupby(["target", "intermediate", start])["gain"].mean().unstack()
    judged = {}
    for seed in each.columns:
        others = each.loc[each[seed].notna()].drop(columns=seed).mean(axis=1).dropna()
        best = others.groupby("target").idxmax()
        judged[seed] = each[seed].reindex(best).droplevel("intermediate")
    return pd.DataFrame(judged).mean(axis=1).rename_axis("target")


def _judged(sample: pd.Series, shared: pd.DataFrame | None = None) -> dict[str, object]:
    """Return mean, 95 % interval, and whether the claim's sign is shown, refuted or open."""
    rule = "agrees if the interval is above zero, disagrees if below"
    if len(sample) < 2:
        return {"n": 0, "rule": rule, "outcome": "not tested"}
    parts = pd.DataFrame({"variance": [sample.var() / len(sample)], "df": [len(sample) - 1]})
    parts = pd.concat([parts, shared])  # of nothing shared: the same
    # nobody knows the noise of a baseline that ran once
    each, variance = parts["variance"], float(parts["variance"].sum(skipna=False))
    df = variance**2 / float((each**2 / parts["df"]).sum())
    half = stats.t.ppf(0.975, df) * np.sqrt(variance)
    low, high = sample.mean() - half, sample.mean() + half
    outcome = "agrees" if low > 0 else "disagrees" if high < 0 else "cannot tell"
    found = {"ours": sample.mean(), "low": low, "high": high, "n": len(sample)}
    return found | {"over": f"{sample.index.name}s", "rule": rule, "outcome": outcome}


if __name__ == "__main__":
    found = claims(results.load("pilot"))
    print(found.drop(columns=["text", "source", "rule"]).to_string(float_format="%.2f"))
    write_atomic(OUTPUT, found.to_csv(index=False, float_format="%.4g").encode())
