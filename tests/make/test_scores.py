import zipfile
from dataclasses import replace

import pandas as pd
import pytest

from data.make import scores
from helpers import study
from helpers.errors import BadRecord
from helpers.models import Outcome
from helpers.stats import gains
from helpers.study.profiles import TINY
from helpers.study.store import Store, missing

ASKED = {"intermediates": ["toy-same"], "targets": ["toy-intents"]}


def test_another_machine_goes_on_from_the_committed_records(tmp_path):
    first, second = Store(tmp_path / "first"), Store(tmp_path / "second")
    some = study.plan("tiny", **ASKED, conditions=("none",), store=first)
    study.run(some, store=first, progress=False)
    whole = study.plan("tiny", **ASKED, store=first)
    table = scores.keep(whole, first, tmp_path)
    archive = tmp_path / "tiny-records.zip"
    assert len(pd.read_parquet(table)["run"].unique()) == len(some)
    for _ in range(2):
        assert scores.restore(archive, second) == second.runs() == set(some.runs["run"])
    left = missing(whole, second, keep=False)
    assert {*left} == {*whole.runs["run"]} - {*some.runs["run"]}
    # what failed is in the table, and is still to be done
    second.write(replace(whole.job(left[-1]), attempts=[Outcome("failed: memory", 0)]))
    told = pd.read_parquet(scores.keep(whole, second, tmp_path)).set_index("run")["status"]
    assert told[left[-1]] == "failed: memory" and missing(whole, second, keep=False) == left
    study.run(whole, store=second, progress=False)
    scores.keep(whole, second, tmp_path)
    content = archive.read_bytes()
    assert len(pd.read_parquet(table)["run"].unique()) == len(whole)
    # what another plan or machine did stays, and equal records are an equal file
    first.path(some.runs["run"][0]).write_bytes(b"damaged")
    with pytest.warns(UserWarning, match="half-written or altered"):
        scores.keep(some, first, tmp_path)
    assert archive.read_bytes() == content


def test_a_table_has_one_run_of_all_that_its_plan_asks_for(tmp_path):
    store, profile = Store(tmp_path), replace(TINY, target=TINY.target.override({"epochs": 1}))
    asked = {**ASKED, "conditions": ("none", "single"), "store": store}
    plans = [study.plan("tiny", **asked, languages=["en", "qaa"]), study.plan("tiny", **asked)]
    for plan in (plans := [*plans, study.plan(profile, **asked)]):
        own = study.run(plan, store=store, progress=False)
        table = pd.read_parquet(scores.keep(plan, store, tmp_path)).query("stage == 'target'")
        assert set(table["run"]) == set(own["run"]) and len(gains.gains(table))
    whole = scores.restore(tmp_path / "tiny-records.zip", store)  # the archive loses none of them
    assert whole == {run for plan in plans for run in plan.runs["run"]}


def test_an_altered_record_is_refused_by_name_and_a_damaged_archive_as_a_whole(tmp_path):
    archive = tmp_path / "x-records.zip"
    with zipfile.ZipFile(archive, "w") as packed:
        packed.writestr("ab12.json", b'{"checksum":"0",\n"summary":{},\n"record":{}}\n')
    with pytest.raises(BadRecord, match=r"x-records.zip: ab12.json fails its checksum"):
        scores.restore(archive, Store(tmp_path))
    archive.write_bytes(archive.read_bytes()[:-9])
    with pytest.raises(BadRecord, match="damaged .*git checkout"):
        scores.restore(archive, Store(tmp_path))
