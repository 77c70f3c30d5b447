"""Run a study from the command line: ``python -m helpers.study``."""

import sys

from helpers.study import main

sys.exit(main())
