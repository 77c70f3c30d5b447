"""Fine-tune an encoder on one task, on several, or with masked language modelling mixed in."""

import ctypes
import functools
import hashlib
import itertools
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

from helpers import data, formats, metrics, tasks
from helpers.errors import BadRecord, BadRows, HelpfulError
from helpers.files import load_tensors, save_tensors
from helpers.formats import Batch, Encoded, FormatBase, shuffled_batches, split
from helpers.formats.labels import Masked
from helpers.models import Outcome, Settings, network
from helpers.models.encoders import Encoder
from helpers.models.network import Network
from helpers.tasks import Source, Task

MLM = "mlm"
_STATE = "state.safetensors"
_MOMENTS = ("step", "exp_avg", "exp_avg_sq")  # what AdamW keeps of each parameter
_KEPT = ("dev", "floor", "kept_step", "notes")  # what an unfinished run has come to


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
        model: Any = self.encoder.model
        frozen = {name for name, value in model.named_parameters() if not value.requires_grad}
        # What was left alone, the word table at most, is that of the base.
        state = {name: v for name, v in model.state_dict().items() if name not in frozen}
        facts = {"encoder": self.encoder.name, "sha256": self.encoder.sha256}
        save_tensors(folder / "encoder.safetensors", state, facts)
        heads: dict[str, Tensor] = {}
        for task, head in self.heads.items():
            heads |= {f"{task}/{name}": value for name, value in head.state_dict().items()}
        if heads:
            save_tensors(folder / "heads.safetensors", heads, {"pooling": self.settings.pooling})


def load_encoder(base: Encoder, folder: Path) -> Encoder:
    """Return the encoder that :meth:`Tuned.save_encoder` wrote; ``base`` is left unchanged."""
    state, facts = load_tensors(folder / "encoder.safetensors")
    if facts.get("sha256") != base.sha256:
        other = f"{folder} was trained from encoder {facts.get('encoder')!r} with other weights"
        raise BadRecord(f"{other} than {base.name!r}: load those, or redo its run.")
    tuned = base.prune(())
    own: Any = tuned.model
    (name,) = [name for name, value in own.named_parameters() if value is tuned.table.weight]
    table = state.pop(name, None)
    try:
        own.load_state_dict(state | {name: tuned.table.weight})
        return _with_table(base, tuned, table)
    except RuntimeError as error:
        misfit = f"the tensors in {folder} do not fit the {base.layers} layers of {base.name!r}"
        raise BadRecord(f"{misfit}: load it with the layers it had, or redo its run.") from error


def _with_table(base: Encoder, tuned: Encoder, rows: Tensor | None) -> Encoder:
    """Give a tuned, pruned encoder all of its base's pieces back, and the tuned ``rows`` of them."""
    weight = base.table.weight.detach()  # shared where it was frozen
    if rows is not None:
        weight = weight.clone()
        kept = None if len(rows) == len(weight) else tuned.kept
        weight[slice(None) if kept is None else base.remap(kept)] = rows.detach().cpu()
    model: Any = tuned.model
    table = nn.Embedding.from_pretrained(weight, rows is None, base.table.padding_idx)
    model.set_input_embeddings(table)
    model.config.vocab_size = len(weight)
    model.config.pad_token_id = base.model.config.pad_token_id
    if hasattr(getattr(model, "embeddings", None), "padding_idx"):
        model.embeddings.padding_idx = table.padding_idx
    return replace(tuned, kept=base.kept)


@dataclass
class Prepared:
    """Training and development sets of one run, which trains the pruned encoder in place."""

    encoder: Encoder  # what training starts from
    pruned: Encoder = field(init=False)  # with only the pieces that are read
    tasks: dict[str, Task] = field(default_factory=dict)  # with their label sets filled in
    formats: dict[str, FormatBase] = field(default_factory=dict)
    train: dict[str, Encoded] = field(default_factory=dict)
    dev: dict[str, tuple[Any, Encoded]] = field(default_factory=dict)  # plain rows and tokenised
    outcome: Outcome = field(default_factory=Outcome)  # rows, sources, fingerprints, notes so far

    def add(self, task: Task, format_: FormatBase, train: Any, dev: Any, longest: int) -> Encoded:
        """Tokenise the rows of a task, at most ``longest`` pieces each; return those to train on."""
        longest = min(task.max_length, longest, self.encoder.max_length)
        self.tasks[task.name], self.formats[task.name] = task, format_
        self.train[task.name] = format_.encode(task, train, self.encoder, longest, True)
        if len(dev):
            self.dev[task.name] = dev, format_.encode(task, dev, self.encoder, longest, False)
        return self.train[task.name]

    def prune(self) -> None:
        """Cut the encoder down to the pieces of the sets, and number these like it."""
        everything = [*self.train.values(), *(encoded for _, encoded in self.dev.values())]
        targets = [e.per_token["target"] for e in everything if "target" in e.per_token]
        pieces = [np.unique(ids) for ids in (*(e.tokens for e in everything), *targets)]
        used = np.unique(np.concatenate(pieces))
        self.pruned = small = self.encoder.prune(used[used >= 0])
        for encoded in everything:
            encoded.tokens = small.remap(encoded.tokens).astype(np.int32)
        for target in targets:
            target[target >= 0] = small.remap(target[target >= 0])


def training_task(task: Task) -> Task:
    """Return the task whose English rows train a target (the target itself by default)."""
    return tasks.get(task.train_with) if task.train_with else task


def prepare(encoder: Encoder, tasks: Sequence[Task], settings: Settings, seed: int) -> Prepared:
    """Load and tokenise the English rows of some training tasks, and prune the encoder to them."""
    prepared = Prepared(encoder)
    outcome = prepared.outcome
    for task in tasks:
        train = data.rows(task, "en", "train", settings.train_rows or None)
        dev = data.rows(task, "en", "dev", settings.dev_rows or None)
        task = replace(task, labels=tuple(train.labels) or task.labels)
        rows = _shuffled_labels(list(train), task, seed) if settings.shuffle_labels else train
        tested, format_ = () if task.format == "retrieval" else dev, formats.get(task.format)
        encoded = prepared.add(task, format_, rows, tested, settings.max_length)
        if not len(encoded):
            none = f"none of its {len(train)} English training rows can be learnt from"
            left = f"left out: {dict(encoded.skipped)}"
            raise BadRows(f"task {task.name!r}: {none} as a {task.format} row; {left}.")
        outcome.rows += len(train)
        outcome.sources[task.name] = train.source
        outcome.fingerprints[task.name] = train.fingerprint
        for reason, count in encoded.skipped.items():
            outcome.notes.append(f"{task.name}: {count} training rows skipped, {reason}")
    if settings.mlm_share:
        _add_text(prepared, settings)
    prepared.prune()
    return prepared


def _add_text(prepared: Prepared, settings: Settings) -> None:
    """Add text in many languages, for masked language modelling beside the tasks."""
    if not settings.mlm_languages:
        raise BadRows("masked language modelling was asked for, but mlm_languages is empty.")
    found = [data.texts(language, settings.mlm_rows or None) for language in settings.mlm_languages]
    text = [{"text": line} for part in found for line in part]
    source, longest = Source("rows", MLM), settings.max_length
    task = Task(MLM, "intermediate", "retrieval", source, max_length=longest)
    prepared.add(task, Masked(), text, (), longest)
    prints = "".join(part.fingerprint for part in found)
    prepared.outcome.sources[MLM] = "; ".join(dict.fromkeys(part.source for part in found))
    prepared.outcome.fingerprints[MLM] = hashlib.sha256(prints.encode()).hexdigest()


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
    formed = f"not for {task.format!r} ({task.name})"
    raise HelpfulError(f"labels are shuffled for pair, choice and tagging tasks, {formed}.")


def schedule(
    encoded: Mapping[str, Encoded], settings: Settings, seed: int, packed: bool = False
) -> list[tuple[str, np.ndarray]]:
    """Return every step of a run, in order: a task and the sequences it takes; packed: unsorted."""

    def batches(part: Encoded, stream: int, epoch: int) -> list[np.ndarray]:
        # Fixed by the seed, the same after a restart.
        generator = np.random.default_rng([seed, stream, epoch])
        return shuffled_batches(part, settings.batch_tokens, generator, packed=packed)

    def endless(part: Encoded, stream: int) -> Iterator[np.ndarray]:
        return (batch for epoch in itertools.count() for batch in batches(part, stream, epoch))

    # A single task is passed over ``epochs`` times; several are drawn in proportion to their rows
    # (Raffel et al., 2020, section 3.5.2); masked text takes its share of the steps.
    streams = {n: endless(part, 2 + place) for place, (n, part) in enumerate(encoded.items())}
    mains = {name: part for name, part in encoded.items() if name != MLM}
    total = max(1, math.ceil(settings.epochs * sum(len(batches(p, 0, 0)) for p in mains.values())))
    sizes = np.array([part.rows * (name in mains) for name, part in encoded.items()], float)
    names, odds = list(encoded), sizes / sizes.sum()
    if MLM in encoded:
        odds = np.where(sizes > 0, odds * (1 - settings.mlm_share), settings.mlm_share)
        total = math.ceil(total / (1 - settings.mlm_share))
    drawn = np.random.default_rng([seed, 1, 0]).choice(len(names), size=total, p=odds)
    return [(names[i], next(streams[names[i]])) for i in drawn]


def rate(step: int, total: int, settings: Settings) -> float:
    """Return the learning rate of a step: linear warm-up, then linear decay to 0."""
    rising = max(1, round(total * settings.warmup))
    if step < rising:
        return settings.learning_rate * (step + 1) / rising
    return settings.learning_rate * (total - step) / max(1, total - rising)


def fine_tune(
    encoder: Encoder,
    tasks: Sequence[Task],
    settings: Settings,
    seed: int,
    *,
    checkpoint: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
    stop: Callable[[], bool] | None = None,
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

    Returns:
        The tuned encoder, its heads and the outcome. ``outcome.status`` is ``"collapsed"`` where
        the loss was no longer a number; the weights are then those before training.

    Raises:
        BadRows: a task without usable training rows.
        Interrupted: ``stop`` said so.
        HelpfulError: memory ran out even for a single row.
    """
    prepared = prepare(encoder, [training_task(task) for task in tasks], settings, seed)
    tuned = Run(prepared, settings, seed).train(checkpoint, progress, stop)
    # The C library keeps freed memory for itself, and every peak would stay: 20 runs grew by 1.9 GB.
    if sys.platform == "linux" and hasattr(library := ctypes.CDLL(None), "malloc_trim"):
        library.malloc_trim(0)
    return tuned


class Run:
    """One fine-tuning run on prepared sets: its network, its optimiser and its place in the schedule."""

    def __init__(self, prepared: Prepared, settings: Settings, seed: int) -> None:
        """Build the network around the pruned encoder, which this run trains in place."""
        self.prepared, self.settings, self.seed = prepared, settings, seed
        self.small = prepared.pruned
        # Heads start from the seed's numbers; that of masked text counts the pieces that are left.
        torch.manual_seed(seed)
        model: Any = self.small.model
        pieces, heads = {"pieces": len(self.small.table.weight)}, dict[str, nn.Module]()
        for name, task in prepared.tasks.items():
            task = replace(task, settings=pieces)
            heads[name] = prepared.formats[name].head(task, self.small.dimension, settings.dropout)
        # Packed attention has no dropout, so attention never drops.
        shares = {"hidden_dropout_prob": settings.dropout, "attention_probs_dropout_prob": 0.0}
        model.config.update(shares)
        for name, module in model.named_modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0 if "attention.self" in name else settings.dropout
        self.network = joined = Network(model, heads, prepared.formats, settings.precision, None)
        self.device = joined.device
        facts: dict[str, Any] = {"seed": seed, "notes": list(prepared.outcome.notes)}
        facts |= {"precision": joined.precision, "device": network.describe(self.device)}
        self.outcome = replace(prepared.outcome, **facts)
        model.requires_grad_(True)  # whatever an earlier stage left alone
        self.small.table.weight.requires_grad_(not self.small.freeze_embeddings)
        if settings.gradient_checkpointing:  # the method was renamed within transformers 5
            new, old = "activation_checkpointing_enable", "gradient_checkpointing_enable"
            getattr(model, new if hasattr(model, new) else old)()
        if settings.compile:  # one layer for any number of tokens; the others share its code
            stacks = [m for m in model.modules() if isinstance(m, nn.ModuleList)]
            for layer in next((s for s in stacks if len(s) == self.small.layers), ()):
                layer.compile(dynamic=True)
        # The encoder learns at the rate that is set, the heads at a multiple of it.
        self.trained = {n: p for n, p in self.network.named_parameters() if p.requires_grad}
        above = [p for name, p in self.trained.items() if name.startswith("heads.")]
        below = [p for name, p in self.trained.items() if not name.startswith("heads.")]
        groups = [{"params": below, "scale": 1.0}, {"params": above, "scale": settings.head_rate}]
        self.optimizer = torch.optim.AdamW(groups, weight_decay=0.0, fused=True)
        # On a CPU products are faster where neighbours are of one length, so batches stay sorted.
        unsorted = joined.packed and self.device.type == "cuda"
        self.steps = schedule(prepared.train, settings, seed, packed=unsorted)
        self.micro = settings.batch_tokens
        self.losses = torch.zeros(len(self.steps), device=self.device)
        self.best: dict[str, Tensor] = {}

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
        evaluate_at = {round(total * k / times) for k in range(1, times + 1)}
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        self.network.train()
        while done < total and self.outcome.status == "done":
            self._step(done)
            done += 1
            if progress is not None:
                progress(done, total)
            # The loss is looked at now and then only: a GPU would wait for each look.
            if done % 25 == 0 or done in evaluate_at:
                self._check(done)
            if done in evaluate_at and self.outcome.status == "done":
                self._evaluate(done)
            # What the steps to come depend on is written from time to time, and before leaving.
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
        """Make one step, of fewer tokens per forward pass from the moment that memory runs out."""
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
                self.optimizer.zero_grad(set_to_none=True)
                if self.device.type == "cuda":
                    torch.cuda.empty_cache()
                if self.micro <= int(self.prepared.train[name].lengths[batch].max()):
                    full = f"memory ran out with {self.micro} tokens per forward pass; lower max_length"
                    advice = "or batch_tokens, set gradient_checkpointing, or use a larger device"
                    raise HelpfulError(f"{full} {advice}.") from error
                self.micro //= 2
                full = f"memory ran out: {self.micro} tokens per forward pass from here"
                self.outcome.notes.append(full)
        if self.settings.clip:
            nn.utils.clip_grad_norm_(self.trained.values(), self.settings.clip)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def _gradients(self, name: str, batch: np.ndarray) -> Tensor:
        """Add up the gradients of one step over its micro-batches; return the mean loss."""
        encoded = self.prepared.train[name]
        weight = max(1.0, self.network.formats[name].weight(encoded, batch))
        whole = self.micro >= self.settings.batch_tokens
        total = torch.zeros((), device=self.device)
        for part in [batch] if whole else split(encoded, batch, self.micro):
            with self.network.autocast():
                collated = Batch.collate(encoded, part, self.device)
                loss = self.network(collated, name, self.settings.pooling)
            (loss * (1 / weight)).backward()
            total += loss.detach() / weight
        return total

    def _check(self, done: int) -> None:
        """Look at the losses so far and the weights; one that is no number ends the run."""
        bad = (~torch.isfinite(self.losses[:done])).nonzero()
        if len(bad):
            why = f"the loss was no longer a number at step {int(bad[0]) + 1}"
        elif not torch.stack([p.isfinite().all() for p in self.trained.values()]).all():
            why = f"a weight was no longer a number after step {done}"
        else:
            return
        self.outcome.status = "collapsed"
        self.outcome.notes.append(why)

    def _evaluate(self, done: int) -> None:
        """Score the English development rows and keep the state if it is the best so far."""
        values, kept = {}, self.outcome.dev
        how: dict[str, Any] = {"budget": 4 * self.micro, "pooling": self.settings.pooling}
        for name, (rows, encoded) in self.prepared.dev.items():
            task, format_ = self.prepared.tasks[name], self.prepared.formats[name]
            raw = self.network.outputs(name, encoded, **how)
            answers = (format_.decode(task, rows, encoded, raw), format_.constant(task, rows))
            found = [formats.task_scores(task, rows, answer) for answer in answers]
            main = metrics.get(task.metric).main
            values[name], self.outcome.floor[name] = (scores[main] for scores in found)
        # Of equal scores the last counts, and without development rows the last state.
        if not kept or np.mean(list(values.values())) >= np.mean(list(kept.values())):
            self.outcome.dev, self.outcome.kept_step = values, done
            last = done == len(self.steps)
            self.best = {} if last else {n: p.detach().clone() for n, p in self.trained.items()}

    def _finished(self, done: int) -> Tuned:
        """Return the state that was kept, on the CPU and with all pieces; of a collapsed run the base."""
        prepared, outcome = self.prepared, self.outcome
        outcome.steps, outcome.peak_memory_mb = done, network.peak_memory_mb(self.device)
        lengths = {name: encoded.lengths for name, encoded in prepared.train.items()}
        outcome.tokens = sum(int(lengths[name][batch].sum()) for name, batch in self.steps[:done])
        if outcome.status == "collapsed":
            return Tuned(prepared.encoder, {}, prepared.tasks, self.settings, outcome)
        outcome.loss = float(self.losses[-max(1, done // 10) :].mean())
        with torch.no_grad():
            for name, value in self.best.items():
                self.trained[name].copy_(value)
        self.network.to("cpu").eval()
        self.network.unpack()
        table = self.small.table.weight
        tuned = _with_table(prepared.encoder, self.small, table if table.requires_grad else None)
        known = {name: task for name, task in prepared.tasks.items() if name != MLM}
        heads = {name: self.network.head(name) for name in known}
        return Tuned(tuned, heads, known, self.settings, outcome)

    @functools.cached_property
    def identity(self) -> str:
        """Hash of what a written state belongs to; to be asked for before the first step."""
        own = {"checkpoint_seconds": None, "precision": self.network.precision}  # "auto" says none
        facts = sorted((self.settings.facts() | own).items())
        known = (self.seed, self.outcome.fingerprints, len(self.steps), self.network.packed)
        begin = {n: v.flatten()[:16].tolist() for n, v in self.network.state_dict().items()}
        return hashlib.sha256(repr((facts, known, begin)).encode()).hexdigest()

    def _write(self, checkpoint: Path, done: int, seconds: float) -> None:
        """Write all that the steps to come depend on."""
        state: dict[str, Tensor] = {f"best/{n}": p for n, p in self.best.items()}
        for name, parameter in self.trained.items():
            state[f"now/{name}"] = parameter
            state |= {f"{m}/{name}": value for m, value in self.optimizer.state[parameter].items()}
        state |= {"losses": self.losses, "random": torch.get_rng_state()}
        if self.device.type == "cuda":
            state["random_cuda"] = torch.cuda.get_rng_state(self.device)
        facts = {"done": done, "seconds": seconds, "micro": self.micro, "identity": self.identity}
        facts |= {name: getattr(self.outcome, name) for name in _KEPT}
        save_tensors(checkpoint / _STATE, state, facts)

    def _resume(self, checkpoint: Path) -> tuple[float, int]:
        """Take up a written state, or leave one aside that is damaged or of another run."""
        identity = self.identity  # while the weights are still those it starts from
        if not (checkpoint / _STATE).exists():
            return 0.0, 0
        try:
            state, facts = load_tensors(checkpoint / _STATE)
            if facts.get("identity") != identity:
                raise BadRecord("the written state is of other data, settings or weights")
        except BadRecord as error:
            self.outcome.notes.append(f"started again: {error}")
            return 0.0, 0
        for name, parameter in self.trained.items():
            parameter.data.copy_(state[f"now/{name}"])
            # A head that no step has trained yet has no moments.
            if f"step/{name}" in state:
                moments = {m: state[f"{m}/{name}"].to(parameter.device) for m in _MOMENTS}
                self.optimizer.state[parameter] = moments
            if f"best/{name}" in state:
                self.best[name] = state[f"best/{name}"].to(self.device)
        self.losses.copy_(state["losses"])
        torch.set_rng_state(state["random"])
        if self.device.type == "cuda":
            torch.cuda.set_rng_state(state["random_cuda"], self.device)
        self.micro = facts["micro"]
        for name in _KEPT:
            setattr(self.outcome, name, facts[name])
        return float(facts["seconds"]), int(facts["done"])
