"""Write the golden values anew: ``python -m tests.golden [TABLE ...]``; say why in the commit."""

import json
import sys
import tempfile
from pathlib import Path

from tests.golden import tables


def main(names):
    with tempfile.TemporaryDirectory() as folder, tables.one_thread():
        for name in names or tables.TABLES:
            tables.file(name).write_text(tables.text(name, Path(folder)), encoding="utf-8")
    made = json.dumps(tables.machine(), indent=1) + "\n"
    (tables.FOLDER / "machine.json").write_text(made, encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
