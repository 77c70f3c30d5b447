import pytest

from tests.stats.tables import register


@pytest.fixture(autouse=True)
def registered(forget):
    """Make the tasks of tests.stats.tables known."""
    for name, form in {"a": "pair", "b": "choice", "x": "pair", "y": "tagging"}.items():
        register(name, form, "target" if name in "xy" else "intermediate")
