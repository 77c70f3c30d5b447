import zipfile
from dataclasses import replace

import pandas as pd
import pytest

from data.make import scores
from helpers import study
from helpers.errors import BadRecord
from helpers.models import Outcome
from helpers.study.store import Store, missing


def test_another_machine_goes_on_from_the_committed_records(tmp_path):
    first, second = Store(tmp_path / "first"), Store(tmp_path / "second")
    asked = {"intermediates": ["toy-same"], "targets": ["toy-intents"]}
    some = study.plan("tiny", **asked, conditions=("none",), store=first)
    study.run(some, store=first, progress=False)
    whole = study.plan("tiny", **asked, store=first)
    table = scores.keep(whole, first, tmp_path)
    archive = tmp_path / "tiny-records.zip"
    assert len(pd.read_parquet(table)["run"].unique()) == len(some)
    assert scores.restore(archive, second) == len(some)
    assert scores.restore(archive, second) == 0
    left = missing(whole, second, keep=False)
    assert set(left) == set(whole.runs["run"]) - set(some.runs["run"])
    # a run that failed is in the table, and is still to be done
    first.write(replace(whole.job(left[-1]), attempts=[Outcome("failed: memory", 0)]))
    told = pd.read_parquet(scores.keep(whole, first, tmp_path))
    assert told.loc[told["run"] == left[-1], "status"].tolist() == ["failed: memory"]
    assert scores.restore(archive, second) == 1
    assert missing(whole, second, keep=False) == left
    study.run(whole, store=second, progress=False)
    scores.keep(whole, second, tmp_path)
    content = archive.read_bytes()
    assert len(pd.read_parquet(table)["run"].unique()) == len(whole)
    # what another plan or machine did stays, also where it failed here; equal records, an equal file
    scores.restore(archive, first)
    scores.keep(some, first, tmp_path)
    assert archive.read_bytes() == content


def test_an_altered_record_is_refused_by_name(tmp_path):
    with zipfile.ZipFile(tmp_path / "x-records.zip", "w") as packed:
        packed.writestr("ab12.json", b'{"checksum":"0",\n"summary":{},\n"record":{}}\n')
    with pytest.raises(BadRecord, match=r"x-records.zip: ab12.json fails its checksum"):
        scores.restore(tmp_path / "x-records.zip", Store(tmp_path))
