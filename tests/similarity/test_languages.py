import unicodedata

import numpy as np
import pandas as pd
import pytest

from helpers.errors import BadRows, MissingData, UnknownName
from helpers.similarity import languages

# The union of the language lists of XTREME-R's tasks.
XTREME_R = (
    "af ar az bg bn de el en es et eu fa fi fr gu he hi ht hu id it ja jv ka kk ko lt ml mr ms my nl "
    "pa pl pt qu ro ru sw ta te th tl tr uk ur vi wo yo zh"
).split()
# What Unicode calls the letters of each ISO 15924 script.
LETTERS = {
    "Latn": "LATIN", "Arab": "ARABIC", "Cyrl": "CYRILLIC", "Beng": "BENGALI", "Grek": "GREEK",
    "Gujr": "GUJARATI", "Hebr": "HEBREW", "Deva": "DEVANAGARI", "Geor": "GEORGIAN",
    "Kore": "HANGUL", "Mlym": "MALAYALAM", "Mymr": "MYANMAR", "Guru": "GURMUKHI", "Taml": "TAMIL",
    "Telu": "TELUGU", "Thai": "THAI", "Hans": "CJK", "Jpan": "HIRAGANA",
}  # fmt: skip


def characters(texts):
    """Every character is a piece; the letter ? is the unknown one."""
    return [[ord(c) for c in text if not c.isspace()] for text in texts]


class TestTable:
    def test_every_language_of_xtreme_r_and_no_other(self):
        assert list(languages.table().index) == XTREME_R

    def test_columns_are_complete_but_for_the_documented_gaps(self):
        facts = languages.table()
        gaps = {name: set(facts.index[facts[name].isna()]) for name in facts.columns}
        assert gaps.pop("xlmr_gib") == {"ht", "qu", "wo", "yo"}
        assert gaps.pop("genetic") == {"eu", "qu"}
        assert {"et", "ht", "kk"} == gaps.pop("inventory_observed")
        assert len(gaps.pop("phonological_observed")) >= 12
        assert all(not missing for missing in gaps.values()), gaps

    def test_flags_follow_from_the_values(self):
        facts = languages.table()
        assert (facts["in_xlmr"] == facts["xlmr_gib"].notna()).all()
        assert (facts["same_script"] == (facts["script"] == "Latn")).all()
        assert (facts["same_family"] == (facts["family"] == "Indo-European")).all()
        for kind in ("syntactic", "phonological", "inventory"):
            assert facts[f"{kind}_imputed"].between(0, 1).all()
            assert (facts[f"{kind}_observed"].isna() == (facts[f"{kind}_shared"] < 10)).all()

    def test_english_is_at_distance_zero_and_nothing_is_nearer(self):
        facts = languages.table()
        for column in ("syntactic", "phonological", "inventory", "genetic", "geographic_km"):
            assert facts.loc["en", column] == 0
            assert facts[column].min() == 0

    def test_known_facts(self):
        facts = languages.table()
        assert facts.loc[["de", "nl", "af", "en"], "branch"].eq("Germanic").all()
        assert facts.loc[["fr", "es", "ro", "ht"], "branch"].eq("Romance").all()
        assert facts.index[facts["isolate"] == 1].tolist() == ["eu"]
        assert facts.loc["nl", "geographic_km"] == pytest.approx(421, abs=2)
        # Neighbours of English by syntax, and the far end of the scale.
        assert facts["syntactic"].nsmallest(3).index.tolist() == ["en", "nl", "de"]
        assert facts["syntactic"].idxmax() == "my"

    def test_scripts_are_those_of_the_language_names(self):
        own_names = {
            "ar": "العربية", "bg": "български", "bn": "বাংলা", "de": "Deutsch", "el": "Ελληνικά",
            "fa": "فارسی", "gu": "ગુજરાતી", "he": "עברית", "hi": "हिन्दी", "ja": "ひらがな",
            "ka": "ქართული", "kk": "қазақ", "ko": "한국어", "ml": "മലയാളം", "mr": "मराठी",
            "my": "မြန်မာ", "pa": "ਪੰਜਾਬੀ", "ru": "русский", "ta": "தமிழ்", "te": "తెలుగు", "th": "ไทย",
            "uk": "українська", "ur": "اردو", "vi": "Việt", "zh": "中文",
        }  # fmt: skip
        scripts = languages.table()["script"]
        for language, name in own_names.items():
            words = {unicodedata.name(c).split()[0] for c in name if c.isalpha()}
            assert words == {LETTERS[scripts[language]]}, language
        latin = set(scripts.index[scripts == "Latn"])
        assert latin | set(own_names) == set(XTREME_R)

    def test_chosen_rows_and_columns(self):
        facts = languages.covariates(["sw", "de"], ["xlmr_gib", "script"])
        assert facts.index.tolist() == ["sw", "de"]
        assert facts.columns.tolist() == ["xlmr_gib", "script"]
        with pytest.raises(UnknownName, match="language 'xx'"):
            languages.covariates(["xx"])
        with pytest.raises(UnknownName, match="Did you mean 'syntactic'"):
            languages.covariates(["de"], ["sintactic"])

    def test_a_missing_file_says_where_it_should_be(self, tmp_path):
        with pytest.raises(MissingData, match=r"languages\.csv"):
            languages.table(tmp_path / "languages.csv")


class TestPieces:
    def test_by_hand(self):
        facts = languages.piece_statistics(["ab c", "d?"], characters, unknown_id=ord("?"))
        assert facts.fertility == pytest.approx(5 / 3)
        assert facts.pieces_per_character == 1.0
        assert facts.unknown == pytest.approx(1 / 5)
        assert (facts.texts, facts.pieces) == (2, 5)

    def test_words_without_spaces_have_no_fertility(self):
        assert np.isnan(languages.piece_statistics(["中文"], characters, script="Hans").fertility)

    @pytest.mark.parametrize("texts", [[], [""], ["a", "  "]])
    def test_empty_text_gives_no_number(self, texts):
        with pytest.raises(BadRows):
            languages.piece_statistics(texts, characters)

    def test_a_tokenizer_that_drops_everything_is_refused(self):
        with pytest.raises(BadRows, match="no pieces"):
            languages.piece_statistics(["ab"], lambda texts: [[] for _ in texts])

    def test_table_over_languages(self):
        texts = {"de": ["abc abd"], "ru": ["где"], "zh": ["中文"]}
        facts = languages.piece_table(texts, ["abc abd"], characters)
        assert facts.loc["de", ["overlap", "token_similarity"]].tolist() == [1.0, 1.0]
        assert facts.loc["ru", "overlap"] == 0.0
        assert np.isnan(facts.loc["zh", "fertility"]) and facts.loc["ru", "fertility"] == 3.0
        assert isinstance(facts, pd.DataFrame)
