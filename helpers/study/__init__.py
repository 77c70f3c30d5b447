"""Plan a study, run what is missing, and get one tidy table of scores.

    from helpers import study
    plan = study.plan("demo")
    plan.cost()
    scores = study.run(plan)

or ``python -m helpers.study --profile demo --engine local --mode missing``.
"""

import os
import shutil
import time
from collections.abc import Iterable, Iterator, Sequence

import pandas as pd

from helpers import tasks
from helpers.errors import BadPlan, HelpfulError, known
from helpers.files import commit, write_atomic
from helpers.study import engines, profiles
from helpers.study.plan import AVAILABLE, Maker, Plan, megabytes
from helpers.study.profiles import CONDITIONS, Profile
from helpers.study.store import Store, missing, stand_ins
from helpers.tasks import Task

MODES = ("stored", "missing", "always")


def plan(
    profile: str | Profile,
    intermediates: Iterable[str] | None = None,
    targets: Iterable[str] | None = None,
    conditions: Iterable[str] = ("none", "single"),
    seeds: int | Iterable[int] | None = None,
    encoder: str | None = None,
    languages: Iterable[str] | None = None,
    store: Store | None = None,
) -> Plan:
    """Plan a study; nothing is trained.

    Args:
        profile: ``"tiny"``, ``"demo"``, ``"pilot"`` or ``"paper"``, or a profile of your own.
        intermediates: names of the intermediate tasks; by default those of the profile.
        targets: names of the target tasks; by default those of the profile.
        conditions: how the intermediate stage is done; ``"none"`` is the baseline.
        seeds: how many seeds each cell has, or which; baselines have twice as many. A retrieval
            target of the plain encoder has one run, since nothing in it is random.
        encoder: name of the encoder; by default the profile's.
        languages: evaluate in these languages only; by default in all a target has.
            ``"available"``: in those whose data are at hand; ``plan.facts["absent"]`` has the rest.
        store: where what is known of the data is remembered; by default the project's store.

    Returns:
        The plan: ``plan.runs`` is its table, ``plan.cost()`` what it takes.

    Raises:
        UnknownName: a profile, condition or language that does not exist.
        BadPlan: names all data, tasks and encoders that are missing.
    """
    chosen = profiles.get(profile) if isinstance(profile, str) else profile
    problems: list[str] = []
    first = _tasks(intermediates, chosen.intermediates, "intermediate", problems)
    then = _tasks(targets, chosen.targets, "target", problems)
    _refuse(problems)
    asked = tuple(known("condition", name, CONDITIONS) for name in _names(conditions))
    codes = _names(languages)
    spoken = {code for task in then for code in task.languages}
    for code in codes:
        if code not in spoken and codes != AVAILABLE:
            raise tasks.unknown_language("language", code, spoken)
    number = chosen.seeds if seeds is None else seeds
    listing = tuple(range(number)) if isinstance(number, int) else tuple(number)
    if not listing or len(set(listing)) < len(listing) or min(listing) < 0:
        raise BadPlan(f"seeds must be different numbers from 0 up, at least one; got {listing}.")
    maker = Maker(chosen, encoder or chosen.encoder, codes, store or Store())
    made = maker.plan(first, then, asked, listing)
    _refuse(maker.problems + maker.lacking())
    return made


def run(
    plan: Plan,
    mode: str = "missing",
    engine: str = "local",
    progress: bool = True,
    *,
    store: Store | None = None,
    keep: bool | None = None,
    workers: int = 0,
    extra: Sequence[str] = (),
    dirty: bool = False,
) -> pd.DataFrame:
    """Do what a plan needs and return its scores.

    Args:
        plan: the plan.
        mode: ``"stored"`` does nothing and returns what is there, ``"missing"`` does the rest,
            ``"always"`` does everything again (older records are moved aside, not deleted).
        engine: ``"local"``, ``"processes"``, ``"snakemake"`` or ``"slurm"``.
        progress: whether to show runs done, rate and time left.
        store: where records are; by default the project's store.
        keep: whether checkpoints of intermediate stages stay; by default as the profile says.
        workers: how many arms at a time, where the engine does several; 0: it decides.
        extra: arguments for Snakemake.
        dirty: whether code that no commit holds may make scores that are meant to be committed.

    Returns:
        One row per score with the columns ``helpers.study.store.SCORE_COLUMNS``, collapsed and failed
        runs among them.

    Raises:
        UnknownName: an engine or mode that does not exist.
        BadPlan: something the plan needs is not there; nothing was started.
        StoreFull: the disk is full; what was finished is safe.
    """
    work, store = engines.ENGINES[known("engine", engine, engines.ENGINES)], store or Store()
    if known("mode", mode, MODES) == "stored":
        return stored(plan, store)
    kept = bool(plan.facts["keep"]) if keep is None else keep
    wanted = list(plan.runs["run"]) if mode == "always" else missing(plan, store, kept)
    if wanted:
        _refuse([*engines.problems(engine), *_hindrances(plan, wanted, engine, store, kept, dirty)])
    if mode == "always":
        _set_aside(plan.runs["run"], store)
        while others := stand_ins(plan, store, set()):  # wider runs, which would answer for them
            _set_aside(others.values(), store)
    # A second round redoes records that turn out to be damaged when they are read.
    for _ in range(2):
        if wanted:
            store.sweep()
            plan.save(store.plans)
            shown = engines.Progress(plan, wanted, store, progress)
            arms = list(dict.fromkeys(plan.arm_of[run] for run in wanted))
            try:
                work(plan, arms, store, kept, shown, workers=workers, extra=extra)
            finally:
                shown.bar.close()
        scores = stored(plan, store)
        if not (rejected := store.rejected.keys() & plan.arm_of.keys()):
            break
        _set_aside(rejected, store)  # other processes may see no damage in them
        wanted = missing(plan, store, kept)
    return scores


def stored(plan: Plan, store: Store | None = None) -> pd.DataFrame:
    """Return the scores of a plan that are in the store, or raise HelpfulError if there are none."""
    store = store or Store()
    others = stand_ins(plan, store, store.runs() & plan.arm_of.keys())
    scores = store.scores([others.get(run, run) for run in plan.runs["run"]])
    if languages := plan.facts.get("languages"):
        scores = scores[scores["language"].isin([*languages, ""])].reset_index(drop=True)
    if scores.empty and "target" in set(plan.runs["stage"]):
        said = f"no run of this plan is in {store.folder}. {plan.sentence(store)} Run it: study.run(plan)"
        raise HelpfulError(f"{said}, or python -m helpers.study --profile {plan.profile}")
    return scores


def _refuse(problems: Sequence[str]) -> None:
    """Raise an error that names every problem, if there is any."""
    if problems:
        number = f"{len(problems)} problem{'s'[: len(problems) > 1]}"
        lines = "\n".join(f"  - {problem}" for problem in problems)
        raise BadPlan(f"this plan cannot run: {number}.\n{lines}")


def _names(value: Iterable[str] | None) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else tuple(value or ())


def _tasks(
    given: Iterable[str] | None, default: tuple[str, ...], role: str, problems: list[str]
) -> list[Task]:
    """Return the tasks of some names; a name that is no task of that role is a problem."""
    found: dict[str, Task] = {}
    for name in default if given is None else _names(given):
        try:
            found[name] = tasks.get(name)
        except HelpfulError as error:
            problems.append(str(error))
    wrong = [task for task in found.values() if task.role != role]
    problems += [f"task {task.name!r} has the role {task.role!r}, not {role!r}." for task in wrong]
    return list(found.values())


def _set_aside(runs: Iterable[str], store: Store) -> None:
    """Move the records of some runs out of the way, to do them again."""
    folder = store.folder / "replaced" / f"{time.strftime('%Y%m%dT%H%M%S')}-{time.time_ns()}"
    for run in runs:
        if store.path(run).exists():
            write_atomic(folder / store.path(run).name, store.path(run).read_bytes())
            store.path(run).unlink(missing_ok=True)
        shutil.rmtree(store.progress(run), ignore_errors=True)


def _hindrances(
    plan: Plan, wanted: Sequence[str], engine: str, store: Store, keep: bool, dirty: bool
) -> Iterator[str]:
    """Say what stands in the way of some runs: tasks unknown elsewhere, uncommitted code, the disk."""
    cells = {*plan.runs["intermediate"], *plan.runs["target"]}
    own = {name for cell in cells for name in cell.split("+")} & set(tasks.names()) - tasks.SHIPPED
    for name in sorted(own) if engine != "local" and not os.environ.get("TRANSFER_TASKS") else ():
        if tasks.get(name).group != "tiny":
            said = f"task {name!r} is known to this session only; engine {engine!r} starts others"
            yield f"{said}: use engine='local', or set TRANSFER_TASKS=module_that_registers_it."
    if plan.facts.get("stored") and not dirty and commit().endswith(("+changes", "unknown")):
        said = f"helpers/ is no known commit ({commit()}); scores of {plan.profile!r} are committed"
        yield f"code: {said}: commit first, or ask for it with dirty=True (--dirty)."
    folder = next(each for each in (store.folder / "new").absolute().parents if each.exists())
    # The state of an unfinished run holds the weights, the best so far and two moments of the
    # optimiser; one checkpoint is there even where none is kept.
    state = float(plan.facts.get("trained_parameters", 0)) * 4 * (4 + 1) / 1e6
    need = megabytes(plan, keep)[plan.runs["run"].isin(wanted)].sum() + state
    free, other = shutil.disk_usage(folder).free / 1e6, ", or run it with keep=False (--keep no)"
    if need >= free:
        said = f"what is missing needs about {need:,.0f} MB and {store.folder} has {free:,.0f}"
        yield f"disk: {said}; set TRANSFER_STORE to a folder on a larger disk{other * keep}."
