import pandas as pd

from helpers import plots, tasks


def test_every_task_and_format_has_a_name_and_a_target_a_look_of_its_own():
    table, known = plots.display(), tasks.names()
    untold = {name.removesuffix("-translated") for name in known} - set(table.index)
    assert not {name for name in untold if tasks.get(name).group != "tiny"}
    targets = [name for name in known if tasks.get(name).role == "target" and name in table.index]
    assert table.loc[targets, "colour"].all()
    # Two targets look alike only where they are one data set, or stand in different profiles.
    for _, alike in table.loc[targets].groupby(["colour", "marker"]):
        alone = {name.split("-")[0] for name in alike.index} - {"intents", "slots", "messages"}
        assert len(alone) <= 1
    assert plots.named("it") == "Italian (it)" and plots.named("xnli") == "XNLI"
    assert plots.named("nobody's") == "nobody's"


def test_a_task_keeps_its_colour_in_whatever_company():
    names = ["Tatoeba", "mine", "XNLI", "NER (PAN-X)"]
    many = plots.style(pd.DataFrame({"target": names}), "target")
    one = plots.style(pd.DataFrame({"target": names[:1]}), "target")
    assert many["palette"]["Tatoeba"] == one["palette"]["Tatoeba"]
    assert many["hue_order"] == ["XNLI", "NER (PAN-X)", "Tatoeba", "mine"]
    more = pd.DataFrame({"g": [f"g{i}" for i in range(12)]})
    assert len(plots.style(more, "g")["palette"]) == 12  # more groups than colours do not fail
