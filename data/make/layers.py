"""Make data/results/layers.csv: retrieval from every hidden state, before and after each intermediate task.

    python -m data.make.layers 300x6 --targets tatoeba bucc2018 --languages de zh

It reads the encoders that the intermediate stages of a profile, or of a regime of ``data.make.regime``,
left in the store, and trains nothing. What is in the table already is not read again.
"""

import argparse
from pathlib import Path

import pandas as pd

from data.make import regime
from helpers import evaluation, study, tasks
from helpers.errors import MissingData
from helpers.files import commit, write_atomic
from helpers.study.arm import tuned_encoder
from helpers.study.plan import pretrained
from helpers.study.profiles import PROFILES
from helpers.study.store import Store

OUTPUT = Path(__file__).parents[1] / "results" / "layers.csv"
KEY = ["profile", "intermediate", "seed", "target", "language"]


def encoders(plan: study.Plan, store: Store) -> dict[tuple[str, int], tuple[str, Path | None]]:
    """Return status and folder of every intermediate stage whose encoder is stored; "": the plain one."""
    stages = plan.runs.query("stage == 'intermediate' and condition == 'single'")
    arms = stages[["intermediate", "seed", "run"]].itertuples(index=False, name=None)
    there = {(name, seed): (store.status(run), store.checkpoint(run)) for name, seed, run in arms}
    return {("", 0): ("done", None)} | {arm: found for arm, found in there.items() if found[1]}


def layers(
    plan: study.Plan, store: Store, targets: list[str], languages: list[str], known: pd.DataFrame
) -> pd.DataFrame:
    """Return ``known`` with a row per encoder, target, language and layer that it lacked."""
    plain, made_by, rows = pretrained(plan.encoder), commit(), []
    done = set(known[KEY].itertuples(index=False, name=None))
    for (intermediate, seed), (status, folder) in encoders(plan, store).items():
        left = [(t, c) for t in targets for c in languages if c in tasks.get(t).languages]
        arm = (plan.profile, intermediate, seed)
        left = [pair for pair in left if (*arm, *pair) not in done]
        encoder = tuned_encoder(plain, folder) if folder and left else plain
        for target, language in left:
            task = tasks.get(target)
            split = "dev" if task.source.serving(language, "dev") else "test"
            try:
                found = evaluation.layer_scores(encoder, task, language, split)
            except MissingData as error:
                print(f"left out: {target} in {language}: {error}")
                continue
            place = dict(zip(KEY, (*arm, target, language), strict=True))
            place |= {"split": split, "metric": task.metric, "status": status, "commit": made_by}
            rows += [place | {"layer": layer, "value": value} for layer, value in found.items()]
    return pd.concat([part for part in (known, pd.DataFrame(rows)) if len(part)] or [known])


if __name__ == "__main__":
    parser = argparse.ArgumentParser("python -m data.make.layers", description=__doc__)
    parser.add_argument("profile", choices=[*PROFILES, *regime.REGIMES])
    parser.add_argument("--targets", nargs="+", default=["tatoeba", "bucc2018", "messages"])
    parser.add_argument("--languages", nargs="+", default=["de", "fr", "ru", "sw", "zh"])
    asked, known = parser.parse_args(), pd.DataFrame(columns=KEY)
    if OUTPUT.exists():
        known = pd.read_csv(OUTPUT, keep_default_na=False)
    profile = PROFILES.get(asked.profile) or regime.profile(asked.profile)
    plan = study.plan(profile, None, asked.targets, languages=["available"])
    found = layers(plan, Store(), asked.targets, asked.languages, known)
    write_atomic(OUTPUT, found.to_csv(index=False).encode())
