import json
import subprocess
import sys

import numpy as np
import pytest

from data.make import languages as build_languages

FEATURES = ["S_A", "S_B", "P_A", "INV_A"]


@pytest.fixture
def packages(tmp_path, monkeypatch):
    """Two packages in the layout of lang2vec and urielplus, for three languages."""
    monkeypatch.setattr(build_languages, "DATA", tmp_path)
    (tmp_path / "languages.csv").write_text(
        "language,name,glottocode,script\n"
        "en,English,stan,Latn\neu,Basque,basq,Latn\nzh,Chinese,mand,Hans\n"
    )
    monkeypatch.setattr(build_languages, "FEWEST_SHARED", 2)
    lang2vec, uriel = tmp_path / "lang2vec" / "data", tmp_path / "urielplus" / "database"
    lang2vec.mkdir(parents=True)
    (uriel / "urielplus_csvs").mkdir(parents=True)
    codes = {"zh": "zho", "en": "eng", "eu": "eus"}
    (lang2vec / "letter_codes.json").write_text(json.dumps(codes))

    def save(name, rows, features):
        data = np.array(rows, float)[:, :, None]
        names = {"feats": features, "langs": ["zho", "eng", "eus"], "sources": ["x"]}
        np.savez(lang2vec / name, data=data, **names)

    save("feature_predictions.npz", [[0, 1, 1, 1], [1, 0, 1, 1], [1, 1, 1, 1]], FEATURES)
    save("feature_averages.npz", [[0, 1, -1, 1], [1, 0, 1, -1], [-1, 1, 1, 1]], FEATURES)
    save("family_features.npz", [[0, 1], [1, 0], [0, 0]], ["F_Indo-European", "F_Sinitic"])
    csvs = uriel / "urielplus_csvs"
    (csvs / "lang_fam_geo.csv").write_text(
        "language_id,language_name,latitude,longitude,lineage\n"
        'stan,English,0.0,0.0,"Indo-European, Classical, Germanic, West Germanic"\n'
        "basq,Basque,0.0,90.0,\n"
        'mand,Mandarin,0.0,350.0,"Sino-Tibetan, Sinitic"\n'
    )
    sizes = tmp_path / "published" / build_languages.SIZES
    sizes.parent.mkdir()
    sizes.write_text("language,xlmr_pretraining_gib\nen,300.8\nzh,63.5\n")
    found = build_languages.languages(tmp_path / "lang2vec", tmp_path / "urielplus")
    build_languages.add_distances(found, lang2vec)
    # As the file has them: what is missing is empty.
    return found.astype(object).where(found.notna(), "").to_dict("records")


def test_rows_and_distances_by_hand(packages):
    english, basque, chinese = packages
    assert [r["language"] for r in (english, basque, chinese)] == ["en", "eu", "zh"]
    assert (english["family"], english["branch"]) == ("Indo-European", "Germanic")
    assert (basque["family"], basque["branch"], basque["isolate"]) == ("Basque", "Basque", 1)
    # The macro-language takes the glottocode that the table gives it.
    assert (chinese["glottocode"], chinese["branch"]) == ("mand", "Sinitic")
    assert chinese["longitude"] == -10.0
    assert basque["geographic_km"] == round(6371 * np.pi / 2)
    assert (basque["in_xlmr"], basque["xlmr_gib"]) == (0, "")
    assert (chinese["same_script"], chinese["same_family"]) == (0, 0)
    assert chinese["syntactic"] == 1.0
    assert basque["syntactic"] == pytest.approx(1 - 1 / np.sqrt(2), abs=1e-4)
    assert (chinese["syntactic_shared"], chinese["syntactic_observed"]) == (2, 1.0)
    # One shared feature is too few for an observed distance.
    assert (basque["syntactic_shared"], basque["syntactic_observed"]) == (1, "")
    assert (basque["syntactic_imputed"], chinese["phonological_imputed"]) == (0.5, 1.0)
    assert (chinese["genetic"], basque["genetic"], english["genetic"]) == (1.0, "", 0.0)


def test_it_needs_nothing_of_the_project_and_a_missing_package_says_how_to_install_it():
    with pytest.raises(SystemExit, match="throw-away environment"):
        build_languages.package("no_such_package_here")
    code = f"import runpy, sys; runpy.run_path({build_languages.__file__!r}); "
    code += "print([m for m in ('helpers', 'scipy', 'torch') if m in sys.modules])"
    out = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True)
    assert out.stdout.strip() == "[]", out.stderr
