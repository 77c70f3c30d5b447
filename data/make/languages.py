"""Build ``data/languages.csv`` from packages that carry URIEL and Glottolog.

Neither package is a dependency of this project: install them in a throw-away environment.

    python -m venv /tmp/uriel && /tmp/uriel/bin/pip install numpy pandas urielplus==1.3.2
    /tmp/uriel/bin/pip install --no-deps lang2vec==1.1.2
    /tmp/uriel/bin/python data/make/languages.py

This file imports nothing else of the project, so that environment needs nothing else either. Both
packages are read as plain files. Their own functions are not called: lang2vec 1.1.2 does not import
with current setuptools, and URIEL+'s script distance calls Bulgarian and German equally far from
English.
"""

from __future__ import annotations

import argparse
import csv
import importlib.util
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

DATA = Path(__file__).parents[1]

# Name, ISO 15924 script of the benchmark's text, and glottocode where URIEL's macro-language has
# none. Scripts are coded by hand from the text of the benchmarks.
LANGUAGES: dict[str, tuple[str, str, str]] = {
    "af": ("Afrikaans", "Latn", ""),
    "ar": ("Arabic", "Arab", "stan1318"),
    "az": ("Azerbaijani", "Latn", "nort2697"),
    "bg": ("Bulgarian", "Cyrl", ""),
    "bn": ("Bengali", "Beng", ""),
    "de": ("German", "Latn", ""),
    "el": ("Greek", "Grek", ""),
    "en": ("English", "Latn", ""),
    "es": ("Spanish", "Latn", ""),
    "et": ("Estonian", "Latn", "esto1258"),
    "eu": ("Basque", "Latn", ""),
    "fa": ("Persian", "Arab", "west2369"),
    "fi": ("Finnish", "Latn", ""),
    "fr": ("French", "Latn", ""),
    "gu": ("Gujarati", "Gujr", ""),
    "he": ("Hebrew", "Hebr", ""),
    "hi": ("Hindi", "Deva", ""),
    "ht": ("Haitian Creole", "Latn", ""),
    "hu": ("Hungarian", "Latn", ""),
    "id": ("Indonesian", "Latn", ""),
    "it": ("Italian", "Latn", ""),
    "ja": ("Japanese", "Jpan", ""),
    "jv": ("Javanese", "Latn", ""),
    "ka": ("Georgian", "Geor", ""),
    "kk": ("Kazakh", "Cyrl", ""),
    "ko": ("Korean", "Kore", ""),
    "lt": ("Lithuanian", "Latn", ""),
    "ml": ("Malayalam", "Mlym", ""),
    "mr": ("Marathi", "Deva", ""),
    "ms": ("Malay", "Latn", "stan1306"),
    "my": ("Burmese", "Mymr", ""),
    "nl": ("Dutch", "Latn", ""),
    "pa": ("Punjabi", "Guru", ""),
    "pl": ("Polish", "Latn", ""),
    "pt": ("Portuguese", "Latn", ""),
    "qu": ("Quechua", "Latn", "cusc1236"),
    "ro": ("Romanian", "Latn", ""),
    "ru": ("Russian", "Cyrl", ""),
    "sw": ("Swahili", "Latn", "swah1253"),
    "ta": ("Tamil", "Taml", ""),
    "te": ("Telugu", "Telu", ""),
    "th": ("Thai", "Thai", ""),
    "tl": ("Tagalog", "Latn", ""),
    "tr": ("Turkish", "Latn", ""),
    "uk": ("Ukrainian", "Cyrl", ""),
    "ur": ("Urdu", "Arab", ""),
    "vi": ("Vietnamese", "Latn", ""),
    "wo": ("Wolof", "Latn", ""),
    "yo": ("Yoruba", "Latn", ""),
    "zh": ("Chinese", "Hans", "mand1415"),
}
# The levels of Glottolog's lineage that are called branches here: the first one that occurs.
BRANCHES = (
    "Germanic,Romance,Slavic,Eastern Baltic,Greek,Indo-Aryan,Iranian,Semitic,Finnic,Hungaric,Oghuz,"
    "Kipchak,Malayic,Javanesic,Greater Central Philippine,South Dravidian,Sinitic,Lolo-Burmese,Kam-Tai,"
    "Vietic,Narrow Bantu,Defoid,North-Central Atlantic,Southern Quechua,Georgian-Zan"
).split(",")
# Distance to English over the features whose names start with a prefix.
FEATURES = {"syntactic": "S_", "phonological": "P_", "inventory": "INV_"}
MISSING = -1.0
# With fewer shared features than this, an observed distance says nothing: Kazakh and English would
# have the same phonology, on two features.
FEWEST_SHARED = 10

Row = dict[str, Any]


def main() -> None:
    """Write the table; see the module's text."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--sizes", type=Path, default=DATA / "published" / _SIZES)
    parser.add_argument("--output", type=Path, default=DATA / "languages.csv")
    options = parser.parse_args()
    rows = build(_package("lang2vec"), _package("urielplus"), options.sizes)
    with options.output.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    print(f"wrote {len(rows)} languages to {options.output}")


_SIZES = "litmus_xlmr_language_features.csv"


def _package(name: str) -> Path:
    """Folder of an installed package, found without running it."""
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit(f"{name} is not installed here. {__doc__}")
    return Path(spec.submodule_search_locations[0])


def build(lang2vec: Path, urielplus: Path, sizes: Path) -> list[Row]:
    """Return one row per language.

    Args:
        lang2vec: folder of the installed lang2vec 1.1.2.
        urielplus: folder of the installed urielplus 1.3.2.
        sizes: CSV with ``language`` and ``xlmr_pretraining_gib``.

    Returns:
        Rows in the order of ``LANGUAGES``; unknown values are empty strings.
    """
    codes = json.loads((lang2vec / "data" / "letter_codes.json").read_text(encoding="utf-8"))
    tables = urielplus / "database" / "urielplus_csvs"
    glottocodes = {r["iso_code"]: r["glottocode"] for r in _read(tables / _GLOTTOCODES)}
    places = {r["language_id"]: r for r in _read(tables / "lang_fam_geo.csv")}
    gib = {r["language"]: r["xlmr_pretraining_gib"] for r in _read(sizes)}
    rows = []
    for language, (name, script, glottocode) in LANGUAGES.items():
        iso = codes[language]
        glottocode = glottocode or glottocodes[iso]
        row: Row = {"language": language, "name": name, "iso639_3": iso, "glottocode": glottocode}
        row |= {"script": script, "same_script": int(script == "Latn")}
        rows.append(row | _place(places[glottocode]) | _size(gib.get(language, "")))
    _add_distances(rows, lang2vec / "data")
    return rows


_GLOTTOCODES = "uriel_glottocode_map.csv"


def _read(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def _place(facts: Mapping[str, str]) -> Row:
    lineage = [level for level in facts["lineage"].split(", ") if level]
    family = lineage[0] if lineage else facts["language_name"]
    latitude = float(facts["latitude"])
    longitude = (float(facts["longitude"]) + 180.0) % 360.0 - 180.0
    return {
        "family": family,
        "branch": next((level for level in lineage if level in BRANCHES), family),
        "isolate": int(not lineage),
        "latitude": round(latitude, 4),
        "longitude": round(longitude, 4),
    }


def _size(gib: str) -> Row:
    return {
        "in_xlmr": int(bool(gib)),
        "xlmr_gib": gib,
        "xlmr_source": _SIZES if gib else "not among XLM-R's pretraining languages",
    }


def _add_distances(rows: list[Row], folder: Path) -> None:
    english = next(place for place, row in enumerate(rows) if row["language"] == "en")
    isos = [row["iso639_3"] for row in rows]
    for row in rows:
        row["same_family"] = int(row["family"] == rows[english]["family"])
        row["geographic_km"] = round(_kilometres(row, rows[english]))
    predicted, names = _matrix(folder / "feature_predictions.npz", isos)
    observed, _ = _matrix(folder / "feature_averages.npz", isos)
    for kind, prefix in FEATURES.items():
        columns = [place for place, name in enumerate(names) if name.startswith(prefix)]
        filled, known = predicted[:, columns], observed[:, columns] != MISSING
        for place, row in enumerate(rows):
            shared = known[place] & known[english]
            row[kind] = _rounded(_cosine_distance(filled[place], filled[english]))
            pair = observed[:, columns][[place, english]][:, shared]
            distance = _cosine_distance(pair[0], pair[1]) if shared.sum() >= FEWEST_SHARED else None
            row[f"{kind}_observed"] = _rounded(distance)
            row[f"{kind}_shared"] = int(shared.sum())
            row[f"{kind}_imputed"] = round(1.0 - known[place].mean(), 4)
    lineage, _ = _matrix(folder / "family_features.npz", isos)
    for place, row in enumerate(rows):
        row["genetic"] = _rounded(_cosine_distance(lineage[place], lineage[english]))


def _matrix(path: Path, isos: list[str]) -> tuple[NDArray[np.float64], list[str]]:
    """Features of some languages from one of lang2vec's files, and their names."""
    file = np.load(path)  # plain arrays: nothing is unpickled
    known = {str(code): place for place, code in enumerate(file["langs"])}
    values = file["data"][[known[iso] for iso in isos], :, 0].astype(np.float64)
    return values, [str(name) for name in file["feats"]]


def _cosine_distance(a: NDArray[np.float64], b: NDArray[np.float64]) -> float | None:
    norm = float(np.linalg.norm(a) * np.linalg.norm(b))
    return None if norm == 0.0 else max(1.0 - float(a @ b) / norm, 0.0)


def _rounded(value: float | None) -> float | str:
    return "" if value is None else round(value, 4)


def _kilometres(a: Row, b: Row) -> float:
    """Great-circle distance on a sphere of 6,371 km."""
    here, there = (math.radians(row["latitude"]) for row in (a, b))
    turn = math.radians(a["longitude"] - b["longitude"])
    half = math.sin((here - there) / 2) ** 2
    half += math.cos(here) * math.cos(there) * math.sin(turn / 2) ** 2
    return 2 * 6371.0 * math.asin(math.sqrt(half))


if __name__ == "__main__":
    main()
