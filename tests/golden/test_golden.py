import io
import json

import pandas as pd
import pytest

from tests.golden import tables

# Another processor or library sums in another order: the last digits move, nothing else may.
RTOL = 1e-9
# A flat maximum of the likelihood is found to 1e-8; training carries a digit into a decision now
# and then: two of the twelve rows of a score.
ATOL = {"prediction": 1e-6, "tiny_scores": 2 / 12}


@pytest.fixture
def here(data_cache, monkeypatch):
    """Read packages and generated rows only, whatever the caller's environment names."""
    monkeypatch.setenv("TRANSFER_TEXT_ROOT", "django")


@pytest.mark.parametrize("name", [name for name in tables.TABLES if name not in tables.HUB])
def test_values(name, here, package_data, tmp_path):
    check(name, tmp_path)


@pytest.mark.parametrize("name", tables.HUB)
def test_values_of_a_mirror(name, here, real_mirror, tmp_path):
    check(name, tmp_path)


def check(name, folder):
    made_on = json.loads((tables.FOLDER / "machine.json").read_text(encoding="utf-8"))
    with tables.one_thread():
        found = table(tables.text(name, folder))
        same = tables.machine() == made_on
    expected = table(tables.file(name).read_text(encoding="utf-8"))
    near = {"rtol": RTOL, "atol": ATOL.get(name, 1e-12)}
    exact = {"check_exact": True}
    pd.testing.assert_frame_equal(found, expected, **exact if same else near)


def table(text):
    """Read both sides the same way, each float to its last digit."""
    return pd.read_csv(io.StringIO(text), low_memory=False)
