"""The tables whose values are pinned, each computed by one function through public names."""

import contextlib
import hashlib
import inspect
import platform
import random
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import scipy
import threadpoolctl
import torch

from helpers import data, results, study, tasks
from helpers.metrics.submissions import BENCHMARKS, score_submission, write_labels, write_submission
from helpers.similarity import catalogue, features
from helpers.similarity.text import languages
from helpers.stats import calibration, confirmatory, gains, multiverse, permutation, prediction
from helpers.study import profiles
from helpers.study.store import Store

FOLDER = Path(__file__).parent
STORED, LIVE = "first", "demo"  # the profiles with committed scores, and with real text
N = 99  # relabellings
TASKS = ["intermediate", "target"]  # the roles, and the stages of a run


def machine():
    """Return what decides in which order a processor adds."""
    pools = threadpoolctl.threadpool_info()
    facts = Path("/proc/cpuinfo")
    lines = facts.read_text(encoding="utf-8").splitlines() if facts.exists() else []
    vendors = [line.split(":")[1].strip() for line in lines if line.startswith("vendor")]
    return {
        "machine": platform.machine(),
        "processor": next(iter(vendors), ""),
        "vectors": torch.backends.cpu.get_cpu_capability(),
        "blas": " ".join(sorted({p["architecture"] for p in pools if "architecture" in p})),
        **{library.__name__: library.__version__ for library in (torch, np, scipy, pd)},
    }


@contextlib.contextmanager
def one_thread():
    """Add in one order, however many cores there are."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpoolctl.threadpool_limits(1):
            yield
    finally:
        torch.set_num_threads(before)


# The stored study.
def language_gains(collapsed=False):
    scores, _ = gains.usable(results.load(STORED), collapsed)
    rows = gains.gains(scores, collapsed=collapsed)
    rows["syntactic"] = rows["language"].map(languages()["syntactic"])
    return rows


def dyad_table(rows=None):
    rows = language_gains() if rows is None else rows
    return gains.dyads(rows, similarity=results.similarities(STORED, added=False))


def gain_values():
    names = [*TASKS, "language", "seed", "gain", "gain_logit", "gain_error", "gain_z"]
    return language_gains()[names]


def dyad_values():
    names = [*TASKS, "block", "identity_pair", "seeds", "languages", *gains.SCALES]
    return dyad_table()[[*names, confirmatory.PRIMARY]]


def confirmatory_values():
    scores = results.load(STORED)
    similarity = results.similarities(STORED, added=False)
    departs = confirmatory.departures(scores, STORED, similarity)
    found = confirmatory.confirm(dyad_table(), language_gains(), departs=departs, n=N)
    fits = {name: fit.table.rename_axis("term").reset_index() for name, fit in found.fits.items()}
    parts = [
        found.table.reset_index(),
        found.equivalence.reset_index(drop=True).assign(hypothesis="equivalence"),
        *(table.assign(hypothesis=f"fit of {name}") for name, table in fits.items()),
    ]
    return pd.concat(parts, ignore_index=True)


def permutation_values():
    whole = confirmatory.prepared(dyad_table(), confirmatory.PRIMARY)
    out = {}
    for name, within in (("within formats", confirmatory.FORMATS), ("free", None)):
        found = permutation.qap(whole, "gain", confirmatory.PRIMARY, *TASKS, within, N)
        out[name] = [found.estimate, found.p, *found.null]
    return pd.DataFrame(out)


def measures():
    names = results.similarities(STORED, added=False)["measure"].unique()
    return [name for name in names if name in dyad_table() and name != confirmatory.PRIMARY]


def multiverse_values():
    subsets = multiverse.subsets_of(dyad_table(), dyad_table(language_gains(collapsed=True)))
    found = multiverse.run(subsets, [confirmatory.PRIMARY, *measures()], n=N)
    table = found.table.reset_index(drop=True).join(found.band.reset_index(drop=True))
    joint = found.joint.to_frame().T.assign(scale="joint")
    return pd.concat([table, joint.infer_objects()], ignore_index=True)


def all_measures_values():
    return multiverse.all_measures(gains.exclude(dyad_table()), measures(), n=N).reset_index()


def prediction_values():
    parts, names = [], ["observed", "predicted", "baseline", "se", "df", "low", "high"]
    model = "gain", [confirmatory.PRIMARY], confirmatory.RANDOM
    for unit in ("intermediate", "target", "block"):
        found = prediction.leave_out(confirmatory.analysed(dyad_table()), *model, unit)
        parts.append(found.table[[*TASKS, *names]].assign(unit=unit))
        parts.append(found.scores.to_frame().T.infer_objects().assign(unit=f"{unit}: scores"))
    return pd.concat(parts, ignore_index=True)


def interaction_values():
    rows = language_gains()
    cells = rows[(rows["language"] != "en") & (rows["condition"] == "single")]
    cells = cells.groupby([*TASKS, "language"], as_index=False)[["gain", "syntactic"]].mean()
    own = confirmatory.analysed(dyad_table())[[*TASKS, "block", confirmatory.PRIMARY]]
    cells = cells.merge(own, on=TASKS)
    return confirmatory.distance_slopes(cells, "gain", "syntactic")


def calibration_values():
    folder, studies = results.FOLDER.parent / "calibration", ("dyads", "languages")
    rates = {name: calibration.summary(calibration.load(folder, name)) for name in studies}
    parts = [table.assign(study=name) for name, table in rates.items()]
    return pd.concat(parts, ignore_index=True)


# Similarity on fixed arrays, one for every need a measure can have.
def arrays():
    def draw(name, *shape):
        return np.random.default_rng(zlib.crc32(name.encode())).normal(size=shape)

    def labels(name, count):
        return np.random.default_rng(zlib.crc32(name.encode())).permutation(np.arange(240) % count)

    out = {}
    for side, count in (("intermediate", 3), ("target", 4)):
        kinds = labels(f"{side}.labels", count)
        pieces = np.abs(draw(f"{side}.pieces", 4000) * 40).astype(np.int64)
        out |= {
            f"{side}.facts": tasks.get({"intermediate": "mnli", "target": "xnli"}[side]),
            f"{side}.segments": count,
            f"{side}.labels": kinds,
            f"{side}.pieces": pieces,
            f"{side}.counts": np.bincount(pieces, minlength=200),
            f"{side}.embeddings": draw(f"{side}.embeddings", 300, 16) + 0.3,
            f"{side}.sentences": draw(f"{side}.sentences", 300, 16) + 0.3,
            f"{side}.features": draw(f"{side}.features", 240, 12) + np.eye(12)[kinds],
            f"{side}.knn_probe": 0.25,
            f"{side}.linear_probe": 0.5,
            f"{side}.label_names": draw(f"{side}.label_names", count, 16),
            f"{side}.fisher": {part: draw(side + part, 60) ** 2 for part in "ab"},
            f"{side}.probe_fisher": draw(f"{side}.probe_fisher", 60) ** 2,
            f"{side}.gradient": draw(f"{side}.gradient", 60) / 8,
            f"{side}.weights": {part: draw("plain" + part, 60) + draw(side + part, 60) for part in "ab"},
        }  # fmt: skip
    kinds = out["target.labels"]
    exponents = np.exp(draw("tuned.probabilities", 240, 3) + np.eye(4)[kinds][:, :3])
    common = {name: draw(f"common.{name}", 200, 12) for name in TASKS}
    common["target"] = common["target"] + common["intermediate"] @ draw("common.mix", 12, 12)
    english, foreign = draw("english", 80, 12), draw("foreign", 80, 12)
    out |= {
        "tuned.features": draw("tuned.features", 240, 12) + 1.5 * np.eye(12)[kinds],
        "tuned.probabilities": exponents / exponents.sum(axis=1, keepdims=True),
        "tuned.own": draw("tuned.own", 240, 12),
        "tuned.map": draw("tuned.map", 13, 12),
        "tuned.losses": draw("tuned.losses", 50) ** 2,
        "plain.losses": draw("plain.losses", 50) ** 2,
        "plain.weights": {part: draw("plain" + part, 60) for part in "ab"},
        "common.intermediate": common["intermediate"],
        "common.target": common["target"],
        "common.intermediate_axes": common["intermediate"],
        "common.target_axes": common["target"],
        "study.centre": draw("study.centre", 16),
        "study.whitening": np.eye(16) + 0.1 * draw("study.whitening", 16, 16),
        "study.sentence_centre": draw("study.sentence_centre", 16),
        "study.texts_with": np.arange(200) % 90 + 1,
        "study.texts": 600,
        "early.score": 0.625,
        "parallel.tuned": (english, english + 0.8 * foreign),
        "parallel.plain": (english, english + 0.4 * foreign),
        "parallel.tuned_losses": draw("parallel.tuned_losses", 50) ** 2,
        "parallel.plain_losses": draw("parallel.plain_losses", 50) ** 2,
    }
    return out


def measure_values():
    given, rows = arrays(), []
    built_in = [name for name in catalogue.names() if name not in catalogue.added()]
    for measure in map(catalogue.get, built_in):
        rows.append([measure.name, measure.function(*(given[need] for need in measure.needs))])
    x, y, p = given["tuned.features"], given["target.labels"], given["tuned.probabilities"]
    direct = {"leep": features.leep(p, y), "nce": features.nce(p.argmax(axis=1), y)}
    for name in ("nleep", "logme", "h_score"):
        direct[name] = getattr(features, name)(x, y)
    direct["h_score without shrinkage"] = features.h_score(x, y, shrinkage=False)
    for name in ("transrate", "gbc", "knn_probe", "linear_probe"):
        direct[name] = getattr(features, name)(x, y)
    rows += [[f"features: {name}", float(value)] for name, value in direct.items()]
    return pd.DataFrame(rows, columns=["measure", "value"])


# Plans, rows, runs.
def runs_of(profile, folder, **options):
    table = study.plan(profile, store=Store(folder), **options).runs
    names = ["stage", "condition", "intermediate", "target", "seed", "run"]
    return table[names].astype(str).assign(profile=profile)


def run_ids(folder):
    conditions = ["none", "single", "multitask", "mlm", "more_target", "shuffled"]
    planned = [runs_of(name, folder, conditions=conditions) for name in ("tiny", LIVE)]
    return pd.concat(planned, ignore_index=True)


def hub_run_ids(folder):
    """Runs of the larger profiles, from a mirror; the paper's with the encoder and tasks at hand."""
    intermediates = ["mnli", "qqp", "squad1", "hellaswag"]
    paper = {"encoder": "tiny", "intermediates": intermediates, "seeds": 2}
    paper["targets"] = ["xnli", "pawsx", "udpos", "xquad", "tydiqa", "tatoeba"]
    planned = {STORED: {}, "pilot": {}, "paper": paper}.items()
    tables = [runs_of(name, folder, languages="available", **more) for name, more in planned]
    return pd.concat(tables, ignore_index=True)


def row_prints():
    chosen, found = profiles.get(LIVE), []
    for name in [*chosen.intermediates, *chosen.targets]:
        task = tasks.get(name)
        for split in ("train", "dev", "test"):
            for language in task.languages:
                if task.source.serving(language, split):
                    rows = data.rows(task, language, split)
                    found.append([name, language, split, len(rows), rows.fingerprint])
    return pd.DataFrame(found, columns=["task", "language", "split", "rows", "fingerprint"])


def tiny_scores(folder):
    store, tiny = Store(folder), profiles.get("tiny")
    stages = {name: replace(getattr(tiny, name), precision="fp32") for name in TASKS}
    plan = study.plan(replace(tiny, **stages), store=store)
    scores = study.run(plan, store=store, progress=False)
    names = [*TASKS, "condition", "language", "split", "metric", "seed", "n", "status", "value"]
    return scores[names]


# A submission.

WORDS = ["the", "red", "dog", "ran", "京", "las"]
TAGS = "ADJ ADP ADV AUX CCONJ DET NOUN PUNCT SCONJ VERB".split()


def drawn(task, language, chance):
    if task.kind in ("labels", "choices"):
        kinds = {"xnli": ["neutral", "entailment", "contradiction"], "pawsx": ["0", "1"]}
        labels = kinds.get(task.name, [0, 1])
        return [chance.choice(labels) for _ in range(7)], [chance.choice(labels) for _ in range(7)]
    if task.kind == "tags":
        gold = [[chance.choice(TAGS) for _ in range(chance.randint(1, 6))] for _ in range(4)]
        return gold, [[chance.choice([tag, chance.choice(TAGS)]) for tag in row] for row in gold]
    if task.kind == "pairs":
        pairs = [(f"{language}-{i}", f"en-{i}") for i in range(8)]
        return pairs[:5], chance.sample(pairs, 4)
    if task.kind == "answers":
        answers = {f"q{i}": [" ".join(chance.sample(WORDS, 2)) for _ in "ab"] for i in range(5)}
        return answers, {name: " ".join(chance.sample(WORDS, 2)) for name in answers}
    right = {f"q{i}": [f"Q{chance.randint(0, 9)}"] for i in range(5)}
    return right, {name: [f"Q{i}" for i in chance.sample(range(10), 10)] for name in right}


def submission_values(folder):
    out = []
    for name, benchmark in BENCHMARKS.items():
        chance, gold, given = random.Random(0), {}, {}
        for task in benchmark.tasks.values():
            both = {code: drawn(task, code, chance) for code in sorted(task.languages)}
            gold[task.name] = {language: pair[0] for language, pair in both.items()}
            given[task.name] = {language: pair[1] for language, pair in both.items()}
        labels = write_labels(gold, folder / name / "labels", name)
        predictions = write_submission(given, folder / name / "predictions", name)
        for path in sorted((folder / name).rglob("*.*")):
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            out.append({"what": path.relative_to(folder).as_posix(), "sha256": digest})
        scores = score_submission(predictions, labels, name)
        for row in scores[scores["level"] != "language"].itertuples():
            said = f"{name} {row.level} {row.task} {row.language} {row.metric}"
            out.append({"what": said, "value": row.value})
    return pd.DataFrame(out)


TABLES = {
    "gains": gain_values,
    "dyads": dyad_values,
    "confirmatory": confirmatory_values,
    "permutation": permutation_values,
    "multiverse": multiverse_values,
    "all_measures": all_measures_values,
    "prediction": prediction_values,
    "interaction": interaction_values,
    "calibration": calibration_values,
    "measures": measure_values,
    "rows": row_prints,
    "runs": run_ids,
    "hub_runs": hub_run_ids,
    "tiny_scores": tiny_scores,
    "submission": submission_values,
}
HUB = ("hub_runs",)  # these need a mirror of the hub


def text(name, folder):
    """Compute a table; floats are written so that they read back to the last digit."""
    ask = TABLES[name]
    given = [folder] if inspect.signature(ask).parameters else []
    return ask(*given).to_csv(index=False)


def file(name):
    return FOLDER / f"{name}.csv"
