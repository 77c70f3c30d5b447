"""Make data/results/<profile>.parquet, arm by arm, over as many sittings as it takes.

    python -m data.make.scores pilot      # hours; stop it at any time, a second call goes on

Beside the table it keeps the records of all its runs in <profile>-records.zip. Committed with it,
they let another machine go on where this one was stopped. Only a clean commit makes stored scores.
"""

import argparse
import io
import zipfile
from pathlib import Path

from helpers import results, study
from helpers.files import write_atomic
from helpers.study.profiles import PROFILES
from helpers.study.store import Store, record_of

MOMENT = (1980, 1, 1, 0, 0, 0)  # the same records are the same file


def restore(archive: Path, store: Store) -> int:
    """Write the records of an archive that a store lacks, or has of a run that failed; return how many."""
    if not archive.exists():
        return 0
    with zipfile.ZipFile(archive) as packed:
        new = sorted({Path(name).stem for name in packed.namelist()} - store.runs())
        for name in (f"{run}.json" for run in new):
            store.write(record_of(packed.read(name), f"{archive}: {name}"))
    return len(new)


def keep(plan: study.Plan, store: Store, folder: Path) -> Path:
    """Write table and archive of the runs done or failed, of this plan and earlier ones; return the table."""
    archive, runs = folder / f"{plan.profile}-records.zip", set(plan.runs["run"])
    if archive.exists():
        with zipfile.ZipFile(archive) as packed:
            runs |= {Path(name).stem for name in packed.namelist()}
    runs &= {*store.index()["run"]}
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as packed:
        for run in sorted(runs):
            entry = zipfile.ZipInfo(f"{run}.json", MOMENT)
            packed.writestr(entry, store.path(run).read_bytes(), zipfile.ZIP_DEFLATED)
    write_atomic(archive, content.getvalue())
    return store.export(folder / plan.profile, sorted(runs))


if __name__ == "__main__":
    parser = argparse.ArgumentParser("python -m data.make.scores", description=__doc__)
    parser.add_argument("profile", choices=list(PROFILES))
    parser.add_argument("--conditions", nargs="+", default=["none", "single"])
    parser.add_argument("--targets", nargs="+")
    asked, store = parser.parse_args(), Store()
    restore(results.FOLDER / f"{asked.profile}-records.zip", store)
    plan = study.plan(asked.profile, None, asked.targets, asked.conditions, languages=["available"])
    print(plan.sentence(), plan.facts["absent"], sep="\n", flush=True)
    try:
        study.run(plan, engine="processes")
    finally:
        print(keep(plan, store, results.FOLDER))
