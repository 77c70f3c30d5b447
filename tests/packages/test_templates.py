from random import Random

import pytest

from helpers.data.packages import Piece, Unusable, parse, sampled
from helpers.errors import BadRows


def words(name, random):
    if name == "none":
        raise Unusable(name)
    return {"room": "(kitchen|hall)", "n": "7"}[name]


def drawn(template, **rules):
    random = Random(0)
    draws = [sampled(template, random, rules, words) for _ in range(300)]
    return {"".join(piece.text for piece in pieces) for pieces in draws}


def test_every_construct_gives_exactly_its_sentences():
    assert drawn("turn (on|off)") == {"turn on", "turn off"}
    assert drawn("[please] go") == {"please go", " go"}
    assert drawn("timer[s|z]") == {"timer", "timers", "timerz"}
    assert drawn("(a;b;c)") == {"a b c", "a c b", "b a c", "b c a", "c a b", "c b a"}
    assert drawn("a|b c") == {"a", "b c"}
    assert drawn("<x> [<x>]!", x="(1|2)") == {"1 !", "2 !", "1 1!", "1 2!", "2 1!", "2 2!"}
    assert drawn("((a|b)[c]|d)") == {"a", "ac", "b", "bc", "d"}
    mixed = {"f c!", "g c!", "c f!", "c g!", " c!", "c !"}
    assert drawn("([<x>];c)!", x="f|g") == mixed
    # Slots keep their name, and their words apart.
    pieces = sampled("light in {room:area} {n}%", Random(1), {}, words)
    assert [p.slot for p in pieces] == ["", "area", "", "n", ""]
    assert pieces[1].text in ("kitchen", "hall") and pieces[-1] == Piece("%")


def test_brackets_that_do_not_match_are_refused_and_missing_or_endless_rules_unusable():
    for template in ("(a", "a)", "[a)", "{a", "a>", "(a|b;c)"):
        with pytest.raises(BadRows, match="template"):
            parse(template)
    for template, rules in (("<y>", {}), ("<x>", {"x": "a <x>"}), ("{none}", {})):
        with pytest.raises(Unusable):
            sampled(template, Random(0), rules, words)
