"""Language covariates: frozen facts per language, and what an encoder's pieces say of its text."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from helpers.errors import BadRows, MissingData, unknown
from helpers.similarity.text import token_similarity, vocabulary_overlap

__all__ = ["PATH", "Pieces", "covariates", "piece_statistics", "piece_table", "table"]

PATH = Path(__file__).parents[2] / "data" / "languages.csv"
# White space does not separate words in these scripts.
UNSPACED = ("Hans", "Hant", "Jpan", "Thai", "Mymr", "Khmr", "Laoo")

Tokenise = Callable[[list[str]], Sequence[Sequence[int]]]


def table(path: Path = PATH) -> pd.DataFrame:
    """Return the language covariates, indexed by language code.

    Args:
        path: the CSV that ``helpers.similarity.build_languages`` wrote.

    Returns:
        One row per language; ``data/languages.README.md`` explains the columns.

    Raises:
        MissingData: the file is not there.
    """
    if not path.exists():
        raise MissingData(
            f"no language covariates at {path}. They are part of the repository: git checkout it, or "
            "build it as the text of helpers/similarity/build_languages.py says."
        )
    return pd.read_csv(path, keep_default_na=False, na_values=[""]).set_index("language")


def covariates(languages: Sequence[str], columns: Sequence[str] = ()) -> pd.DataFrame:
    """Return chosen covariates of chosen languages, in the order asked for.

    Args:
        languages: codes as XTREME writes them.
        columns: columns of the table; all of them by default.

    Returns:
        One row per language. Values that are not known stay missing.

    Raises:
        UnknownName: a language or column that the table does not have.
    """
    known = table()
    for language in languages:
        if language not in known.index:
            raise unknown("language", language, known.index)
    for column in columns:
        if column not in known.columns:
            raise unknown("language covariate", column, known.columns)
    return known.loc[list(languages), list(columns) or list(known.columns)]


@dataclass(frozen=True)
class Pieces:
    """How an encoder's tokenizer splits text of one language.

    Attributes:
        fertility: pieces per word; NaN where words are not separated by spaces.
        pieces_per_character: pieces per character that is not white space.
        unknown: share of pieces that the vocabulary does not know.
        texts: number of texts.
        pieces: number of pieces.
    """

    fertility: float
    pieces_per_character: float
    unknown: float
    texts: int
    pieces: int


def piece_statistics(
    texts: Sequence[str], tokenise: Tokenise, unknown_id: int | None = None, script: str = "Latn"
) -> Pieces:
    """Measure how finely a tokenizer splits the texts of a language.

    Args:
        texts: texts of one language.
        tokenise: gives the vocabulary ids of each text, without special ids.
        unknown_id: id of the unknown piece.
        script: ISO 15924 code; in scripts without spaces the fertility is NaN.

    Returns:
        Pieces per word and per character, and the share of unknown pieces.

    Raises:
        BadRows: no texts, or a text without characters or pieces.

    Source: fertility as in Acs 2019 and Rust et al. 2021 (arXiv 2012.15613).
    """
    characters = [len("".join(text.split())) for text in texts]
    if not texts or min(characters) == 0:
        raise BadRows(f"{len(texts)} texts, some empty; give non-empty texts of one language.")
    ids = [np.asarray(pieces, dtype=np.int64) for pieces in tokenise(list(texts))]
    if min(len(pieces) for pieces in ids) == 0:
        raise BadRows("the tokenizer gave no pieces for a text; does it drop its characters?")
    pieces = np.concatenate(ids)
    words = sum(len(text.split()) for text in texts)
    return Pieces(
        fertility=float("nan") if script in UNSPACED else len(pieces) / words,
        pieces_per_character=len(pieces) / sum(characters),
        unknown=0.0 if unknown_id is None else float((pieces == unknown_id).mean()),
        texts=len(texts),
        pieces=len(pieces),
    )


def piece_table(
    texts: Mapping[str, Sequence[str]],
    english: Sequence[str],
    tokenise: Tokenise,
    unknown_id: int | None = None,
) -> pd.DataFrame:
    """Fertility and overlap of pieces with English, for one encoder and one set of texts.

    Args:
        texts: evaluation texts by language code.
        english: English training texts of the same task.
        tokenise: gives the vocabulary ids of each text, without special ids.
        unknown_id: id of the unknown piece.

    Returns:
        One row per language: the fields of ``Pieces``, ``overlap`` (Jaccard of the sets of pieces)
        and ``token_similarity`` (1 - Jensen-Shannon), both on samples of equal size.

    Raises:
        BadRows: an empty set of texts or an empty text.
    """
    scripts = table()["script"]
    reference = np.concatenate([np.asarray(ids, np.int64) for ids in tokenise(list(english))])
    rows = []
    for language, samples in texts.items():
        facts = piece_statistics(samples, tokenise, unknown_id, scripts.get(language, "Latn"))
        pieces = np.concatenate([np.asarray(ids, np.int64) for ids in tokenise(list(samples))])
        rows.append(
            {"language": language, **asdict(facts)}
            | {"overlap": vocabulary_overlap(pieces, reference)}
            | {"token_similarity": token_similarity(pieces, reference)}
        )
    return pd.DataFrame(rows).set_index("language")
