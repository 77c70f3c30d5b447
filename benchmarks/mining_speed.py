"""Mining and search against the bare matrix products that they need, with peak memory.

    python -m benchmarks.mining_speed [--rows 100000] [--pool 1000000] [--store]

Mining of n x n vectors needs one product of all pairs; taking the neighbours of both sides from two
products, as the published code does, needs two. The bare products run in tiles of the same size
into one buffer. Each part runs in a process of its own, so that peak memory is its own.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.table import Measurement, store

Started = tuple[float, float]  # wall and CPU clock
WIDTH = 384
QUERIES = 2000


def vectors(rows: int, seed: int) -> np.ndarray:
    """Random vectors around a common direction, as an encoder's are."""
    chance = np.random.default_rng(seed)
    values = chance.standard_normal((rows, WIDTH), dtype=np.float32)
    values += 1
    return values


def bare_products(rows: int) -> Started:
    """One product of all pairs, tile by tile into one buffer, and nothing else."""
    import torch

    from helpers.metrics.mining import TILE

    x, y = (torch.from_numpy(vectors(rows, seed)) for seed in (0, 1))
    tile = torch.empty(TILE, TILE)
    started = time.perf_counter(), time.process_time()
    for i in range(0, rows, TILE):
        for j in range(0, rows, TILE):
            one, other = x[i : i + TILE], y[j : j + TILE]
            whole = len(one) == len(other) == TILE
            torch.mm(one, other.T, out=tile if whole else None)
    return started


def mining(rows: int) -> Started:
    from helpers.metrics.mining import mine

    x, y = vectors(rows, 0), vectors(rows, 1)
    y[: rows // 2] += 2 * x[: rows // 2]
    started = time.perf_counter(), time.process_time()
    mined = mine(x, y)
    right = (mined.source == mined.target) & (mined.source < rows // 2)
    assert right.sum() == rows // 2, "translations were lost"
    return started


def pool(rows: int) -> Started:
    """Search a memory-mapped pool of 16-bit vectors."""
    from helpers.metrics.mining import nearest

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "pool.npy"
        mapped = np.lib.format.open_memmap(path, "w+", np.float16, (rows, WIDTH))
        for start in range(0, rows, 50_000):
            part = vectors(min(50_000, rows - start), start)
            mapped[start : start + len(part)] = part
        queries = np.array(mapped[:: rows // QUERIES][:QUERIES], np.float32)
        del mapped
        started = time.perf_counter(), time.process_time()
        found = nearest(queries, np.load(path, mmap_mode="r"), 20)
        assert (found.index[:, 0] == np.arange(0, rows, rows // QUERIES)[:QUERIES]).all()
        return started


PARTS = {"bare_products": bare_products, "mining": mining, "pool": pool}


def run(part: str, rows: int) -> dict[str, float]:
    """Run a part in a process of its own; return wall and CPU seconds and peak memory in MB."""
    command = [sys.executable, "-m", "benchmarks.mining_speed", "--part", part, "--rows", str(rows)]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def measurements(rows: int, pool_rows: int) -> list[Measurement]:
    """Run the parts in turn, products before and after mining."""
    before, mined, after = (
        run(part, rows) for part in ("bare_products", "mining", "bare_products")
    )
    bare = {key: (before[key] + after[key]) / 2 for key in before}
    search = run("pool", pool_rows)
    threads = int(mined["threads"])
    size = f"{rows // 1000}k"
    result = [
        Measurement(
            f"mining_{size}{'_cpu' * (clock == 'cpu')}_vs_bare_matmul",
            mined[clock],
            "s",
            "one bare product of all pairs",
            bare[clock],
            bare[clock] / mined[clock],
            threads=threads,
            rows=rows,
            note=f"both directions, width {WIDTH}",
        )
        for clock in ("wall", "cpu")
    ] + [
        Measurement(
            f"mining_{size}_peak_memory",
            mined["memory"],
            "MB",
            threads=threads,
            rows=rows,
            note="whole process",
        ),
        Measurement(
            "search_pool_wall",
            search["wall"],
            "s",
            threads=threads,
            rows=pool_rows,
            note=f"{QUERIES} queries, 20 neighbours, pool in 16 bits on disk",
        ),
        Measurement(
            "search_pool_peak_memory",
            search["memory"],
            "MB",
            threads=threads,
            rows=pool_rows,
            note="whole process, with the pages of the pool that are in memory",
        ),
    ]
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--pool", type=int, default=1_000_000)
    parser.add_argument("--part", choices=PARTS)
    parser.add_argument("--store", action="store_true", help="put the figures into the table")
    options = parser.parse_args()
    if options.part:
        import torch

        wall, cpu = PARTS[options.part](options.rows)
        now = time.perf_counter(), time.process_time()
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        facts = {"wall": now[0] - wall, "cpu": now[1] - cpu, "memory": memory}
        print(json.dumps(facts | {"threads": torch.get_num_threads()}))
        return
    rows = measurements(options.rows, options.pool)
    for row in rows:
        print(f"{row.name:32} {row.value:9.1f} {row.unit}  ratio {row.ratio:.2f}  {row.note}")
    if options.store:
        store(rows)


if __name__ == "__main__":
    main()
