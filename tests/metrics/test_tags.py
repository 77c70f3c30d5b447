import random
import warnings

import pytest
import seqeval.metrics
from hypothesis import given
from hypothesis import strategies as st
from seqeval.scheme import IOB2

from helpers.errors import BadRows, UnknownName
from helpers.metrics import span_f1, spans, token_accuracy

UPOS = "ADJ ADP ADV AUX CCONJ DET NOUN NUM PART PRON PROPN PUNCT SCONJ SYM VERB X".split()
NER = "O B-PER I-PER B-ORG I-ORG B-LOC I-LOC".split()
ODD = "O B I E S . .-A B-A I-A E-A S-A X-O B- -X X B-A-C I-B-C O-A _".split()


def corpora(inventory):
    """Pairs of gold and predicted sentences with the same numbers of tokens."""
    tag = st.sampled_from(inventory)
    sentence = st.lists(st.tuples(tag, tag), min_size=1, max_size=8)
    sides = lambda found: [[[pair[side] for pair in one] for one in found] for side in (0, 1)]  # noqa: E731
    return st.lists(sentence, min_size=1, max_size=4).map(sides)


def installed(golds, predictions, **options):
    names = ("f1", "precision", "recall")
    scores = {name: getattr(seqeval.metrics, f"{name}_score") for name in names}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return {name: score(golds, predictions, **options) for name, score in scores.items()}


def conlleval(tags):
    """The published chunking rules of seqeval 0.0.12, one position after the other."""
    found, before, kind_before, begin = [], "O", "", 0
    for place, tag in enumerate([*tags, "O"]):
        letter, kind = tag[0], tag.split("-")[-1]
        closes = before in "ES" or (before in "BI" and letter in "BSO")
        if closes or (before not in "O." and kind_before != kind):
            found.append((kind_before, begin, place - 1))
        opens = letter in "BS" or (before in "ESO" and letter in "EI")
        if opens or (letter not in "O." and kind_before != kind):
            begin = place
        before, kind_before = letter, kind
    return found


def micro(golds, predictions):
    right, given_spans = (
        {(n, *span) for n, sentence in enumerate(side) for span in conlleval(sentence)}
        for side in (golds, predictions)
    )
    total = len(right) + len(given_spans)
    return 2 * len(right & given_spans) / total if total else 0.0


STRICT = {"mode": "strict", "scheme": IOB2}


@pytest.mark.parametrize(
    ("variant", "inventory", "options"),
    [*(("seqeval-1.2.2", tags, {}) for tags in (UPOS, NER, ODD)), ("plain", NER, STRICT)],
)
def test_variants_equal_the_installed_package(variant, inventory, options):
    @given(corpora(inventory))
    def check(both):
        ours = span_f1(*both[::-1], variant)
        for key, value in installed(*both, **options).items():
            assert ours[key] == pytest.approx(value, abs=1e-12), key

    check()


@given(corpora(UPOS), st.randoms())
def test_default_equals_the_sequential_rules_of_0_0_12_in_any_order(both, chance):
    golds, predictions = both
    found = span_f1(predictions, golds)
    assert found["f1"] == pytest.approx(micro(*both), abs=1e-12)
    order = chance.sample(range(len(golds)), len(golds))
    moved = span_f1([predictions[i] for i in order], [golds[i] for i in order])
    assert moved == pytest.approx(found)
    # Plain F1 of bare tags is token accuracy.
    plain = span_f1(predictions, golds, "plain")
    assert plain["f1"] == pytest.approx(plain["token_accuracy"], abs=1e-12)


@given(st.lists(st.sampled_from(ODD), max_size=10))
def test_spans_are_those_of_the_sequential_rules(tags):
    assert spans(tags) == conlleval(tags)


# Figures printed by seqeval 0.0.12 itself; random.Random(seed) redraws the sentences.
GOLDEN = [
    # seed, inventory, f1, precision, recall
    (1, UPOS, 0.6919642857142857, 0.6888888888888889, 0.695067264573991),
    (1, NER, 0.6780626780626781, 0.6878612716763006, 0.6685393258426966),
    (1, ODD, 0.7225433526011561, 0.7142857142857143, 0.7309941520467836),
    (2, UPOS, 0.6414253897550111, 0.6371681415929203, 0.6457399103139013),
    (2, NER, 0.7011494252873564, 0.7093023255813954, 0.6931818181818182),
    (2, ODD, 0.5730659025787966, 0.5681818181818182, 0.5780346820809249),
]


@pytest.mark.parametrize(("seed", "inventory", "f1", "precision", "recall"), GOLDEN)
def test_default_gives_the_figures_of_seqeval_0_0_12(seed, inventory, f1, precision, recall):
    chance = random.Random(seed)
    golds = [[chance.choice(inventory) for _ in range(12)] for _ in range(20)]
    predictions = [
        [tag if chance.random() < 0.7 else chance.choice(inventory) for tag in sentence]
        for sentence in golds
    ]
    ours, right = span_f1(predictions, golds), {"f1": f1, "precision": precision, "recall": recall}
    assert {key: ours[key] for key in right} == pytest.approx(right, abs=1e-12)


def test_the_readings_of_known_sentences():
    assert spans(["NOUN", "NOUN", "VERB", "DET", "NOUN"])[0] == ("NOUN", 0, 1)
    # A stray inside tag is a span for seqeval and none for plain.
    assert spans(["O", "I-PER"]) == [("PER", 1, 1)]
    assert spans(["O", "I-PER"], "plain") == []
    assert spans(["B-PER", "I-ORG", "I-ORG"], "plain") == [("PER", 0, 0)]
    # Only 1.2.2 confuses the two conjunctions.
    golds, predictions = [["VERB", "CCONJ"]], [["VERB", "SCONJ"]]
    assert span_f1(predictions, golds, "seqeval-1.2.2")["f1"] == 1.0
    assert span_f1(predictions, golds)["f1"] == 0.5
    # Tag ids are named by labels.
    by_name = span_f1([["B-PER", "O"]], [["B-PER", "I-PER"]])
    assert span_f1([[1, 0]], [[1, 2]], labels=NER) == by_name
    # A bare tag beside the same one is no span of its own.
    score = span_f1(["NOUN VERB VERB DET NOUN".split()], ["NOUN NOUN VERB DET NOUN".split()])
    assert (score["f1"], score["token_accuracy"]) == (0.5, 0.8)
    ragged = span_f1([["B-PER"], ["O"]], [["B-PER"], ["O", "O"]], ragged=True)
    assert ragged == {"f1": 1.0, "precision": 1.0, "recall": 1.0}
    # Accuracy counts tokens, not sentences.
    found = token_accuracy([["X"], ["X", "X", "X"]], [["Y"], ["X", "X", "X"]])
    assert found == {"token_accuracy": 0.75}


REFUSED = {
    "sentence 1 has 2 tokens and 1 predicted": ([["O"], ["O"]], [["O"], ["O", "O"]]),
    "1 predictions for 2 sentences": ([["O"]], [["O"], ["O"]]),
    "no sentences": ([], []),
    "not a tag": ([[""]], [["O"]]),
    "labels=": ([[3]], [["O"]]),
    r"seqeval-0\.0\.12": ([["O"]], [["O"]], "seqeval"),
}


@pytest.mark.parametrize("said", REFUSED)
def test_sentences_of_unequal_length_and_bad_tags_are_refused(said):
    with pytest.raises((BadRows, UnknownName), match=said):
        span_f1(*REFUSED[said])
    with pytest.raises(BadRows, match="no tokens"):
        token_accuracy([[]], [[]])
