import matplotlib
import pytest

from helpers.similarity.pictures import pair_figure

matplotlib.use("Agg")


@pytest.fixture(autouse=True)
def close():
    import matplotlib.pyplot as plt

    yield
    plt.close("all")


def test_four_panels_of_one_pair(tiny, trained, tmp_path):
    figure = pair_figure(
        "toy-same", "toy-intents", tiny, checkpoints=trained, rows=60, folder=tmp_path
    )
    texts, pieces, labels, features = figure.axes
    assert [len(points.get_offsets()) for points in texts.collections] == [60, 60]
    assert features.get_title() == "features of toy-intents after toy-same"
    assert sum(len(points.get_offsets()) for points in features.collections) == 60
    shares = [[bar.get_height() for bar in bars] for bars in labels.containers]
    assert all(sum(bars) == pytest.approx(100) for bars in shares)
    assert len(pieces.collections[0].get_offsets()) > 20


def test_what_does_not_exist_says_why(tiny, tmp_path):
    figure = pair_figure("toy-same", "toy-messages", tiny, rows=60, folder=tmp_path)
    assert "retrieval task" in figure.axes[2].texts[0].get_text()
    assert "retrieval task" in figure.axes[3].texts[0].get_text()
    plain = pair_figure("toy-same", "toy-intents", tiny, rows=60, folder=tmp_path)
    assert plain.axes[3].get_title() == "features of toy-intents before any tuning"
