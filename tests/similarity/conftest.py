import pytest

from helpers import tasks
from helpers.models import Settings, encoders
from helpers.similarity.inputs import Inputs, Options
from helpers.similarity.readers import Trained

STUDY = "toy-same toy-choice toy-span toy-intents toy-slots toy-messages".split()
# Values of one checkpoint are compared with each other to 1e-5: bf16, which "auto" means on some
# processors, would train another one.
TUNING = Settings(epochs=1, learning_rate=1e-3, batch_tokens=512, evaluations=0, precision="fp32")


@pytest.fixture(scope="session")
def tiny():
    return encoders.load("tiny")


@pytest.fixture(scope="session")
def trained(tiny, tmp_path_factory):
    """Checkpoints of the made-up tasks, trained when first asked for."""
    return Trained(tiny, TUNING, tmp_path_factory.mktemp("checkpoints"))


@pytest.fixture(scope="session")
def options():
    small = {"rows": 90, "sentences": 60, "gradient_rows": 12, "heads": 2, "max_length": 32}
    return Options(**small, precision="fp32")


@pytest.fixture
def make(tiny, trained, options, tmp_path):
    def made(options=options, folder=tmp_path, checkpoints=trained, **facts):
        study, facts = map(tasks.get, STUDY), {"parallel": tasks.get("toy-messages")} | facts
        return Inputs(tiny, list(study), options, folder, checkpoints=checkpoints, **facts)

    return made


@pytest.fixture
def gather(make):
    return make()
