from helpers import tasks
from helpers.models import training
from helpers.models.settings import Settings
from helpers.similarity.early import Early
from helpers.similarity.gather import Dyad, Gatherer, Side

SHORT = Settings(epochs=2, learning_rate=1e-2, batch_tokens=256, train_rows=40, dev_rows=30)


def test_is_the_score_of_a_run_that_starts_from_the_intermediate(tiny, trained):
    tuned = trained("toy-same", 0).load()
    task = tasks.get("toy-intents")
    before = tuned.encoder.model.state_dict()["embeddings.word_embeddings.weight"].clone()
    value = Early(SHORT)(tuned, task, 3)
    expected = training.fine_tune(tuned.encoder, [task], SHORT, 3).outcome.dev["toy-intents"]
    assert value == expected and 0 < value <= 1
    after = tuned.encoder.model.state_dict()["embeddings.word_embeddings.weight"]
    assert (before == after).all()


def test_another_length_is_another_array(tiny, trained, options, tmp_path):
    keys = set()
    for rows in (20, 40):
        early = Early(SHORT.override({"train_rows": rows}))
        study = [tasks.get("toy-same"), tasks.get("toy-intents")]
        given = Gatherer(
            tiny, study, checkpoints=trained, options=options, folder=tmp_path, early=early
        )
        keys.add(given.wanted("early.score", Dyad(Side("toy-same", 0), Side("toy-intents", 0))).key)
    assert len(keys) == 2
