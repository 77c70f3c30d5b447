"""Make data/results/<profile>-relabelled.csv: how often the analysis rejects with similarity relabelled.

python -m data.make.relabelled pilot
"""

import hashlib
import sys

import pandas as pd

from helpers import results
from helpers.files import write_atomic
from helpers.stats import calibration, confirmatory, gains

SIZES = (1000, 20)  # the largest is shown; the other is there to be repeated by a test


def prepared(profile: str) -> pd.DataFrame:
    """Return the dyads of a committed study as the analysis sees them."""
    rows = gains.gains(gains.usable(results.load(profile))[0])
    similarity = results.similarities(profile, added=False)
    return confirmatory.prepared(gains.dyads(rows, similarity=similarity), confirmatory.PRIMARY)


def fingerprint(whole: pd.DataFrame) -> str:
    """Return a checksum of the gains and similarities that an analysis sees."""
    keys = ["intermediate", "target"]
    rows = whole[[*keys, "gain", confirmatory.PRIMARY]].sort_values(keys).round(6)
    return hashlib.sha256(rows.to_csv(index=False).encode()).hexdigest()[:16]


if __name__ == "__main__":
    profile, whole = sys.argv[1], prepared(sys.argv[1])
    counts = [
        calibration.permuted_tables(whole, confirmatory.PRIMARY, n).assign(size=n) for n in SIZES
    ]
    out = pd.concat(counts).assign(gains=fingerprint(whole))
    write_atomic(results.FOLDER / f"{profile}-relabelled.csv", out.to_csv(index=False).encode())
