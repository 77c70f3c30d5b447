"""Small tables with known structure that several tests of the statistics use."""

import numpy as np
import pandas as pd

from data.make import calibration
from helpers import tasks


def register(name, form="pair", role="target", **facts):
    source = tasks.Source("rows", name, read=lambda language, split: [])
    tasks.register(tasks.Task(name, role, form, source, **facts), replace=True)


def world(name, slope, seed):
    """A dyad table of a simulated world; a generator in place of a seed goes on."""
    return calibration.dyad_tables(calibration.SCENARIOS[name], slope)(np.random.default_rng(seed))


def crossed(rows=6, columns=5, seed=None):
    """A full intermediate x target table; without a seed it needs no random numbers.

    The fixed one was analysed with lme4 1.1, lmerTest 3.1 and pbkrtest 0.5 in R 4.2.
    """
    i, t = (a.ravel() for a in np.indices((rows, columns)))
    k = np.arange(i.size)
    f, g = i % 3, t % 2
    if seed is None:
        similarity = np.sin(1.7 * i + 2.3 * t) + 0.4 * np.cos(k * 1.3)
        noise = np.sin(12.9898 * (k + 1)) * 43758.5453 % 1.0 - 0.5
    else:
        rng = np.random.default_rng(seed)
        similarity, noise = rng.normal(size=i.size), rng.normal(size=i.size)
    gain = 0.5 * similarity + 1.2 * np.sin(i * 2.0) + 0.9 * np.cos(t * 1.1)
    gain += 0.7 * np.sin(f * 3.1 + g) + 1.5 * noise
    table = pd.DataFrame({"intermediate": i, "target": t, "block": f * 2 + g})
    table["intermediate_format"] = [f"f{x}" for x in f]
    table["target_format"] = [f"g{x}" for x in g]
    table["same_format"] = (f == g).astype(float)
    return table.assign(similarity=similarity, gain=gain, w=1.0 + k % 4)


def scores(
    intermediates=("a", "b"),
    targets=("x", "y"),
    languages=("en", "de", "fr"),
    seeds=3,
    baseline_seeds=4,
    seed=0,
):
    """A tidy score table in the shape the store gives, accuracies between 0.3 and 0.9."""
    arms = [("none", "", baseline_seeds), *(("single", name, seeds) for name in intermediates)]
    rows = [
        (f"{condition}-{name}-{target}-{s}", condition, name, target, language, s)
        for target in targets
        for condition, name, count in arms
        for s in range(count)
        for language in languages
    ]
    names = ["run", "condition", "intermediate", "target", "language", "seed"]
    value = np.random.default_rng(seed).uniform(0.3, 0.9, len(rows))
    facts = {"stage": "target", "encoder": "tiny", "split": "test", "metric": "accuracy", "n": 200}
    facts |= {"rows_trained": 100, "commit": "58d480e67035"}
    return pd.DataFrame(rows, columns=names).assign(**facts, value=value, status="done")
