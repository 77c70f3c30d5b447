"""Fine-tuned encoders for the measures that need them, from memory, a store, or trained on demand."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from helpers import tasks
from helpers.errors import MissingData
from helpers.similarity.catalogue import Undefined

if TYPE_CHECKING:
    from torch import nn

    from helpers.models.encoders import Encoder
    from helpers.models.training import Settings, Tuned
    from helpers.tasks import Task

__all__ = ["Checkpoint", "Trained", "fingerprint", "first_of", "from_store", "resolve"]


@dataclass(frozen=True)
class Checkpoint:
    """A fine-tuned encoder that is loaded when it is needed.

    Attributes:
        key: text that changes whenever the weights do, such as the id of a run.
        load: gives the tuned encoder with its heads.
    """

    key: str
    load: Callable[[], Tuned]


Source = (
    Callable[[str, int], "Checkpoint | Tuned | None"] | Mapping[Any, "Checkpoint | Tuned"] | None
)


def resolve(source: Source, task: str, seed: int) -> Checkpoint:
    """Return the checkpoint of a task and a seed.

    Args:
        source: a mapping from (task, seed), or from task alone for the first seed, or a function of
            both, to a checkpoint or a tuned encoder.
        task: name of the task it was tuned on.
        seed: which of several runs.

    Raises:
        Undefined: there is none.
    """
    found: Checkpoint | Tuned | None = None
    if callable(source):
        found = source(task, seed)
    elif source is not None:
        found = source.get((task, seed))
        if found is None and seed == 0:
            found = source.get(task)
    if found is None:
        raise Undefined(f"there is no encoder fine-tuned on {task} with seed {seed}.")
    if isinstance(found, Checkpoint):
        return found
    tuned = found
    return Checkpoint(fingerprint(tuned), lambda: tuned)


def first_of(*sources: Source) -> Callable[[str, int], Checkpoint | None]:
    """Return a source that asks several in turn.

    Args:
        *sources: mappings or functions as ``resolve`` takes them; ``None`` has nothing.
    """

    def found(task: str, seed: int) -> Checkpoint | None:
        for source in sources:
            try:
                return resolve(source, task, seed)
            except Undefined:
                continue
        return None

    return found


def fingerprint(tuned: Tuned) -> str:
    """Return a hash of the weights of a tuned encoder and its heads, frozen tables left out."""
    from helpers.similarity.gradients import parameters

    digest = hashlib.sha256(tuned.encoder.sha256.encode())
    state: list[tuple[str, Any]] = list(parameters(tuned.encoder).items())
    table = tuned.encoder.model.get_input_embeddings().weight
    if not tuned.encoder.freeze_embeddings:
        state.append(("embeddings", table))
    for name in sorted(tuned.heads):
        state += [(f"{name}/{key}", value) for key, value in tuned.heads[name].state_dict().items()]
    for name, value in state:
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(value.detach().cpu().numpy()).tobytes())
    return digest.hexdigest()


def from_store(encoder: Encoder, folder: str | Path | None = None) -> dict[Any, Checkpoint]:
    """Return the intermediate stages that a store of runs holds for an encoder.

    Args:
        encoder: the plain encoder that they were tuned from.
        folder: the store; by default that of the project.

    Returns:
        A mapping from (task, seed) to checkpoint, of runs of condition ``single`` that are done; of
        several runs of one task and seed, the latest.

    Raises:
        MissingData: the store has none.
    """
    from helpers.study.store import Store

    store = Store(folder)
    scores = store.scores(stage="intermediate")
    chosen = scores[
        (scores["encoder"] == encoder.name)
        & (scores["condition"] == "single")
        & (scores["status"] == "done")
    ]
    found: dict[Any, Checkpoint] = {}
    runs = chosen.sort_values("utc")
    for run, task, seed in zip(runs["run"], runs["intermediate"], runs["seed"], strict=True):
        path = store.checkpoint(run)
        if path is not None:
            found[task, int(seed)] = Checkpoint(run, _Stored(encoder, path, task))
    if not found:
        raise MissingData(
            f"{store} has no finished intermediate stage of encoder {encoder.name!r}. Run a plan "
            "with its intermediates first: helpers.study.run(plan)."
        )
    return found


@dataclass(frozen=True)
class _Stored:
    """Loads the encoder of a finished run, and its heads where they were kept."""

    encoder: Encoder
    folder: Path
    task: str

    def __call__(self) -> Tuned:
        from helpers import data
        from helpers.models import training

        known = data.with_labels(tasks.get(self.task))
        encoder = training.load_encoder(self.encoder, self.folder)
        heads, settings = _heads(self.folder, known, self.encoder.dimension)
        return training.Tuned(encoder, heads, {known.name: known}, settings)


def _heads(folder: Path, task: Task, width: int) -> tuple[dict[str, nn.Module], Settings]:
    """Heads kept beside an encoder, none where an older run kept none, and how they pool."""
    from helpers.files import load_tensors
    from helpers.formats import get
    from helpers.models.training import Settings

    path = folder / "heads.safetensors"
    if not path.exists():
        return {}, Settings()
    tensors, facts = load_tensors(path)
    prefix = f"{task.name}/"
    own = {n[len(prefix) :]: t for n, t in tensors.items() if n.startswith(prefix)}
    head = get(task.format).head(task, width, 0.0)
    head.load_state_dict(own)
    return {task.name: head}, Settings(pooling=facts["pooling"])


@dataclass
class Trained:
    """Fine-tunes on demand and keeps what it made: pass it where checkpoints are asked for.

    Nothing trains unless this is given: a chapter that only reads stored values never does.

    Attributes:
        encoder: the plain encoder.
        settings: settings of every run, or a function from the task that is trained on.
        folder: where encoders and heads are kept.
    """

    encoder: Encoder
    settings: Settings | Callable[[Task], Settings]
    folder: Path
    _known: dict[tuple[str, int], Checkpoint] = field(default_factory=dict, repr=False)

    def __call__(self, task: str, seed: int) -> Checkpoint | None:
        """Return the checkpoint of a task and a seed; retrieval tasks without training have none."""
        facts = tasks.get(task)
        trainer = tasks.get(facts.train_with) if facts.train_with else facts
        if not trainer.source.serving("en", "train") or "en" not in trainer.languages:
            return None
        settings = self.settings(trainer) if callable(self.settings) else self.settings
        asked = (trainer.name, self.encoder.sha256, asdict(settings), seed)
        key = hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()
        return Checkpoint(key, lambda: self._load(trainer.name, settings, seed, key))

    def _load(self, task: str, settings: Settings, seed: int, key: str) -> Tuned:
        from helpers import data
        from helpers.models import training

        place = Path(self.folder) / key[:2] / key
        known = data.with_labels(tasks.get(task))
        if not (place / "heads.safetensors").exists():
            tuned = training.fine_tune(self.encoder, [known], settings, seed)
            if tuned.outcome.status != "done":
                raise Undefined(f"fine-tuning on {task} with seed {seed} {tuned.outcome.status}.")
            tuned.save_encoder(place)
            return tuned
        return _Stored(self.encoder, place, task)()
