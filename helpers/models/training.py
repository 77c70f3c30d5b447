"""Fine-tune an encoder on one task, on several, or with masked language modelling mixed in.

Reads from top to bottom: what a run gives back, the sets it reads, the order of its steps, the run.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from helpers import formats, metrics, tasks
from helpers.errors import BadRecord, BadRows, HelpfulError
from helpers.files import load_tensors, save_tensors
from helpers.formats import Batch, Encoded, FormatBase
from helpers.formats.encoded import shuffled_batches, split
from helpers.formats.labels import Masked
from helpers.models import network
from helpers.models.encoders import Encoder
from helpers.models.network import Network
from helpers.models.settings import Outcome, Settings
from helpers.tasks import Source, Task

MLM = "mlm"
_CHECK_EVERY = 25
_STATE = "state.safetensors"


class Interrupted(HelpfulError):
    """A run stopped because it was asked to; its state is written down and it can be resumed."""


@dataclass
class Tuned:
    """A fine-tuned encoder with its heads."""

    encoder: Encoder  # with all the pieces it had before
    heads: dict[str, nn.Module] = field(default_factory=dict)  # by training task
    tasks: dict[str, Task] = field(default_factory=dict)  # with their label sets filled in
    settings: Settings = Settings()
    outcome: Outcome = field(default_factory=Outcome)

    def save_encoder(self, folder: Path) -> None:
        """Write the encoder for a later stage, and its heads for measures of task similarity."""
        state = self.encoder.model.state_dict()
        if not _table(self.encoder.model).weight.requires_grad:  # the base has the same table
            state.pop(_table_name(self.encoder.model))
        facts = {"encoder": self.encoder.name, "sha256": self.encoder.sha256}
        save_tensors(folder / "encoder.safetensors", state, facts)
        heads = {
            f"{task}/{name}": tensor
            for task, head in self.heads.items()
            for name, tensor in head.state_dict().items()
        }
        if heads:
            save_tensors(folder / "heads.safetensors", heads, {"pooling": self.settings.pooling})


def load_encoder(base: Encoder, folder: Path) -> Encoder:
    """Return the encoder that :meth:`Tuned.save_encoder` wrote; ``base`` is left unchanged."""
    state, facts = load_tensors(folder / "encoder.safetensors")
    if facts.get("sha256") != base.sha256:
        raise BadRecord(
            f"{folder} was trained from encoder {facts.get('encoder')!r} with other weights than "
            f"{base.name!r}: load the encoder it was trained from, or redo its run."
        )
    tuned = base.prune(np.zeros(0, np.int64))
    name = _table_name(tuned.model)
    table = state.pop(name, None)
    expected = {n: tuple(t.shape) for n, t in tuned.model.state_dict().items() if n != name}
    whole = table is None or table.shape == _table(base.model).weight.shape
    if {n: tuple(t.shape) for n, t in state.items()} != expected or not whole:
        raise BadRecord(
            f"{folder} holds {len(state)} tensors that do not fit the {base.layers} layers of "
            f"{base.name!r}: load the encoder with the layers it was trained with, or redo its run."
        )
    tuned.model.load_state_dict(state, strict=False)
    return _with_table(base, tuned, table)


def _table(model: Any) -> nn.Embedding:
    """Return an encoder's word embeddings."""
    return model.get_input_embeddings()


def _table_name(model: nn.Module) -> str:
    table = _table(model).weight
    return next(name for name, value in model.named_parameters() if value is table)


def _with_table(base: Encoder, tuned: Encoder, rows: Tensor | None) -> Encoder:
    """Give a tuned, pruned encoder all of its base's pieces back, and the tuned ``rows`` of them."""
    full = _table(base.model)
    weight = full.weight.detach()  # shared where it was frozen
    if rows is not None:
        weight = weight.clone()
        kept = None if len(rows) == len(weight) else tuned.kept
        weight[slice(None) if kept is None else base.remap(kept)] = rows.detach().cpu()
    table = nn.Embedding.from_pretrained(weight, rows is None, full.padding_idx)
    tuned.model.set_input_embeddings(table)
    tuned.model.config.vocab_size = len(weight)
    tuned.model.config.pad_token_id = base.model.config.pad_token_id
    embeddings: Any = getattr(tuned.model, "embeddings", None)
    if hasattr(embeddings, "padding_idx"):
        embeddings.padding_idx = table.padding_idx
    return replace(tuned, kept=base.kept)


# What a run reads: rows loaded, tokenised, and the encoder cut down to their pieces


@dataclass
class Prepared:
    """Training and development sets of one run."""

    encoder: Encoder  # what training starts from
    pruned: Encoder | None = None  # with only the pieces that are read; training changes it, once
    tasks: dict[str, Task] = field(default_factory=dict)  # with their label sets filled in
    formats: dict[str, FormatBase] = field(default_factory=dict)
    train: dict[str, Encoded] = field(default_factory=dict)
    dev: dict[str, tuple[Any, Encoded]] = field(default_factory=dict)  # plain rows and tokenised
    outcome: Outcome = field(default_factory=Outcome)  # rows, sources, fingerprints, notes so far

    def prune(self) -> None:
        """Cut the encoder down to the pieces that the sets use, and number these like it."""
        everything = [*self.train.values(), *(encoded for _, encoded in self.dev.values())]
        pieces = [np.unique(encoded.tokens) for encoded in everything]
        pieces += [np.unique(e.per_token["target"]) for e in everything if "target" in e.per_token]
        used = np.unique(np.concatenate(pieces))
        self.pruned = small = self.encoder.prune(used[used >= 0])
        for encoded in everything:
            encoded.tokens = small.remap(encoded.tokens).astype(np.int32)
            if "target" in encoded.per_token:
                target = encoded.per_token["target"]
                target[target >= 0] = small.remap(target[target >= 0])


def training_task(task: Task) -> Task:
    """Return the task whose English rows train a target (the target itself by default)."""
    return tasks.get(task.train_with) if task.train_with else task


def prepare(encoder: Encoder, tasks: Sequence[Task], settings: Settings, seed: int) -> Prepared:
    """Load and tokenise the English rows of some training tasks, and prune the encoder to them."""
    prepared = Prepared(encoder)
    for task in tasks:
        _add_task(prepared, task, settings, seed)
    if settings.mlm_share:
        _add_text(prepared, settings)
    prepared.prune()
    return prepared


def _add_task(prepared: Prepared, task: Task, settings: Settings, seed: int) -> None:
    from helpers.data import rows as load_rows

    train = load_rows(task, "en", "train", settings.train_rows or None)
    dev = load_rows(task, "en", "dev", settings.dev_rows or None)
    if not len(train):
        raise BadRows(f"task {task.name!r} has no usable English training rows.")
    task = replace(task, labels=tuple(train.labels) or task.labels)
    rows = _shuffled_labels(list(train), task, seed) if settings.shuffle_labels else train
    format_ = formats.get(task.format)
    longest = min(task.max_length, settings.max_length, prepared.encoder.max_length)
    encoded = format_.encode(task, rows, prepared.encoder, longest, True)
    if not len(encoded):
        raise BadRows(
            f"task {task.name!r}: none of its {len(train)} English training rows can be learnt from "
            f"as a {task.format} row; left out: {dict(encoded.skipped)}."
        )
    prepared.tasks[task.name], prepared.formats[task.name] = task, format_
    prepared.train[task.name] = encoded
    if len(dev) and task.format != "retrieval":
        coded = format_.encode(task, dev, prepared.encoder, longest, False)
        prepared.dev[task.name] = (dev, coded)
    outcome = prepared.outcome
    outcome.rows += len(train)
    outcome.sources[task.name], outcome.fingerprints[task.name] = train.source, train.fingerprint
    for reason, count in encoded.skipped.items():
        outcome.notes.append(f"{task.name}: {count} training rows skipped, {reason}")


def _add_text(prepared: Prepared, settings: Settings) -> None:
    """Add text in many languages, for masked language modelling beside the tasks."""
    from helpers.data import texts as load_texts

    found = [load_texts(language, settings.mlm_rows or None) for language in settings.mlm_languages]
    if not found:
        raise BadRows("masked language modelling was asked for, but mlm_languages is empty.")
    text = [
        {"id": f"{part.language}-{place}", "text": line}
        for part in found
        for place, line in enumerate(part)
    ]
    prints = "".join(part.fingerprint for part in found)
    prepared.outcome.sources[MLM] = "; ".join(dict.fromkeys(part.source for part in found))
    prepared.outcome.fingerprints[MLM] = hashlib.sha256(prints.encode()).hexdigest()
    task = Task(MLM, "intermediate", "retrieval", Source("rows", MLM))
    longest = min(settings.max_length, prepared.encoder.max_length)
    prepared.tasks[MLM], prepared.formats[MLM] = task, Masked()
    prepared.train[MLM] = Masked().encode(task, text, prepared.encoder, longest, True)


def _shuffled_labels(rows: list[dict[str, Any]], task: Task, seed: int) -> list[dict[str, Any]]:
    """Return the rows with their answers permuted: same text, same label counts, no relation."""
    order = np.random.default_rng([seed, 7]).permutation(len(rows))
    if task.format == "choice":
        # A rank means nothing where there are fewer choices, so rows of a kind exchange theirs.
        kinds = np.array([len(row["choices"]) for row in rows])
        order[np.argsort(kinds, kind="stable")] = order[np.argsort(kinds[order], kind="stable")]
    if task.format in ("pair", "choice"):
        return [row | {"label": rows[j]["label"]} for row, j in zip(rows, order, strict=True)]
    if task.format == "tagging":
        tags = iter([tag for j in order for tag in rows[j]["tags"]])
        return [row | {"tags": [next(tags) for _ in row["tags"]]} for row in rows]
    raise HelpfulError(
        f"shuffled labels are defined for pair, choice and tagging tasks, not for {task.format!r} "
        f"({task.name})."
    )


# Which batch of which task every step takes: fixed by the seed, the same after a restart


def schedule(
    encoded: Mapping[str, Encoded], settings: Settings, seed: int, packed: bool = False
) -> list[tuple[str, np.ndarray]]:
    """Return every step of a run, in order: a task and the sequences it takes.

    A single task is passed over ``epochs`` times; several are drawn in proportion to their rows; text
    for masked language modelling takes its share of the steps. ``packed``: sequences are laid end to
    end as they come, so that padding costs nothing.

    Source:
        Raffel et al. (2020), section 3.5.2: examples-proportional mixing.
    """

    def generator(stream: int, epoch: int) -> np.random.Generator:
        return np.random.default_rng([seed, stream, epoch])

    def batches(part: Encoded, stream: int, epoch: int) -> list[np.ndarray]:
        return shuffled_batches(
            part, settings.batch_tokens, generator(stream, epoch), packed=packed
        )

    def endless(part: Encoded, stream: int) -> Iterator[np.ndarray]:
        epoch = 0
        while True:
            yield from batches(part, stream, epoch)
            epoch += 1

    streams = {n: endless(part, 2 + place) for place, (n, part) in enumerate(encoded.items())}
    mains = {name: part for name, part in encoded.items() if name != MLM}
    total = max(1, math.ceil(settings.epochs * sum(len(batches(p, 0, 0)) for p in mains.values())))
    if len(encoded) == 1:
        (name,) = encoded
        return [(name, next(streams[name])) for _ in range(total)]
    sizes = np.array([part.rows for part in mains.values()], float)
    shares = dict(zip(mains, (sizes / sizes.sum()).tolist(), strict=True))
    if MLM in encoded:
        shares = {name: share * (1 - settings.mlm_share) for name, share in shares.items()}
        shares[MLM] = settings.mlm_share
        total = math.ceil(total / (1 - settings.mlm_share))
    names = list(shares)
    drawn = generator(1, 0).choice(len(names), size=total, p=np.array(list(shares.values())))
    return [(names[i], next(streams[names[i]])) for i in drawn]


def rate(step: int, total: int, settings: Settings) -> float:
    """Return the learning rate of a step: linear warm-up, then linear decay to 0."""
    rising = max(1, round(total * settings.warmup))
    if step < rising:
        return settings.learning_rate * (step + 1) / rising
    return settings.learning_rate * (total - step) / max(1, total - rising)


# The run


def fine_tune(
    encoder: Encoder,
    tasks: Sequence[Task],
    settings: Settings,
    seed: int,
    *,
    checkpoint: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
    stop: Callable[[], bool] | None = None,
    device: torch.device | None = None,
) -> Tuned:
    """Fine-tune an encoder on the English rows of one or several tasks.

    Every step takes length-sorted rows of one task up to a token budget. The state with the best
    English development score is kept; no other language is ever looked at.

    Args:
        encoder: where to start from; left unchanged.
        tasks: tasks to train on, each through its own training task.
        settings: how to train.
        seed: fixes the heads, the shuffling and the mixing.
        checkpoint: folder for the state of an unfinished run; a run that finds one goes on.
        progress: called with (steps done, steps in all) after every step.
        stop: asked after every step; when true the state is written and the run stops.
        device: where to run; default: the first GPU, else the CPU.

    Returns:
        The tuned encoder, its heads and the outcome. ``outcome.status`` is ``"collapsed"`` where
        the loss was no longer a number; the weights are then those before training.

    Raises:
        BadRows: a task without usable training rows.
        Interrupted: ``stop`` said so.
        HelpfulError: memory ran out even for a single row.
    """
    prepared = prepare(encoder, [training_task(task) for task in tasks], settings, seed)
    tuned = Run(prepared, settings, seed, device).train(checkpoint, progress, stop)
    # The C library keeps freed memory for itself, and every peak would stay: 20 runs grew by 1.9 GB.
    if sys.platform == "linux" and hasattr(library := ctypes.CDLL(None), "malloc_trim"):
        library.malloc_trim(0)
    return tuned


class Run:
    """One fine-tuning run on prepared sets: its network, its optimiser and its place in the schedule."""

    def __init__(
        self,
        prepared: Prepared,
        settings: Settings,
        seed: int,
        device: torch.device | None = None,
    ) -> None:
        """Build the network of a run; the prepared sets serve one run only."""
        if prepared.pruned is None:
            raise HelpfulError(
                "these sets have trained their encoder already; call prepare() for another run."
            )
        self.prepared, self.settings, self.seed = prepared, settings, seed
        self.small, prepared.pruned = prepared.pruned, None
        self.device = device or network.best_device()
        self.precision = network.resolve_precision(settings.precision, self.device)
        self.outcome = replace(
            prepared.outcome,
            seed=seed,
            device=network.describe(self.device),
            precision=self.precision,
            notes=list(prepared.outcome.notes),
        )
        torch.manual_seed(seed)
        model: Any = self.small.model
        pieces = {"pieces": len(_table(model).weight)}
        heads = {
            name: prepared.formats[name].head(
                replace(task, settings={**task.settings, **pieces}),
                self.small.dimension,
                settings.dropout,
            )
            for name, task in prepared.tasks.items()
        }
        _set_dropout(model, settings.dropout)
        packed = network.suits(model, self.device, self.precision)
        self.network = Network(model, heads, prepared.formats, packed=packed).to(self.device)
        model.requires_grad_(True)  # whatever an earlier stage left alone
        _table(model).weight.requires_grad_(not self.small.freeze_embeddings)
        if settings.gradient_checkpointing:  # the method was renamed within transformers 5
            new, old = "activation_checkpointing_enable", "gradient_checkpointing_enable"
            getattr(model, new if hasattr(model, new) else old)()
        if settings.compile:
            _compile_layers(self.small)
        self.trained = {n: p for n, p in self.network.named_parameters() if p.requires_grad}
        self.optimizer = _optimizer(self.trained, settings)
        # On a CPU products are faster where neighbours are of one length, so batches stay sorted.
        unsorted = packed and self.device.type == "cuda"
        self.steps = schedule(prepared.train, settings, seed, packed=unsorted)
        self.micro = settings.batch_tokens
        self.losses = torch.zeros(len(self.steps), device=self.device)
        self.best: dict[str, Tensor] = {}

    @functools.cached_property
    def identity(self) -> str:
        """Hash of what a written state belongs to; to be asked for before the first step."""
        facts = self.settings.facts() | {
            "checkpoint_seconds": None,
            "seed": self.seed,
            "data": self.outcome.fingerprints,
            "steps": len(self.steps),
            "packed": self.network.packed,
        }
        digest = hashlib.sha256(repr(sorted(facts.items())).encode())
        for name, value in self.network.state_dict().items():
            digest.update(name.encode())
            digest.update(value.flatten()[:16].cpu().numpy().tobytes())
        return digest.hexdigest()

    def train(
        self,
        checkpoint: Path | None = None,
        progress: Callable[[int, int], None] | None = None,
        stop: Callable[[], bool] | None = None,
    ) -> Tuned:
        """Make every step that is left and return what was kept."""
        settings, total = self.settings, len(self.steps)
        before, done = (0.0, 0) if checkpoint is None else self._resume(checkpoint)
        started = written = time.monotonic()
        times = max(1, settings.evaluations)
        evaluate_at = {total} | {round(total * k / times) for k in range(1, times)}
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        self.network.train()
        while done < total and self.outcome.status == "done":
            self._step(done)
            done += 1
            if progress is not None:
                progress(done, total)
            if done % _CHECK_EVERY == 0 or done in evaluate_at:
                self._check(done)
            if done in evaluate_at and self.outcome.status == "done":
                self._evaluate(done)
            now = time.monotonic()
            leaving = done < total and stop is not None and stop()
            if checkpoint and (leaving or now - written > settings.checkpoint_seconds):
                self._write(checkpoint, done, before + now - started)
                written = now
            if leaving:
                raise Interrupted(f"stopped after {done} of {total} steps; the run can be resumed.")
        self.outcome.seconds = before + time.monotonic() - started
        return self._finished(done)

    def _step(self, place: int) -> None:
        name, batch = self.steps[place]
        for group in self.optimizer.param_groups:
            group["lr"] = rate(place, len(self.steps), self.settings) * group["scale"]
        while True:
            try:
                self.losses[place] = self._gradients(name, batch)
                break
            except (RuntimeError, MemoryError) as error:
                if not network.out_of_memory(error):
                    raise
                self._halve(int(self.prepared.train[name].lengths[batch].max()), error)
        if self.settings.clip:
            nn.utils.clip_grad_norm_(list(self.trained.values()), self.settings.clip)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def _gradients(self, name: str, batch: np.ndarray) -> Tensor:
        """Add up the gradients of one step over its micro-batches; return the mean loss."""
        encoded = self.prepared.train[name]
        weight = max(1.0, self.network.formats[name].weight(encoded, batch))
        whole = self.micro >= self.settings.batch_tokens
        total = torch.zeros((), device=self.device)
        for part in [batch] if whole else split(encoded, batch, self.micro):
            with network.autocast(self.precision, self.device):
                loss = self.network(
                    Batch.collate(encoded, part, self.device), name, self.settings.pooling
                )
            (loss * (1 / weight)).backward()
            total += loss.detach() / weight
        return total

    def _halve(self, longest: int, error: BaseException) -> None:
        """Use half the tokens per forward pass from now on, after memory ran out."""
        self.optimizer.zero_grad(set_to_none=True)
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        if self.micro <= longest:
            raise HelpfulError(
                f"memory ran out with {self.micro} tokens per forward pass; lower max_length or "
                "batch_tokens, set gradient_checkpointing, or use a larger device."
            ) from error
        self.micro //= 2
        self.outcome.notes.append(f"memory ran out: {self.micro} tokens per forward pass from here")

    def _check(self, done: int) -> None:
        """Look at the losses so far and the weights; one that is no number ends the run."""
        finite = torch.isfinite(self.losses[:done])
        why = ""
        if not bool(finite.all()):
            why = f"the loss was no longer a number at step {int((~finite).nonzero()[0]) + 1}"
        elif not bool(torch.stack([p.isfinite().all() for p in self.trained.values()]).all()):
            why = f"a weight was no longer a number after step {done}"
        if why:
            self.outcome.status = "collapsed"
            self.outcome.notes.append(why)

    def _evaluate(self, done: int) -> None:
        """Score the English development rows and keep the state if it is the best so far."""
        values = {}
        for name, (rows, encoded) in self.prepared.dev.items():
            task, format_ = self.prepared.tasks[name], self.prepared.formats[name]
            raw = network.outputs(
                self.network,
                name,
                encoded,
                budget=4 * self.micro,
                device=self.device,
                precision=self.precision,
                pooling=self.settings.pooling,
            )
            main = metrics.main(task.metric)
            values[name] = formats.task_scores(
                task, rows, format_.decode(task, rows, encoded, raw)
            )[main]
            constant = formats.task_scores(task, rows, format_.constant(task, rows))
            self.outcome.floor[name] = constant[main]
        kept = self.outcome.dev
        better = not kept or np.mean(list(values.values())) >= np.mean(list(kept.values()))
        if better or not values:
            self.outcome.dev, self.outcome.kept_step = values, done
            last = done == len(self.steps)
            self.best = {} if last else {n: p.detach().clone() for n, p in self.trained.items()}

    def _finished(self, done: int) -> Tuned:
        """Return the state that was kept, on the CPU and with all pieces; of a collapsed run the base."""
        prepared, outcome = self.prepared, self.outcome
        outcome.steps, outcome.peak_memory_mb = done, network.peak_memory_mb(self.device)
        outcome.tokens = sum(
            int(prepared.train[name].lengths[batch].sum()) for name, batch in self.steps[:done]
        )
        if outcome.status == "collapsed":
            return Tuned(prepared.encoder, {}, prepared.tasks, self.settings, outcome)
        outcome.loss = float(self.losses[-max(1, done // 10) :].mean())
        with torch.no_grad():
            for name, value in self.best.items():
                self.trained[name].copy_(value)
        self.network.to("cpu").eval()
        self.network.unpack()
        table = _table(self.small.model).weight
        tuned = _with_table(prepared.encoder, self.small, table if table.requires_grad else None)
        known = {name: task for name, task in prepared.tasks.items() if name != MLM}
        heads = {name: self.network.head(name) for name in known}
        return Tuned(tuned, heads, known, self.settings, outcome)

    def _write(self, checkpoint: Path, done: int, seconds: float) -> None:
        state: dict[str, Tensor] = {f"now/{n}": p for n, p in self.trained.items()}
        state |= {f"best/{n}": p for n, p in self.best.items()}
        for name, parameter in self.trained.items():
            for moment, value in self.optimizer.state[parameter].items():
                state[f"adam/{moment}/{name}"] = value
        state |= {"losses": self.losses, "random": torch.get_rng_state()}
        if self.device.type == "cuda":
            state["random_cuda"] = torch.cuda.get_rng_state(self.device)
        facts = {
            "done": done,
            "seconds": seconds,
            "micro": self.micro,
            "kept_step": self.outcome.kept_step,
            "dev": self.outcome.dev,
            "floor": self.outcome.floor,
            "notes": self.outcome.notes,
            "identity": self.identity,
        }
        save_tensors(checkpoint / _STATE, state, facts)

    def _resume(self, checkpoint: Path) -> tuple[float, int]:
        """Take up a written state; one that is damaged or of another run is left aside."""
        identity = self.identity  # while the weights are still those it starts from
        if not (checkpoint / _STATE).exists():
            return 0.0, 0
        try:
            state, facts = load_tensors(checkpoint / _STATE)
        except BadRecord as error:
            self.outcome.notes.append(f"started again: {error}")
            return 0.0, 0
        if facts.get("identity") != identity:
            self.outcome.notes.append(
                "started again: the written state is of other data, settings or weights"
            )
            return 0.0, 0
        with torch.no_grad():
            for name, parameter in self.trained.items():
                parameter.copy_(state[f"now/{name}"])
                moments = {
                    moment: state[f"adam/{moment}/{name}"].to(parameter.device)
                    for moment in ("step", "exp_avg", "exp_avg_sq")
                    if f"adam/{moment}/{name}" in state
                }
                if moments:  # a head that no step has trained yet has none
                    self.optimizer.state[parameter] = moments
        self.best = {
            name.removeprefix("best/"): tensor.to(self.device)
            for name, tensor in state.items()
            if name.startswith("best/")
        }
        self.losses.copy_(state["losses"])
        torch.set_rng_state(state["random"])
        if self.device.type == "cuda" and "random_cuda" in state:
            torch.cuda.set_rng_state(state["random_cuda"], self.device)
        self.micro = facts["micro"]
        self.outcome.kept_step, self.outcome.dev = facts["kept_step"], facts["dev"]
        self.outcome.floor, self.outcome.notes = facts["floor"], facts["notes"]
        return float(facts["seconds"]), int(facts["done"])


def _optimizer(trained: dict[str, nn.Parameter], settings: Settings) -> torch.optim.AdamW:
    """Return AdamW without weight decay, heads and encoder at rates of their own."""
    heads = [p for name, p in trained.items() if name.startswith("heads.")]
    others = [p for name, p in trained.items() if not name.startswith("heads.")]
    return torch.optim.AdamW(
        [{"params": others, "scale": 1.0}, {"params": heads, "scale": settings.head_rate}],
        lr=settings.learning_rate,
        eps=1e-8,
        weight_decay=0.0,
        fused=True,
    )


def _compile_layers(encoder: Encoder) -> None:
    """Compile one layer for any number of tokens; the others share its code."""
    stacks = [m for m in encoder.model.modules() if isinstance(m, nn.ModuleList)]
    for layer in next((stack for stack in stacks if len(stack) == encoder.layers), ()):
        layer.compile(dynamic=True)


def _set_dropout(model: nn.Module, share: float) -> None:
    """Set the encoder's own dropout; packed attention has none, so attention never drops."""
    config: Any = model.config
    config.hidden_dropout_prob, config.attention_probs_dropout_prob = share, 0.0
    for name, module in model.named_modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0 if "attention.self" in name else share
