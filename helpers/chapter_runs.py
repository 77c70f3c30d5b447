"""Execute chapters, side by side, and keep what they show for a build of the book."""

from __future__ import annotations

import asyncio
import os
import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import nbclient
import nbformat
from jupyter_cache import get_cache
from jupyter_cache.base import CacheBundleIn
from myst_nb.core.read import myst_nb_reader_plugin

from helpers import book
from helpers.errors import HelpfulError
from helpers.machine import cores

# More chapters at once would want more memory than a laptop has.
_AT_ONCE = 4
_THREADS = "OMP_NUM_THREADS"
_COLOURS = re.compile("\x1b\\[[0-9;]*m")


def execute(
    made: nbformat.NotebookNode, folder: Path, environment: Mapping[str, str] | None = None
) -> str:
    """Execute a notebook in place.

    Args:
        made: the notebook.
        folder: its working directory.
        environment: environment variables, besides those of this process.

    Returns:
        The error of the cell that failed, or "".
    """
    return asyncio.run(_execute(made, folder, environment or {}))


async def _execute(
    made: nbformat.NotebookNode, folder: Path, environment: Mapping[str, str]
) -> str:
    # Kernels choose the backend of figures themselves.
    mine = {name: value for name, value in os.environ.items() if name != "MPLBACKEND"}
    client = nbclient.NotebookClient(
        made,
        timeout=None,
        kernel_name="python3",
        resources={"metadata": {"path": folder}},
        record_timing=False,  # or a cell would no longer be what the cache knows
        extra_arguments=["--IPKernelApp.log_level=40"],
    )
    try:
        await client.async_execute(env=mine | dict(environment))
    except nbclient.exceptions.CellExecutionError as error:
        return str(error)
    return ""


def execute_missing(chapters: Sequence[Path], folder: Path) -> list[str]:
    """Execute every chapter whose code the cache does not know, several at once.

    Args:
        chapters: chapter files.
        folder: the cache of executed notebooks, that myst-nb reads as well. It knows a chapter by
            its code cells; whoever calls empties it when helpers or data changed.

    Returns:
        The names of the chapters that were executed.

    Raises:
        HelpfulError: cells failed; the text has the error of each chapter that did.
    """
    cache = get_cache(folder)
    missing = {}
    for file in chapters:
        made = myst_nb_reader_plugin(str(file))
        try:
            cache.match_cache_notebook(made)
        except KeyError:
            missing[file] = made
    failures = []
    for file, (failure, seconds) in asyncio.run(_side_by_side(missing)).items():
        if failure:
            failures.append(f"{file.name}: {_COLOURS.sub('', failure)}")
            continue
        bundle = CacheBundleIn(missing[file], str(file), data={"execution_seconds": seconds})
        cache.cache_notebook_bundle(bundle, overwrite=True)
    if failures:
        raise HelpfulError("\n\n".join(["the book was not built:", *failures]))
    return [file.stem for file in missing]


async def _side_by_side(
    notebooks: Mapping[Path, nbformat.NotebookNode],
) -> dict[Path, tuple[str, float]]:
    """Execute notebooks, each with its share of the processor; return error and seconds of each."""
    workers = max(1, min(_AT_ONCE, cores(), len(notebooks)))
    environment = {
        book.BUILDING: "1",
        _THREADS: os.environ.get(_THREADS) or str(max(1, cores() // workers)),
    }
    free = asyncio.Semaphore(workers)

    async def work(file: Path, made: nbformat.NotebookNode) -> tuple[str, float]:
        async with free:
            began = time.monotonic()
            failure = await _execute(made, file.parent, environment)
        seconds = time.monotonic() - began
        print(f"{file.stem}: {'failed after ' * bool(failure)}{book.duration(seconds)}", flush=True)
        return failure, seconds

    done = await asyncio.gather(*(work(*pair) for pair in notebooks.items()))
    return dict(zip(notebooks, done, strict=True))
