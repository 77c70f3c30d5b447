import pandas as pd
import pytest

from data.make import layers
from helpers import study
from helpers.study.store import Store


def test_every_layer_before_and_after_each_intermediate_task(tmp_path):
    store = Store(tmp_path)
    plan = study.plan("tiny", ["toy-same"], ["toy-messages"], store=store)
    scores = study.run(plan, store=store, keep=True, progress=False).set_index("condition")
    empty = pd.DataFrame(columns=layers.KEY)
    languages = ["qaa", "de"]  # a language that the target has, and one that it has not
    found = layers.layers(plan, store, ["toy-messages"], languages, empty)
    depths = found.groupby("intermediate")["layer"].agg(list).to_dict()
    assert depths == {"": [1, 2], "toy-same": [1, 2]}
    assert set(found["language"]) == {"qaa"}
    # what the study itself scored, from the layer that it reads
    read = plan.job(scores["run"].iloc[0]).spec["data"]["layer"] or 2
    for condition, intermediate in (("none", ""), ("single", "toy-same")):
        score = scores.loc[[condition]].query("language == 'qaa'")["value"].iloc[0]
        row = found[(found["intermediate"] == intermediate) & (found["layer"] == read)].iloc[0]
        if row["split"] == "test":
            assert row["value"] == pytest.approx(score)
    again = layers.layers(plan, store, ["toy-messages"], languages, found)
    pd.testing.assert_frame_equal(again, found)
    store.drop_checkpoint(plan.runs.query("stage == 'intermediate'")["run"].iloc[0])
    assert set(layers.encoders(plan, store)) == {("", 0)}
