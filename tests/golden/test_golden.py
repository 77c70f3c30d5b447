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


@pytest.mark.parametrize("name", tables.TABLES)
def test_values(name, here, request, tmp_path):
    request.getfixturevalue("real_mirror" if name in tables.HUB else "package_data")
    made_on = json.loads((tables.FOLDER / "machine.json").read_text(encoding="utf-8"))
    with tables.one_thread():
        found = table(tables.text(name, tmp_path))
        same = tables.machine() == made_on
    expected = table(tables.file(name).read_text(encoding="utf-8"))
    near = {"rtol": RTOL, "atol": ATOL.get(name, 1e-12)}
    exact = {"check_exact": True}
    pd.testing.assert_frame_equal(found, expected, **exact if same else near)


def table(text):
    """Read both sides the same way, each float to its last digit."""
    return pd.read_csv(io.StringIO(text), low_memory=False)
