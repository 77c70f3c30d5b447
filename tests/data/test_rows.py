import contextlib
import hashlib
import json
import shutil
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers import data, results, tasks
from helpers.data import sources
from helpers.data.standard import find
from helpers.errors import BadRows, HelpfulError, MissingData, UnknownName
from helpers.tasks import Source, Task


def made(rows, **facts):
    source = Source(kind="rows", id="made", splits={"train": "train"}, read=lambda *_: rows)
    defaults = {"format": "pair", "labels": ("no", "yes"), "source": source}
    return Task(name="made", role="intermediate", **(defaults | facts))


PAIRS = [{"id": str(i), "first": f"a{i}", "second": "b", "label": i % 2} for i in range(100)]


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (("mnlii",), "'mnlii'. Did you mean 'mnli'"),
        (("xnli", "deu", "test"), "language of task 'xnli' 'deu'. Did you mean 'de'"),
        (("xnli", "de", "train"), "Valid: dev, test.*English rows of task 'mnli'"),
    ],
)
def test_unknown_names_list_the_nearest(asked, message):
    with pytest.raises(UnknownName, match=message):
        data.rows(*asked)


def test_an_adapter_may_drop_a_row_and_give_a_reason():
    def adapt(row, language):
        number = int(row["id"])
        return None if not number else row | {"_dropped": "odd"} if number % 2 else row

    rows = data.rows(made(PAIRS, adapt=adapt, labels=("no",)))
    assert rows.dropped == {"left out by the task's adapt": 1, "odd": 50}
    assert len(rows) == 49


def test_names_decide_label_ids_whatever_their_order_and_unknown_ones_are_refused(mirror):
    mnli = tasks.get("mnli")
    turned = replace(mnli, labels=("contradiction", "entailment", "neutral"))
    named = lambda task: {row["id"]: task.labels[row["label"]] for row in data.rows(task)}  # noqa: E731
    assert named(mnli) == named(turned)
    with pytest.raises(BadRows, match="label 'entailment' in column 'label'; expected one of yes"):
        data.rows(replace(mnli, labels=("yes", "maybe", "no")))


@given(st.integers(1, 120), st.integers(1, 120), st.integers(0, 5))
def test_a_smaller_limit_draws_a_subset_in_source_order(one, other, seed):
    task = made(PAIRS)
    few, many = sorted((one, other))
    small = [row["id"] for row in data.rows(task, limit=few, seed=seed)]
    large = [row["id"] for row in data.rows(task, limit=many, seed=seed)]
    assert set(small) <= set(large) and len(small) == min(few, 100)
    assert small == sorted(small, key=int)
    with pytest.raises(BadRows, match="limit 0"):
        data.rows(task, limit=0)


def test_limits_and_fingerprints_depend_on_the_seed_and_on_nothing_else():
    task = made(PAIRS)
    first = data.rows(task, limit=10, seed=1)
    assert first.fingerprint == data.rows(task, limit=10, seed=1).fingerprint
    assert first.fingerprint != data.rows(task, limit=10, seed=2).fingerprint
    # Frozen: a change of this list means that samples of stored runs cannot be drawn again.
    numbers = [int(row["id"]) for row in first]
    assert numbers == [17, 33, 36, 65, 69, 80, 81, 82, 84, 93]
    lines = "".join(json.dumps(row, sort_keys=True, ensure_ascii=False) + "\n" for row in PAIRS)
    assert data.rows(task).fingerprint == hashlib.sha256(lines.encode()).hexdigest()


@pytest.mark.parametrize(
    "name", ["anli_plus", "squad2", "hellaswag", "xpos-ewt", "tydiqa", "pawsx"]
)
def test_memory_mapped_rows_equal_rows_in_memory(name, mirror, monkeypatch):
    listed = data.rows(name, "en", "train")
    monkeypatch.setattr(data, "IN_MEMORY", 0)
    mapped = data.rows(name, "en", "train")
    assert list(mapped) == list(listed)
    assert [mapped[i] for i in range(len(mapped))] == list(listed)
    for fact in ("dropped", "notes", "fingerprint"):
        assert getattr(mapped, fact) == getattr(listed, fact)
    assert mapped._data.cache_files, "large sets lie in files, not in memory"


def test_a_limit_on_retrieval_keeps_every_candidate(mirror, monkeypatch):
    rows = data.rows("mewslix", "en", "train", limit=2)
    assert (len(rows.side("query")), len(rows.side("candidate"))) == (2, 4)
    listed = data.rows("mewslix", "de", "test")
    monkeypatch.setattr(data, "IN_MEMORY", 0)
    mapped = data.rows("mewslix", "de", "test", limit=1)
    assert list(mapped.side("candidate")) == list(listed.side("candidate"))
    assert list(mapped.side("query").side("query")) == list(listed.side("query"))


def test_changed_facts_are_not_answered_from_the_cache(mirror, monkeypatch):
    monkeypatch.setattr(data, "IN_MEMORY", 0)
    task = tasks.get("qqp")
    swapped = replace(task, columns={"first": "question2", "second": "question1"})
    assert data.rows(swapped)[0]["first"] == data.rows(task)[0]["second"]
    for word in ("LOUD", "quiet"):
        other = replace(task, adapt=lambda row, language, word=word: row | {"question1": word})
        assert data.rows(other)[0]["first"] == word


WAYS = r"\(1\).*\(2\).*hf download nyu-mll/glue.*bcdcba79d.*\(3\).*demo"


@pytest.mark.parametrize(
    ("root", "asked", "says"),
    [
        ("empty", "mnli", WAYS),
        ("mirror0", "xnli tr test", "no configuration 'tr'"),
        ("mirror0", "panx zh dev", "configuration 'PAN-X.zh', split 'validation'"),
        ("no such folder", "mnli", "is not a folder"),
    ],
)
def test_what_a_mirror_lacks_is_named(root, asked, says, mirror, monkeypatch):
    (mirror.parent / "empty").mkdir(exist_ok=True)
    monkeypatch.setenv(sources.ROOT_VARIABLE, str(mirror.parent / root))
    with pytest.raises(MissingData, match=says):
        data.rows(*asked.split())


def test_a_folder_named_like_the_id_is_never_read_in_place_of_the_hub(tmp_path, monkeypatch):
    (tmp_path / "nyu-mll/glue").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(sources.ROOT_VARIABLE, raising=False)
    with pytest.raises(MissingData, match="would be read in place of the hub's nyu-mll/glue"):
        data.rows("mnli")


def test_a_damaged_file_is_never_answered_from_the_cache(mirror, tmp_path, monkeypatch):
    """`datasets` itself gives the old rows here: its cache goes by names alone."""
    before = data.rows("qqp").fingerprint
    shutil.copytree(mirror / "nyu-mll", tmp_path / "nyu-mll")
    folder = tmp_path / "nyu-mll/glue/qqp"
    train = next(folder.glob("train-*"))
    shutil.copy(next(folder.glob("validation-*")), train)
    monkeypatch.setenv(sources.ROOT_VARIABLE, str(tmp_path))
    assert data.rows("qqp").fingerprint != before and len(data.rows("qqp")) == 4
    for damage in (b"", b"PAR1 not parquet"):
        train.write_bytes(damage)
        with pytest.raises(BadRows, match="a file is damaged"):
            data.rows("qqp")


def test_divided_splits_share_no_content():
    rows = [{"a": i // 3, "b": i % 50 if i % 2 else 1000 + i} for i in range(300)]
    facts = {"splits": {"train": "v", "dev": "v"}, "divide": ("a", "b")}
    source = Source("rows", "x", read=lambda *_: rows, **facts)
    train, dev = (sources.load(source, "en", split).rows for split in ("train", "dev"))
    assert len(train) + len(dev) == len(rows)
    for column in ("a", "b"):
        assert not {row[column] for row in train} & {row[column] for row in dev}


def test_rows_at_hand_are_those_that_load_and_first_rows_are_the_first(mirror):
    for task in map(tasks.get, ("xnli", "panx", "lareqa", "xcopa")):
        loads = []
        for place in ((code, split) for code in task.languages for split in data.SPLITS):
            with contextlib.suppress(HelpfulError):
                data.rows(task, *place)
                loads.append(place)
        assert data.at_hand(task) == loads
    for asked in (("xnli", "de", "test"), ("tydiqa", "ko", "test")):
        assert list(data.first_rows(*asked)) == list(data.rows(*asked))[:3]
    found = results.examples(tasks.get("xnli"), ("en", "de", "sw"))
    assert list(found) == ["en", "de", "sw"] and found["de"]["first"] == "Er ging."
    assert results.examples(tasks.get("tatoeba"), ("de",))["de"]["text"] == "Hallo."


CONTEXTS = st.text(alphabet="ab ", min_size=1, max_size=30)


@given(CONTEXTS, st.integers(0, 29), st.integers(1, 4), st.integers(-5, 5))
def test_answers_are_found_at_the_place_nearest_to_the_stated_one(context, begin, length, shift):
    text = context[begin : begin + length]
    if not text.strip():
        assert find(context, text, begin)[0] is None
        return
    place, _ = find(context, text, begin + shift)
    assert place is not None and context.startswith(text, place)
    places = [i for i in range(len(context)) if context.startswith(text, i)]
    assert abs(place - begin - shift) == min(abs(i - begin - shift) for i in places)
