import pytest

from helpers import tasks

FORMATS = {"a": "pair", "b": "choice", "x": "pair", "y": "tagging"}


@pytest.fixture(autouse=True)
def registered(forget):
    """Make the tasks of tests.stats.tables known."""
    for name, form in FORMATS.items():
        role = "target" if name in "xy" else "intermediate"
        source = tasks.Source("rows", name, read=lambda language, split: [])
        tasks.register(tasks.Task(name, role, form, source))
