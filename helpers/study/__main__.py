"""Run a study from the command line: ``python -m helpers.study``."""

import sys

from helpers.study import main

# Processes of a pool import this module, and must not start a study.
if __name__ == "__main__":
    sys.exit(main())
