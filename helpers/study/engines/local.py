"""Work through a plan in this process; every other engine is this loop in more processes."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from helpers.errors import HelpfulError
from helpers.study.engines.signals import terminated
from helpers.study.execution import MissingParent, Stopped, Worker, execute, record_failure
from helpers.study.plans import Plan
from helpers.study.records import FINISHED
from helpers.study.store import Store

if TYPE_CHECKING:
    from helpers.study.engines import Order

POLL = 0.5
SAME_FAILURES = 5
Watch = Callable[[str, str], None]


def run(order: Order) -> None:
    """Do an order in this process, one run after another."""
    with terminated() as stop:
        work = Queue(order.plan, order.runs, order.store, keep=order.keep, stop=stop)
        work.through(order.line.finished, order.line.write)


class Queue:
    """Runs that wait to be done by this process, possibly beside others on the same store."""

    def __init__(
        self,
        plan: Plan,
        runs: Sequence[str],
        store: Store,
        *,
        keep: bool,
        stop: Callable[[], bool],
        since: int = 0,
        worker: Worker | None = None,
    ) -> None:
        """Take on some runs of a plan.

        Args:
            plan: the plan.
            runs: ids of the runs to do.
            store: where records go.
            keep: whether checkpoints stay when nothing in the plan needs them any more.
            stop: when true, the run in hand writes its state and the queue ends.
            since: ``store.now()`` of when the whole began; a run that failed later is not tried
                again. 0: now.
            worker: trains and evaluates; by default ``helpers.study.execution.fine_tuning``.
        """
        self.plan, self.store, self.keep, self.stop = plan, store, keep, stop
        self.waiting = deque(runs)
        self.worker = worker
        self.failures: dict[str, str] = {}
        self._since = since or store.now()
        self._alike: tuple[str, int] = ("", 0)

    def through(self, finished: Watch, show: Callable[[str], None] = lambda text: None) -> None:
        """Do every run that nobody else does, and wait for the others.

        Args:
            finished: called with the id and status of every run that has its record.
            show: called with a description of what is being done.

        Raises:
            Stopped: ``stop`` said so.
            StoreFull: no room is left.
            HelpfulError: run after run failed for the same reason.
        """
        postponed = 0
        while self.waiting:
            if self.stop():
                raise Stopped("stopped as asked; the same command goes on where this one ended.")
            run = self.waiting.popleft()
            status = self._turn(run, show)
            if status:
                postponed = 0
                finished(run, status)
            elif self.waiting and self.waiting[-1] == run:
                postponed += 1
                if postponed >= len(self.waiting):
                    time.sleep(POLL)
                    postponed = 0

    def _turn(self, run: str, show: Callable[[str], None]) -> str:
        """Return the status of a run that is over, or "" after putting it back into the queue."""
        over = self._over(run)
        if over:
            return over
        parent = self.plan.parents[run]
        if parent and self.store.checkpoint(parent) is None:
            return self._after(parent, run)
        claim = self.store.claim(run)
        if claim is None:
            self.waiting.append(run)
            return ""
        with claim:
            return self._over(run) or self._do(run, show)

    def _after(self, parent: str, run: str) -> str:
        """Put a run behind the one it starts from, or give it up with that one."""
        if parent in self.failures:
            why = f"failed: its intermediate stage {parent} {self.failures[parent]}"
            record_failure(self.plan.job(run), self.store, why)
            return why
        if self.store.claimed(parent):
            self.waiting.append(run)
        else:
            self.waiting.extendleft([run, parent])
        return ""

    def _do(self, run: str, show: Callable[[str], None]) -> str:
        name = self.plan.job(run).name
        show(name)
        try:
            status = execute(
                self.plan,
                run,
                self.store,
                stop=self.stop,
                progress=lambda done, total: show(f"{name}: step {done}/{total}"),
                worker=self.worker,
            )
        except MissingParent:
            self.waiting.appendleft(run)
            return ""
        if status.startswith("failed"):
            self.failures[run] = status
        self._give_up_if_alike(status)
        retire(self.plan, self.plan.parents[run] or run, self.store, self.keep)
        return status

    def _give_up_if_alike(self, status: str) -> None:
        text, times = self._alike
        self._alike = (status, times + 1 if text == status else 1)
        if status.startswith("failed") and self._alike[1] >= SAME_FAILURES:
            raise HelpfulError(
                f"{SAME_FAILURES} runs in a row ended with the same error, so the rest was not "
                f"tried: {status} See the logs in {self.store.folder / 'logs'}."
            )

    def _over(self, run: str) -> str:
        """Return the status of a run that needs nothing more, else ""."""
        status = self.store.status(run)
        if status.startswith("failed") and self.store.written(run) > self._since:
            self.failures[run] = status
            return status
        return status if status in FINISHED and self._has_what_follows(run) else ""

    def _has_what_follows(self, run: str) -> bool:
        """Return whether nothing still lacks the checkpoint of a run."""
        if self.plan.stages[run] == "target" or self.store.checkpoint(run):
            return True
        return not self.keep and not _unfinished(self.plan, run, self.store)


def retire(plan: Plan, parent: str, store: Store, keep: bool) -> None:
    """Delete a checkpoint once every run of the plan that starts from it is over."""
    if keep or plan.stages[parent] != "intermediate" or _unfinished(plan, parent, store):
        return
    store.drop_checkpoint(parent)


def _unfinished(plan: Plan, parent: str, store: Store) -> list[str]:
    runs = plan.dependents.get(parent, [])
    return [run for run in runs if store.status(run) not in FINISHED]
