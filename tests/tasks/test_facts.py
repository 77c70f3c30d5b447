from dataclasses import replace

import pandas as pd
import pytest

from helpers import metrics, results, tasks
from helpers.errors import HelpfulError
from helpers.tasks import FORMATS, METRICS, Source, Task, relation, xtreme

ALL = [name for name in tasks.names() if name in tasks.SHIPPED and tasks.get(name).group != "tiny"]


@pytest.mark.parametrize("name", ALL)
def test_every_task_is_usable_trained_in_english_and_evaluated_everywhere(name):
    task = tasks.get(name)
    metrics.get(task.metric)
    assert task.about.question.endswith("?") and task.about.genre
    assert 0 <= task.chance < 1 and 16 <= task.max_length <= 512
    assert len(set(task.languages)) == len(task.languages)
    assert len(set(task.labels)) == len(task.labels)
    assert task.format != "pair" or task.chance == pytest.approx(1 / len(task.labels))
    for leaf in task.source.flat():
        assert leaf.licence, f"{name}: {leaf.id} states no licence"
        assert set(leaf.splits) <= {"train", "dev", "test"}
        pinned = leaf.revision or leaf.id in ("unimelb-nlp/wikiann", "extra/ud-english-ewt")
        assert leaf.kind not in ("hub", "files") or pinned, f"{name}: {leaf.id} is not pinned"
        assert all(count > 0 for count in leaf.counts.values())
    task = tasks.get(name)
    trainer = tasks.get(task.train_with) if task.train_with else task
    if task.role == "intermediate" or task.format != "retrieval":
        assert trainer.source.serving("en", "train") and trainer.source.serving("en", "dev")
        assert trainer.labels == task.labels and trainer.format == task.format
    for language in task.languages:
        if task.role == "intermediate":
            assert language == "en"
        else:
            assert task.source.serving(language, "test"), language
            assert language == "en" or not task.source.serving(language, "train")


def test_the_benchmarks_are_those_that_were_published_with_all_of_their_languages():
    published = results.DATA / "published" / "xtreme_task_languages.csv"
    for benchmark, listed in pd.read_csv(published).groupby("benchmark"):
        own = tasks.names(group=benchmark)
        found = {name.removesuffix("-xr"): sorted(tasks.get(name).languages) for name in own}
        right = zip(listed["task"], listed["languages"], strict=True)
        assert found == {name: sorted(codes.split()) for name, codes in right}
    paper = "anli_plus mnli qqp squad1 squad2 hellaswag ccg cosmosqa commonsenseqa".split()
    assert tasks.names(group="paper") == paper


def test_configurations_follow_the_hubs_names_and_languages_of_panx_have_published_sizes():
    counts = tasks.get("panx").source.counts
    assert counts["en/train"] == 20000 and counts["sw/test"] == 1000 and counts["yo/dev"] == 100
    both = {key.split("/")[0] for leaf in xtreme.PANX_XR.source.flat() for key in leaf.counts}
    assert both == set(xtreme.PANX_XR.languages)
    assert tasks.get("tatoeba").source.config_for("zh") == "tatoeba.cmn"
    assert tasks.get("tatoeba-xr").source.config_for("sw") == "swh-eng"
    assert tasks.get("mlqa").source.config_for("de") == "MLQA.de.de"
    assert tasks.get("panx").source.serving("de", "dev")[0].config_for("de") == "PAN-X.de"


@pytest.mark.parametrize(
    ("pairs", "identity", "source"),
    [
        ("mnli>xnli anli_plus>xnli mnli-translated>xnli squad1>xquad squad2>mlqa", True, True),
        ("squad1>lareqa copa>xcopa", True, True),
        ("qqp>pawsx xpos-ewt>udpos", False, True),
        ("qqp>xnli squad1>tydiqa hellaswag>xcopa", False, False),
    ],
)
def test_identity_pairs_and_shared_sources(pairs, identity, source):
    for both in (pair.split(">") for pair in pairs.split()):
        found, formats = relation(*both), [tasks.get(name).format for name in both]
        assert (found["identity_pair"], found["same_source"]) == (identity, source), both
        assert found["same_format"] == (formats[0] == formats[1])


def test_a_twin_keeps_what_its_task_holds_and_formats_have_a_default_metric():
    twin = tasks.get("mnli-translated")
    assert twin.holds == ("mnli",) and twin.role == "intermediate"
    assert [part.language for part in twin.source.serving("en", "train")] == ["de", "ru", "sw"]
    found = [Task("own", "target", f, Source("rows", "x")).metric for f in FORMATS]
    assert found == ["accuracy", "accuracy", "token_accuracy", "squad", "accuracy"]
    assert all(metrics.get(name) for names in METRICS.values() for name in names)


BRACES = "KeyError('lang'); source kind 'tables' knows {language} and {split}"
SPLITS = "KeyError('split'); source kind 'hub' knows"
FITTING = [
    ({"metric": "accuracy", "format": "tagging"}, "cannot score tagging; take token_accuracy"),
    ({"metric": "map@20"}, "metric 'map@20' cannot score pair"),
    ({"columns": {"text": "premise"}}, "columns name 'text', but pair rows have id, first"),
    ({"labels": ("a", "a")}, "labels ('a', 'a'): expected a tuple of different names"),
    ({"languages": "en"}, "languages 'en': expected a tuple"),
    ({"languages": ()}, "it has no languages"),
    ({"chance": 25.0}, "chance 25.0"),
    ({"name": "a+b"}, "its name is empty or holds"),
    ({"source": Source("rows", "x")}, "needs read=function(language, split)"),
    ({"source": Source("tables", "x")}, "needs config='file-{language}-{split}.csv'"),
    ({"metric": "acuracy"}, "unknown metric 'acuracy'. Did you mean 'accuracy'"),
    ({"source": Source("tables", "x", config="{lang}-{split}.csv")}, BRACES),
    ({"source": Source("tables", "x", config="a{b/x.csv")}, "a brace that is text is written"),
    ({"source": Source("hub", "x", configs={"en": "{split}"})}, SPLITS),
    ({"source": Source("hub", "x", config="{}")}, "'{}' cannot be filled in: IndexError"),
    ({"train_with": "squad1"}, "whose format is span, not pair"),
    ({"train_with": "mnli"}, "whose labels are ('entailment', 'neutral', 'contradiction')"),
]
NAMED = [
    ({"role": "targets"}, "role 'targets'. Did you mean 'target'"),
    ({"source": Source("table", "x")}, "kind of source 'table'. Did you mean 'tables'"),
    ({"format": "pear"}, "format 'pear'. Did you mean 'pair'"),
    ({"name": "rte-val"}, "task 'rte-val' exists; pass replace=True"),
]


@pytest.mark.parametrize(("facts", "message"), [*FITTING, *NAMED])
def test_facts_that_do_not_fit_together_and_names_that_are_unknown_are_refused(facts, message):
    task = Task("own", "target", "pair", Source("rows", "x", read=lambda *_: []))
    with pytest.raises(HelpfulError) as caught:
        tasks.register(replace(task, **facts))
    assert message in str(caught.value)
    assert "was not registered" in str(caught.value) or (facts, message) in NAMED
    assert "own" not in tasks.names() and "a+b" not in tasks.names()
