"""Make data/results/<profile>.parquet, arm by arm, over as many sittings as it takes.

    python -m data.make.scores pilot      # hours; stop it at any time, a second call goes on

Beside the table it keeps the records of all finished runs in <profile>-records.zip. Committed with it,
they let another machine go on where this one was stopped; it trains the intermediate stages again, whose
encoders are not committed. Only a clean commit makes stored scores.
"""

import argparse
import io
import zipfile
import zlib
from pathlib import Path

from helpers import results, study
from helpers.errors import BadRecord
from helpers.files import write_atomic
from helpers.study.profiles import PROFILES
from helpers.study.store import Store, record_of, stand_ins

MOMENT = (1980, 1, 1, 0, 0, 0)  # the same records are the same file


def restore(archive: Path, store: Store) -> set[str]:
    """Write the records of an archive that a store lacks or cannot use; return all runs of the archive."""
    try:
        with zipfile.ZipFile(archive) as packed:
            found = {Path(name).stem: packed.read(name) for name in packed.namelist()}
    except FileNotFoundError:
        return set()
    except (zipfile.BadZipFile, zlib.error) as error:
        raise BadRecord(f"{archive} is damaged ({error}); git checkout {archive}") from error
    for run in found.keys() - store.runs():
        store.write(record_of(found[run], f"{archive}: {run}.json"))
    return set(found)


def keep(plan: study.Plan, store: Store, folder: Path) -> Path:
    """Write table and archive of finished runs, earlier plans' too; the table also tells what failed."""
    archive, content = folder / f"{plan.profile}-records.zip", io.BytesIO()
    earlier, own = restore(archive, store), store.runs() & plan.arm_of.keys()
    own |= set((others := stand_ins(plan, store, own)).values())
    failed = {*store.index()["run"]} & plan.arm_of.keys() - own - others.keys()
    with zipfile.ZipFile(content, "w") as packed:
        for run in sorted(own | earlier):
            entry = zipfile.ZipInfo(f"{run}.json", MOMENT)
            packed.writestr(entry, store.path(run).read_bytes(), zipfile.ZIP_DEFLATED)
    write_atomic(archive, content.getvalue())
    # What an earlier plan asked for with other settings, rows or languages is no second run of this one's.
    asked = {f"{job.condition} {job.name}" for job in map(plan.job, plan.runs["run"])}
    old = {r.run for r in store.records(earlier - own) if f"{r.condition} {r.name}" in asked}
    return store.export(folder / plan.profile, sorted((own | earlier) - old | failed))


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
