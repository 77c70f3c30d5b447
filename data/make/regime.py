"""Make data/results/regime.csv: scores from which the sizes of the pilot study are chosen.

    python -m data.make.regime 300x6 1000x3      # an hour of two cores each; a second call goes on

Each regime is a number of English target rows and of epochs. Four intermediates and two targets are
trained in each, with two seeds and four baselines, from the same intermediate stages; which regime
gives the most reliable gains is read off ``stats.gains`` without looking at any similarity.
"""

import argparse
from dataclasses import replace
from pathlib import Path

import pandas as pd

from helpers import study
from helpers.files import write_atomic
from helpers.study.profiles import PROFILES, Profile

OUTPUT = Path(__file__).parents[1] / "results" / "regime.csv"
INTERMEDIATES = ("qqp", "siqa", "squad1", "xpos-ewt")  # one a format
TARGETS = ("xnli", "udpos")
BASELINES = ("pawsx", "xquad")  # no arm was run: what the store has of their baselines is kept
LANGUAGES = ("de", "zh")
# Rows, epochs, learning rate of the target stage; span tasks read longer rows, so a third of them.
REGIMES = {
    "300x6": (300, 6, 2e-4),
    "300x12": (300, 12, 1e-4),
    "1000x3": (1000, 3, 1e-4),
    "1000x6": (1000, 6, 1e-4),
    "3000x3": (3000, 3, 1e-4),
}


def profile(regime: str) -> Profile:
    """Return the first study's profile with the target stage of a regime and a short intermediate stage."""
    rows, epochs, rate = REGIMES[regime]
    short = {"train_rows": 3000, "dev_rows": 300, "batch_tokens": 1024}
    asked = {"train_rows": rows, "epochs": epochs, "learning_rate": rate, "batch_tokens": 1024}
    spans = {"max_length": 256, "train_rows": 1000}
    first = {"span": spans, "choice": {"max_length": 96, "train_rows": 1000}}
    then = {"span": spans | {"train_rows": rows // 3}}
    first_study = PROFILES["first"]
    return replace(
        first_study,
        name=f"regime-{regime}",
        seeds=2,
        intermediate=first_study.intermediate.override(short),
        target=first_study.target.override(asked),
        by_format={"intermediate": first, "target": then},
        test_rows={"pair": 300, "tagging": 150, "span": 120},
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser("python -m data.make.regime", description=__doc__)
    parser.add_argument("regimes", nargs="+", choices=REGIMES)
    for regime in parser.parse_args().regimes:
        size, every = profile(regime), (*TARGETS, *BASELINES)
        plan = study.plan(size, INTERMEDIATES, TARGETS, languages=LANGUAGES)
        print(regime, plan.cost(), sep="\n", flush=True)
        study.run(plan, engine="processes")
        whole = study.plan(size, INTERMEDIATES, every, languages=LANGUAGES)
        scores = study.stored(whole).assign(regime=regime)
        if OUTPUT.exists():
            others = pd.read_csv(OUTPUT).query("regime != @regime")
            scores = pd.concat([others, scores])
        write_atomic(OUTPUT, scores.to_csv(index=False).encode())
