"""One test per published trap: the generated mirror carries it, the rows must not."""

from __future__ import annotations

from pathlib import Path

import pytest

from helpers import data, tasks
from helpers.errors import BadRows

pytestmark = pytest.mark.usefixtures("mirror")


def test_snli_rows_without_agreement_are_dropped_and_counted() -> None:
    rows = data.rows("anli_plus", "en", "train")
    assert rows.dropped == {"label -1": 2}
    assert len(rows) == 3 + 60 + 9
    assert rows[0] == {"id": "en-train-0-0", "first": "a", "second": "b", "label": 0}


def test_anli_plus_reads_snli_mnli_and_every_anli_round() -> None:
    rows = data.rows("anli_plus", "en", "train")
    assert [row["first"] for row in rows[-9::3]] == ["train_r1", "train_r2", "train_r3"]
    assert len({row["id"] for row in rows}) == len(rows)
    assert rows.source.count("mirror ") == 3


def test_russian_xnli_labels_follow_the_text_of_the_row() -> None:
    by_text = {row["second"]: row["label"] for row in data.rows("xnli", "ru", "test")}
    assert by_text == {"Он остался.": 2, "Его нет.": 0, "Дождь.": 1}
    german = [row["label"] for row in data.rows("xnli", "de", "test")]
    assert german == [0, 2, 1]


def test_pawsx_placeholders_are_kept_and_counted() -> None:
    rows = data.rows("pawsx", "de", "test")
    assert len(rows) == 3
    assert rows.notes == {"sentence without translation ('NS' or empty) kept": 2}


def test_pawsx_labels_are_each_languages_own() -> None:
    english = [(row["id"], row["label"]) for row in data.rows("pawsx", "en", "test")]
    german = [(row["id"], row["label"]) for row in data.rows("pawsx", "de", "test")]
    assert english[1] == ("9", 1) and german[1] == ("9", 0)


def test_pawsx_is_not_read_from_the_copy_that_lost_quoted_rows(mirror: Path) -> None:
    rows = data.rows("pawsx", "es", "test")
    assert len(rows) == 3
    assert rows[2]["first"] == 'He said "no".'
    assert rows.source == f"mirror {mirror}/google-research-datasets/paws-x"


def test_squad2_questions_without_answer_stay_and_squad1_has_none() -> None:
    squad2 = data.rows("squad2", "en", "train")
    assert squad2[-1]["answers"] == {"text": [], "start": []}
    assert not squad2.dropped
    assert all(row["answers"]["text"] for row in data.rows("squad1", "en", "train"))


def test_squad_development_questions_keep_all_their_answers() -> None:
    answers = data.rows("squad1", "en", "dev")[0]["answers"]
    assert answers == {"text": ["town hall", "old town hall", "hall"], "start": [8, 4, 13]}


def test_hellaswag_moves_ctx_b_into_the_endings() -> None:
    activity, wikihow = data.rows("hellaswag", "en", "train")
    assert activity["context"] == "A man holds a pan."
    assert activity["choices"][1] == "he cooks."
    assert activity["label"] == 1
    assert wikihow["choices"][3] == "melts."


def test_siqa_labels_with_line_breaks_count_from_one() -> None:
    assert data.rows("siqa", "en", "train")[0]["label"] == 0
    assert data.rows("siqa", "en", "dev")[0]["label"] == 2


def test_commonsenseqa_answer_key_is_a_letter() -> None:
    row = data.rows("commonsenseqa", "en", "train")[0]
    assert row["choices"][row["label"]] == "sea"


def test_cosmosqa_joins_story_and_question() -> None:
    row = data.rows("cosmosqa", "en", "dev")[0]
    assert row["context"] == "I wo nt go . Why ?"
    assert row["choices"][3] == "None of the above choices ." and row["label"] == 2


def test_wrong_xcopa_questions_are_repaired_from_estonian_and_counted() -> None:
    thai = data.rows("xcopa", "th", "test")
    assert thai.notes == {"question repaired from the Estonian rows": 30}
    assert thai[0]["context"] == "มี What was the cause?"
    assert thai[1]["context"] == "มี What was the effect?"
    assert not data.rows("xcopa", "et", "test").notes


def test_xcopa_trains_on_english_copa() -> None:
    with pytest.raises(KeyError, match="unknown language of task 'xcopa' 'en'"):
        data.rows("xcopa", "en", "train")
    rows = data.rows("copa", "en", "train")
    assert rows.source.endswith("aps/super_glue")
    assert rows[0] == {
        "id": "0",
        "context": "It was 0. What was the cause?",
        "choices": ["Yes.", "No."],
        "label": 0,
    }


def test_ancient_greek_sentences_are_dropped_and_counted() -> None:
    rows = data.rows("udpos", "el", "test")
    assert [row["tokens"] for row in rows] == [["Το", "σπίτι", "."]]
    assert rows.dropped == {"polytonic letters: a sentence of an Ancient Greek treebank": 1}


def test_udpos_is_not_read_from_the_contaminated_copy(mirror: Path) -> None:
    rows = data.rows("udpos", "fr", "test")
    assert rows[0]["tokens"] == ["du", "pain"], "multiword tokens must stay fused"
    assert "google/xtreme" not in rows.source


def test_udpos_accepts_other_column_names_and_text_tags() -> None:
    row = data.rows("udpos", "de", "test")[0]
    assert row["tokens"] == ["Hunde", "bellen"]
    assert [data.rows("udpos", "de", "test").labels[tag] for tag in row["tags"]] == ["NOUN", "VERB"]


def test_panx_tokens_with_colons_are_not_cut_again() -> None:
    rows = data.rows("panx", "en", "train")
    assert rows[0]["tokens"] == ["Ann", "Lee", ":", "Rome"]
    assert rows[1]["tokens"] == ["a:b"]


def test_longer_ner_list_reads_wikiann_itself(mirror: Path) -> None:
    rows = data.rows("panx-xr", "az", "test")
    assert rows.source == f"mirror {mirror}/unimelb-nlp/wikiann"
    assert rows[0]["tags"] == [5, 0]


def test_shifted_xquad_offsets_are_found_again_nearby() -> None:
    rows = data.rows("xquad", "zh", "test")
    answer = rows[0]["answers"]
    start, text = answer["start"][0], answer["text"][0]
    assert rows[0]["context"][start : start + len(text)] == text
    # The answer stands at 3 and at 5; the stated 4 is nearest to 3 by order.
    assert start == 3
    assert rows.notes == {"answer offset shifted: found again nearby": 1}
    assert not data.rows("xquad", "en", "test").notes


def test_tydiqa_languages_are_told_by_id_even_with_a_double_dash() -> None:
    rows = data.rows("tydiqa", "en", "train")
    assert [row["id"] for row in rows] == ["english--3215621880858840488-2", "english-12-1"]
    assert rows.notes == {"answer offset shifted: found again nearby": 1}
    assert not rows.dropped, "rows of other languages are no losses"


def test_tydiqa_trains_on_english_only() -> None:
    with pytest.raises(KeyError, match="trains on the English rows of task 'tydiqa'"):
        data.rows("tydiqa", "ko", "train")


def test_blank_answers_are_refused() -> None:
    with pytest.raises(BadRows, match=r"'tydiqa', language 'sw'.*'answer is blank': 2"):
        data.rows("tydiqa", "sw", "test")


def test_several_answers_of_a_tydiqa_question_are_kept() -> None:
    assert data.rows("tydiqa", "ko", "test")[0]["answers"]["text"] == ["부산", "항구"]


def test_tatoeba_line_breaks_are_cut_and_ids_say_what_is_right() -> None:
    rows = data.rows("tatoeba", "de", "test")
    assert [row["text"] for row in rows.side("candidate")] == ["Hallo.", "Guten Tag.", "Ja."]
    # Two English sentences are equal; each still has its own row as the one right answer.
    assert [row["gold"] for row in rows.side("query")] == [["de-0"], ["de-1"], ["de-2"]]
    assert all("cache" not in row["text"] for row in rows)


def test_both_tatoeba_copies_give_equal_rows() -> None:
    assert list(data.rows("tatoeba", "de", "test")) == list(data.rows("tatoeba-xr", "de", "test"))


def test_bucc_gold_counts_from_one_and_pairs_stay_together() -> None:
    seen = 0
    for split in ("dev", "test"):
        rows = data.rows("bucc2018", "de", split)
        texts = {row["id"]: row["text"] for row in rows}
        for query in rows.side("query"):
            for name in query["gold"]:
                number = int(query["text"].split()[1])
                assert texts[name] == f"Sentence {number + 10}"
                seen += 1
    assert seen == 20


def test_bucc_halves_are_disjoint_and_keep_distractors() -> None:
    halves = [{row["id"] for row in data.rows("bucc2018", "de", s)} for s in ("dev", "test")]
    assert not halves[0] & halves[1]
    assert len(halves[0] | halves[1]) == 40 + 60


def test_hidden_labels_are_refused_where_a_task_asks_for_them(mirror: Path) -> None:
    from dataclasses import replace

    from helpers import tasks

    for name in ("qqp", "cosmosqa", "commonsenseqa", "hellaswag"):
        task = tasks.get(name)
        splits = {"test": "test"}
        hidden = replace(task, source=replace(task.source, splits=splits))
        with pytest.raises(BadRows, match="Hidden test labels"):
            data.rows(hidden, "en", "test")


def test_lareqa_pools_all_languages_and_finds_the_sentence_of_the_answer() -> None:
    rows = data.rows("lareqa", "de", "test")
    queries, pool = rows.side("query"), rows.side("candidate")
    assert [query["text"] for query in queries] == ["Was fiel?"]
    assert queries[0]["gold"] == ["en-0-0", "de-0-0"]
    texts = {row["id"]: row["text"] for row in pool}
    assert texts["de-0-0"] == "Rom fiel. Rom fiel. Paris wuchs."
    assert len(pool) == 4
    # A partial mirror is said so: nine languages of the pool are not there.
    assert sum(rows.notes.values()) == 9


def test_lareqa_training_pairs_infer_sentence_breaks() -> None:
    rows = data.rows("lareqa", "en", "train")
    candidate = rows.side("candidate")[0]
    assert candidate["text"] == "There are 0 red boats. There are 0 red boats. Two left."


def test_mewslix_reads_mentions_and_all_entities() -> None:
    rows = data.rows("mewslix", "de", "test")
    assert len(rows.side("query")) == 1 and len(rows.side("candidate")) == 60
    assert rows.side("query")[0]["gold"] == ["Q220"]
    assert {row["id"]: row["text"] for row in rows}["Q220"] == "entity 220"


def test_mewslix_standardises_its_pool_once_for_all_languages(
    mirror: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys: list[str] = []
    real = data._map_key
    monkeypatch.setattr(data, "_map_key", lambda *facts: keys.append(real(*facts)) or keys[-1])
    monkeypatch.setattr(data, "IN_MEMORY", 0)
    monkeypatch.setattr(data, "_check_gold", lambda *_: None)  # a pool alone has no queries
    task = tasks.get("mewslix")
    pool = task.source.serving("de", "test")[1:]
    found = [list(data._load(task, code, "test", pool)) for code in ("de", "ar")]
    assert found[0] == found[1] and len(found[0]) == 60
    assert len(keys) == 2 and len(set(keys)) == 1


def test_mewslix_trains_on_wikipedia_pairs() -> None:
    rows = data.rows("mewslix", "en", "train")
    query, candidate = rows.side("query")[0], rows.side("candidate")[0]
    assert query["gold"] == [candidate["id"]]
    assert candidate["text"] == "entity 0"


def test_stand_in_training_rows_never_occur_in_pos_evaluation_rows() -> None:
    rows = data.rows("xpos-ewt", "en", "train")
    assert [row["tokens"] for row in rows] == [["Cats", "sleep", "."]]
    assert rows.dropped == {"also in the evaluation rows of udpos": 1}


def test_tags_unknown_to_the_training_rows_are_ignored_and_counted() -> None:
    rows = data.rows("xpos-ewt", "en", "dev")
    assert rows[0]["tags"] == [-100, rows.labels.index(".")]
    assert rows.notes == {"tag not in the training rows: ignored": 1}


def test_translated_mnli_mixes_languages_and_keeps_english_development() -> None:
    rows = data.rows("mnli-translated", "en", "train")
    assert len(rows) == 9
    assert {"Er blieb.", "Он остался."} <= {row["second"] for row in rows}
    assert data.rows("mnli-translated", "en", "dev").fingerprint == (
        data.rows("mnli", "en", "dev").fingerprint
    )
