"""Helpers of the book.

Whatever trains imports this package first, and it is the one place that says how threads wait. The many
small operations of training wait for each other's threads: with OpenMP's default of spinning, one busy
neighbour on two cores brings training from about 3,100 to 77 tokens a second; with a bounded wait it
keeps about 1,400, and 95 % of its speed alone. Libraries read this once, when PyTorch is loaded, so
``import helpers`` comes before ``import torch``, and whoever set a policy keeps it. Worker processes of a
pool get one thread each (``OMP_NUM_THREADS=1``).
"""

import os

if not {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"} & os.environ.keys():
    os.environ["GOMP_SPINCOUNT"] = "1000"
