"""Build ``data/languages.csv`` from packages that carry URIEL and Glottolog.

Neither package is a dependency of this project: install them in a throw-away environment.

    python -m venv /tmp/uriel && /tmp/uriel/bin/pip install numpy pandas urielplus==1.3.2
    /tmp/uriel/bin/pip install --no-deps lang2vec==1.1.2
    /tmp/uriel/bin/python data/make/languages.py

This file imports nothing else of the project, so that environment needs nothing else either. What is
coded by hand, language, name, glottocode and script, is read from the table itself; the rest is made
anew. Both packages are read as plain files. Their own functions are not called: lang2vec 1.1.2 does not
import with current setuptools, and URIEL+'s script distance calls Bulgarian and German equally far from
English.
"""

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

DATA = Path(__file__).parents[1]
SIZES = "litmus_xlmr_language_features.csv"
# The levels of Glottolog's lineage that are called branches here: the first one that occurs.
BRANCHES = (
    "Germanic,Romance,Slavic,Eastern Baltic,Greek,Indo-Aryan,Iranian,Semitic,Finnic,Hungaric,Oghuz,"
    "Kipchak,Malayic,Javanesic,Greater Central Philippine,South Dravidian,Sinitic,Lolo-Burmese,Kam-Tai,"
    "Vietic,Narrow Bantu,Defoid,North-Central Atlantic,Southern Quechua,Georgian-Zan"
).split(",")
# Distance to English over the features whose names start with a prefix.
FEATURES = {"syntactic": "S_", "phonological": "P_", "inventory": "INV_"}
# With fewer shared features than this, an observed distance says nothing: Kazakh and English would
# have the same phonology, on two features.
FEWEST_SHARED = 10


def package(name: str) -> Path:
    """Return the folder of an installed package, found without running it."""
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit(f"{name} is not installed here. {__doc__}")
    return Path(spec.submodule_search_locations[0])


def table(path: Path, key: str) -> pd.DataFrame:
    """Return a table of texts by one of its columns."""
    return pd.read_csv(path, dtype=str, keep_default_na=False).set_index(key)


def languages(lang2vec: Path, urielplus: Path) -> pd.DataFrame:
    """Return what is known of each language by itself."""
    isos = json.loads((lang2vec / "data" / "letter_codes.json").read_text(encoding="utf-8"))
    places = table(urielplus / "database/urielplus_csvs/lang_fam_geo.csv", "language_id")
    gib = table(DATA / "published" / SIZES, "language")["xlmr_pretraining_gib"]
    rows = []
    for language, hand in table(DATA / "languages.csv", "language").iterrows():
        place, size = places.loc[hand["glottocode"]], gib.get(language, "")
        lineage = [level for level in place["lineage"].split(", ") if level]
        family = lineage[0] if lineage else place["language_name"]
        row: dict[str, Any] = {"language": language, "name": hand["name"]}
        row |= {"iso639_3": isos[language], "glottocode": hand["glottocode"]}
        row |= {"script": hand["script"], "same_script": int(hand["script"] == "Latn")}
        branch = next((level for level in lineage if level in BRANCHES), family)
        row |= {"family": family, "branch": branch, "isolate": int(not lineage)}
        row["latitude"] = round(float(str(place["latitude"])), 4)
        row["longitude"] = round((float(str(place["longitude"])) + 180.0) % 360.0 - 180.0, 4)
        source = SIZES if size else "not among XLM-R's pretraining languages"
        rows.append(row | {"in_xlmr": int(bool(size)), "xlmr_gib": size, "xlmr_source": source})
    return pd.DataFrame(rows)


def add_distances(rows: pd.DataFrame, folder: Path) -> None:
    """Add the distances to English."""
    (english,) = rows.index[rows["language"] == "en"]
    rows["same_family"] = (rows["family"] == rows["family"][english]).astype(int)
    # Great circles on a sphere of 6,371 km.
    lat, long = (np.radians(rows[name].to_numpy(float)) for name in ("latitude", "longitude"))
    half = np.cos(lat) * np.cos(lat[english]) * np.sin((long - long[english]) / 2) ** 2
    half += np.sin((lat - lat[english]) / 2) ** 2
    rows["geographic_km"] = (2 * 6371.0 * np.arcsin(np.sqrt(half))).round().astype(int)
    files = ("feature_predictions", "feature_averages", "family_features")
    predicted, observed, lineage = (features(folder / f"{name}.npz", rows) for name in files)
    for kind, prefix in FEATURES.items():
        columns = [name for name in map(str, predicted) if name.startswith(prefix)]
        filled, seen = predicted[columns].to_numpy(), observed[columns].to_numpy()
        known = seen != -1.0
        shared = known & known[english]
        rows[kind] = [distance(one, filled[english]) for one in filled]
        rows[f"{kind}_observed"] = [
            distance(one[both], seen[english][both]) if both.sum() >= FEWEST_SHARED else None
            for one, both in zip(seen, shared, strict=True)
        ]
        rows[f"{kind}_shared"] = shared.sum(axis=1)
        rows[f"{kind}_imputed"] = (1.0 - known.mean(axis=1)).round(4)
    rows["genetic"] = [distance(one, lineage.to_numpy()[english]) for one in lineage.to_numpy()]


def features(path: Path, rows: pd.DataFrame) -> pd.DataFrame:
    """Return features of the languages from one of lang2vec's files."""
    file = np.load(path)  # plain arrays: nothing is unpickled
    names = (file[axis].astype(str) for axis in ("langs", "feats"))
    values = pd.DataFrame(file["data"][:, :, 0], *names)
    return values.loc[rows["iso639_3"]].astype(np.float64)


def distance(a: NDArray[np.float64], b: NDArray[np.float64]) -> float | None:
    """Return the cosine distance, if there is one."""
    norm = float(np.linalg.norm(a) * np.linalg.norm(b))
    return None if norm == 0.0 else round(max(1.0 - float(a @ b) / norm, 0.0), 4)


if __name__ == "__main__":
    found = languages(package("lang2vec"), package("urielplus"))
    add_distances(found, package("lang2vec") / "data")
    found.to_csv(DATA / "languages.csv", index=False, lineterminator="\n")
    print(f"wrote {len(found)} languages")
