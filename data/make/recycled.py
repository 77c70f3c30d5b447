"""Make data/results/recycled.csv: others' fine-tuned models, with and without what decides the answer.

    python -m data.make.recycled roberta-base_table.csv

The table is IBM's, see ``helpers.stats.calibration.TABLE``; a copy with another checksum is refused.
"""

import sys
from pathlib import Path

import pandas as pd

from helpers.files import write_atomic
from helpers.stats import calibration

OUTPUT = Path(__file__).parents[1] / "results" / "recycled.csv"
LOST = 10  # points: what a row that lost more is called collapsed for


def compared(table: pd.DataFrame) -> pd.DataFrame:
    """Return the comparison for all rows, and without identity pairs and collapsed rows."""
    own, lost = table["identity_pair"], table["gain"] < -LOST
    parts = {
        "all": table,
        "without identity pairs": table[~own],
        "without collapsed rows": table[~lost],
        "without both": table[~own & ~lost],
    }
    found = {name: calibration.compare_recycled(part) for name, part in parts.items()}
    return pd.concat(found, names=["which"]).reset_index()


if __name__ == "__main__":
    found = compared(calibration.read_recycled(sys.argv[1]))
    print(found.to_string(index=False, float_format="%.3f"))
    write_atomic(OUTPUT, found.to_csv(index=False, float_format="%.6g").encode())
