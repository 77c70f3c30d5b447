"""Tables of the results chapters, for a study of any size.

A chapter must read as well for six dyads as for ninety. Where a study does not carry an analysis, its
table here has no rows and says why in ``attrs["note"]``; ``helpers.plots`` and ``helpers.book.table``
show that sentence, and `at` gives a missing value, which prose writes as "not available".
"""

from __future__ import annotations

from helpers.findings.choice import choices, predicted, rows_trained, unseen, unseen_table
from helpers.findings.explanations import (
    FAMILY,
    MEDIATOR,
    headroom,
    language_slopes,
    mediated,
    overlap,
    unseen_families,
)
from helpers.findings.gained import (
    baselines,
    english,
    grid,
    intervals,
    mean_gain,
    published,
    runs,
    shares,
)
from helpers.findings.limits import (
    DESIGNS,
    calibrated,
    fingerprint,
    headroom_mistake,
    nearest_design,
    rate,
    recycled,
    relabelled,
    reversed_ndcg,
    store_relabelled,
)
from helpers.findings.question import (
    SPECIFIED,
    centred,
    confirmed,
    controls,
    curve,
    influence,
    kept,
    language_rows,
    measures,
    methods,
    null_slopes,
    parts,
    slopes,
    unlearnt,
    variants,
)
from helpers.findings.scope import BOTH, departures, standing, usable
from helpers.findings.tables import at, ends, note, nothing, p_value, said, tried

__all__ = [
    "BOTH",
    "DESIGNS",
    "FAMILY",
    "MEDIATOR",
    "SPECIFIED",
    "at",
    "baselines",
    "calibrated",
    "centred",
    "choices",
    "confirmed",
    "controls",
    "curve",
    "departures",
    "ends",
    "english",
    "fingerprint",
    "grid",
    "headroom",
    "headroom_mistake",
    "influence",
    "intervals",
    "kept",
    "language_rows",
    "language_slopes",
    "mean_gain",
    "measures",
    "mediated",
    "methods",
    "nearest_design",
    "note",
    "nothing",
    "null_slopes",
    "overlap",
    "p_value",
    "parts",
    "predicted",
    "published",
    "rate",
    "recycled",
    "relabelled",
    "reversed_ndcg",
    "rows_trained",
    "runs",
    "said",
    "shares",
    "slopes",
    "standing",
    "store_relabelled",
    "tried",
    "unlearnt",
    "unseen",
    "unseen_families",
    "unseen_table",
    "usable",
    "variants",
]
