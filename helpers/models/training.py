"""Fine-tune an encoder on one task, on several, or with masked language modelling mixed in."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from torch import Tensor, nn

from helpers import metrics
from helpers.errors import BadRecord, HelpfulError
from helpers.files import load_tensors, save_tensors
from helpers.formats import Batch, Encoded
from helpers.formats.encoded import split
from helpers.models import devices
from helpers.models.devices import autocast
from helpers.models.encoders import Encoder
from helpers.models.network import Network
from helpers.models.packing import suits
from helpers.models.preparing import MLM, Prepared, prepare, training_task
from helpers.models.schedule import Step, rate, schedule
from helpers.models.settings import Outcome, Settings
from helpers.predicting import outputs, task_scores
from helpers.tasks import Task

__all__ = [
    "Interrupted",
    "Outcome",
    "Settings",
    "Tuned",
    "fine_tune",
    "load_encoder",
    "train",
    "training_task",
]

_CHECK_EVERY = 25
_ASK_EVERY = 8
_STATE = "state.safetensors"


class Interrupted(HelpfulError):
    """A run stopped because it was asked to; its state is written down and it can be resumed."""


@dataclass
class Tuned:
    """A fine-tuned encoder with its heads.

    Attributes:
        encoder: the encoder, with all the pieces it had before.
        heads: trained head per task it was trained on.
        tasks: the training tasks by name, with their label sets filled in.
        settings: settings of the run.
        outcome: what came of it.
    """

    encoder: Encoder
    heads: dict[str, nn.Module] = field(default_factory=dict)
    tasks: dict[str, Task] = field(default_factory=dict)
    settings: Settings = Settings()
    outcome: Outcome = field(default_factory=Outcome)

    def save_encoder(self, folder: Path) -> None:
        """Write the encoder's weights, frozen word embeddings left out, for a later stage.

        The heads are written beside it; no later stage uses them, but some measures of task
        similarity do.
        """
        state = self.encoder.model.state_dict()
        table = _table_name(self.encoder.model)
        if not _table(self.encoder.model).weight.requires_grad:
            state.pop(table)
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
    """Return the encoder that :meth:`Tuned.save_encoder` wrote.

    Args:
        base: the pretrained encoder that was fine-tuned; left unchanged.
        folder: where it was written.

    Raises:
        BadRecord: the file is damaged, or belongs to another encoder.
    """
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
        stop: asked after every step (of several processes: after some, as they must agree); when
            true the state is written and the run stops.
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
    return train(
        prepared, settings, seed, checkpoint=checkpoint, progress=progress, stop=stop, device=device
    )


def train(
    prepared: Prepared,
    settings: Settings,
    seed: int,
    *,
    checkpoint: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
    stop: Callable[[], bool] | None = None,
    device: torch.device | None = None,
) -> Tuned:
    """Fine-tune on sets that are loaded and tokenised already; arguments as :func:`fine_tune`."""
    run = _Run(prepared, settings, seed, device)
    return run.train(checkpoint, progress or (lambda done, total: None), stop or (lambda: False))


class _Run:
    """One fine-tuning run: its network, its optimiser and its place in the schedule."""

    def __init__(
        self, prepared: Prepared, settings: Settings, seed: int, device: torch.device | None
    ) -> None:
        self.prepared, self.settings, self.seed = prepared, settings, seed
        self.base, self.small = prepared.encoder, prepared.spend()
        self.tasks, self.train_sets = prepared.tasks, prepared.train
        wanted = device or devices.best_device()
        # A step trains one task's head; several processes must know that the others rest.
        several = DistributedDataParallelKwargs(find_unused_parameters=len(self.tasks) > 1)
        self.accelerator = Accelerator(cpu=wanted.type == "cpu", kwargs_handlers=[several])
        self.device, self.world = self.accelerator.device, self.accelerator.num_processes
        self.precision = devices.resolve_precision(settings.precision, self.device)
        self.outcome = Outcome(
            device=devices.describe(self.device),
            precision=self.precision,
            rows=prepared.rows,
            sources=dict(prepared.sources),
            fingerprints=dict(prepared.fingerprints),
            notes=list(prepared.notes),
        )
        self._build()

    def _build(self) -> None:
        settings = self.settings
        torch.manual_seed(self.seed)
        width = self.small.dimension
        makers = self.prepared.formats
        pieces = len(_table(self.small.model).weight)
        heads = {
            name: makers[name].head(
                replace(task, settings={**task.settings, "pieces": pieces}), width, settings.dropout
            )
            for name, task in self.tasks.items()
        }
        _set_dropout(self.small.model, settings.dropout)
        packed = suits(self.small.model, self.device, self.precision)
        self.network = Network(self.small.model, heads, makers, packed=packed).to(self.device)
        _freeze(self.small, settings)
        if settings.gradient_checkpointing:
            _recompute_activations(self.small.model)
        if settings.compile:
            _compile_layers(self.small.model)
        self.trained = {n: p for n, p in self.network.named_parameters() if p.requires_grad}
        self.optimizer = _optimizer(self.trained, settings)
        self.wrapped, self.optimizer = self.accelerator.prepare(self.network, self.optimizer)
        auxiliary = MLM if MLM in self.train_sets else ""
        # On a CPU products are faster where neighbours are of one length, so batches stay sorted.
        unsorted = packed and self.device.type == "cuda"
        self.steps = schedule(self.train_sets, settings, self.seed, auxiliary, packed=unsorted)
        self.micro = settings.micro_tokens or settings.batch_tokens
        self.losses = torch.zeros(len(self.steps), device=self.device)
        self.best: dict[str, Tensor] = {}

    @functools.cached_property
    def identity(self) -> str:
        """Hash of what a written state belongs to; to be asked for before the first step."""
        facts = asdict(self.settings) | {
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
        checkpoint: Path | None,
        progress: Callable[[int, int], None],
        stop: Callable[[], bool],
    ) -> Tuned:
        """Make every step that is left and return what was kept."""
        settings, total = self.settings, len(self.steps)
        before, done = (0.0, 0) if checkpoint is None else self._resume(checkpoint)
        self._agree_on(done)
        started = written = time.monotonic()
        evaluate_at = _evaluation_steps(total, settings.evaluations)
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        self.network.train()
        while done < total and self.outcome.status == "done":
            self._step(done)
            done += 1
            progress(done, total)
            if done % _CHECK_EVERY == 0 or done in evaluate_at:
                self._check(done)
            if done in evaluate_at and self.outcome.status == "done":
                self._evaluate(done)
            now = time.monotonic()
            leaving = done < total and self._asked(done, stop)
            if checkpoint and (leaving or now - written > settings.checkpoint_seconds):
                self._write(checkpoint, done, before + now - started)
                written = now
            if leaving:
                self.accelerator.wait_for_everyone()
                raise Interrupted(f"stopped after {done} of {total} steps; the run can be resumed.")
        self.outcome.seconds = before + time.monotonic() - started
        return self._finished(done)

    def _step(self, place: int) -> None:
        step = self.steps[place]
        for group in self.optimizer.param_groups:
            group["lr"] = rate(place, len(self.steps), self.settings) * group["scale"]
        while True:
            try:
                self.losses[place] = self._gradients(step)
                break
            except (RuntimeError, MemoryError) as error:
                if not devices.out_of_memory(error):
                    raise
                self._halve(step, error)
        if self.settings.clip:
            self.accelerator.clip_grad_norm_(list(self.trained.values()), self.settings.clip)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def _gradients(self, step: Step) -> Tensor:
        """Add up the gradients of one step over its micro-batches and over all processes."""
        encoded, world = self.train_sets[step.task], self.world
        weight = max(1.0, self.network.formats[step.task].weight(encoded, step.batch))
        parts = [step.batch]
        if self.micro < self.settings.batch_tokens:
            parts = split(encoded, step.batch, self.micro)
        mine = _share(encoded, parts, self.accelerator.process_index, world)
        total = torch.zeros((), device=self.device)
        for place, (part, factor) in enumerate(mine):
            last = place == len(mine) - 1
            with contextlib.nullcontext() if last else self.accelerator.no_sync(self.wrapped):
                offloaded = devices.saved_on_host(self.settings.offload)
                with autocast(self.precision, self.device), offloaded:
                    batch = Batch.collate(encoded, part, self.device)
                    loss = self.wrapped(batch, step.task, self.settings.pooling) * factor
                self.accelerator.backward(loss * (world / weight))
            total += loss.detach() / weight
        return total if world == 1 else self.accelerator.reduce(total, "sum")

    def _halve(self, step: Step, error: BaseException) -> None:
        """Use half the tokens per forward pass from now on, after memory ran out."""
        self.optimizer.zero_grad(set_to_none=True)
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        longest = int(self.train_sets[step.task].lengths[step.batch].max())
        if self.micro <= longest or self.world > 1:
            raise HelpfulError(
                f"memory ran out with {self.micro} tokens per forward pass; lower max_length or "
                "batch_tokens, set gradient_checkpointing, or use a larger device."
            ) from error
        self.micro //= 2
        self.outcome.notes.append(f"memory ran out: {self.micro} tokens per forward pass from here")

    def _agree_on(self, done: int) -> None:
        """Make sure that all processes of a run found the same state."""
        if self.world == 1:
            return
        found = self.accelerator.gather(torch.tensor([done], device=self.device))
        if int(found.min()) != int(found.max()):
            raise HelpfulError(
                f"the processes of this run found different states, after {found.tolist()} steps; "
                "the folder of the state must be one that all of them see."
            )

    def _asked(self, done: int, stop: Callable[[], bool]) -> bool:
        """Ask whether to stop; several processes ask together, as one alone cannot leave."""
        if self.world == 1:
            return stop()
        if done % _ASK_EVERY:
            return False
        asked = torch.tensor(float(stop()), device=self.device)
        return bool(self.accelerator.reduce(asked, "sum") > 0)

    def _check(self, done: int) -> None:
        """Look at the losses so far and the weights; one that is no number ends the run."""
        finite = torch.isfinite(self.losses[:done])
        if not bool(finite.all()):
            first = int((~finite).nonzero()[0]) + 1
            self._collapse(f"the loss was no longer a number at step {first}")
        elif not bool(torch.stack([p.isfinite().all() for p in self.trained.values()]).all()):
            self._collapse(f"a weight was no longer a number after step {done}")

    def _collapse(self, why: str) -> None:
        self.outcome.status = "collapsed"
        self.outcome.notes.append(why)

    def _evaluate(self, done: int) -> None:
        """Score the English development rows and keep the state if it is the best so far."""
        values = {}
        for name, (rows, encoded) in self.prepared.dev.items():
            task = self.tasks[name]
            format_ = self.network.formats[name]
            raw = outputs(
                self.network,
                name,
                encoded,
                budget=4 * self.micro,
                device=self.device,
                precision=self.precision,
                pooling=self.settings.pooling,
            )
            main = metrics.main(task.metric)
            values[name] = task_scores(task, rows, format_.decode(task, rows, encoded, raw))[main]
            constant = task_scores(task, rows, format_.constant(task, rows))
            self.outcome.floor[name] = constant[main]
        kept = self.outcome.dev
        better = not kept or np.mean(list(values.values())) >= np.mean(list(kept.values()))
        if better or not values:
            self.outcome.dev, self.outcome.kept_step = values, done
            last = done == len(self.steps)
            self.best = {} if last else {n: p.detach().clone() for n, p in self.trained.items()}

    def _finished(self, done: int) -> Tuned:
        outcome = self.outcome
        outcome.steps = done
        outcome.peak_memory_mb = devices.peak_memory_mb(self.device)
        outcome.tokens = sum(
            int(self.train_sets[step.task].lengths[step.batch].sum()) for step in self.steps[:done]
        )
        if outcome.status == "collapsed":
            return Tuned(self.base, {}, self.tasks, self.settings, outcome)
        outcome.loss = float(self.losses[-max(1, done // 10) :].mean())
        with torch.no_grad():
            for name, value in self.best.items():
                self.trained[name].copy_(value)
        self.network.to("cpu").eval()
        self.network.unpack()
        table = _table(self.small.model).weight
        tuned = _with_table(self.base, self.small, table if table.requires_grad else None)
        heads = {name: self.network.head(name) for name in self.tasks if name != MLM}
        known = {name: task for name, task in self.tasks.items() if name != MLM}
        return Tuned(tuned, heads, known, self.settings, outcome)

    def _write(self, checkpoint: Path, done: int, seconds: float) -> None:
        if not self.accelerator.is_main_process:
            return
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
        _ = self.identity  # while the weights are still those it starts from
        if not (checkpoint / _STATE).exists():
            return 0.0, 0
        try:
            state, facts = load_tensors(checkpoint / _STATE)
        except BadRecord as error:
            self.outcome.notes.append(f"started again: {error}")
            return 0.0, 0
        if facts.get("identity") != self.identity:
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
        prefix = "best/"
        self.best = {
            n[len(prefix) :]: t.to(self.device) for n, t in state.items() if n.startswith(prefix)
        }
        self.losses.copy_(state["losses"])
        torch.set_rng_state(state["random"])
        if self.device.type == "cuda" and "random_cuda" in state:
            torch.cuda.set_rng_state(state["random_cuda"], self.device)
        self.micro = facts["micro"]
        self.outcome.kept_step, self.outcome.dev = facts["kept_step"], facts["dev"]
        self.outcome.floor, self.outcome.notes = facts["floor"], facts["notes"]
        return float(facts["seconds"]), int(facts["done"])


def _share(
    encoded: Encoded, parts: Sequence[np.ndarray], rank: int, world: int
) -> list[tuple[np.ndarray, float]]:
    """Return this process's share of a step and the factor of its loss.

    Every process gets as many parts as the others, or they would wait for each other for ever; a
    process without a row of its own in a part runs a borrowed one with factor 0.
    """
    if world == 1:
        return [(part, 1.0) for part in parts]
    mine = []
    for part in parts:
        units = np.unique(np.searchsorted(encoded.units, part, side="right") - 1)
        chosen = units[rank::world]
        factor = 1.0 if len(chosen) else 0.0
        spans = [
            (encoded.units[u], encoded.units[u + 1]) for u in (chosen if factor else units[:1])
        ]
        mine.append((np.concatenate([np.arange(a, b) for a, b in spans]), factor))
    return mine


def _evaluation_steps(total: int, times: int) -> set[int]:
    return {total} | {round(total * k / times) for k in range(1, max(1, times))}


def _optimizer(trained: dict[str, nn.Parameter], settings: Settings) -> torch.optim.AdamW:
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in trained.items():
        decay = 0.0 if parameter.ndim < 2 or "embeddings" in name else settings.weight_decay
        scale = settings.head_rate if name.startswith("heads.") else 1.0
        groups.setdefault((decay, scale), []).append(parameter)
    return torch.optim.AdamW(
        [
            {"params": members, "weight_decay": decay, "scale": scale}
            for (decay, scale), members in groups.items()
        ],
        lr=settings.learning_rate,
        eps=1e-8,
        fused=True,
    )


def _freeze(encoder: Encoder, settings: Settings) -> None:
    encoder.model.requires_grad_(True)  # whatever an earlier stage left alone
    frozen = settings.freeze_embeddings
    _table(encoder.model).weight.requires_grad_(
        not (encoder.freeze_embeddings if frozen is None else frozen)
    )
    layers: Any = encoder.model.encoder
    for layer in layers.layer[: settings.frozen_layers]:
        layer.requires_grad_(False)


def _recompute_activations(model: Any) -> None:
    """Keep no activations for the backward pass; the method was renamed within transformers 5."""
    new, old = "activation_checkpointing_enable", "gradient_checkpointing_enable"
    getattr(model, new if hasattr(model, new) else old)()


def _compile_layers(model: Any) -> None:
    """Compile one layer for any number of tokens; the others share its code."""
    for layer in model.encoder.layer:
        layer.compile(dynamic=True)


def _set_dropout(model: nn.Module, share: float) -> None:
    """Set the encoder's own dropout; packed attention has none, so attention never drops."""
    config: Any = model.config
    config.hidden_dropout_prob, config.attention_probs_dropout_prob = share, 0.0
    for name, module in model.named_modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0 if "attention.self" in name else share


def _table(model: Any) -> nn.Embedding:
    """Return an encoder's word embeddings."""
    return model.get_input_embeddings()


def _table_name(model: nn.Module) -> str:
    table = _table(model).weight
    return next(name for name, value in model.named_parameters() if value is table)


def _with_table(base: Encoder, tuned: Encoder, rows: Tensor | None) -> Encoder:
    """Give a tuned, pruned encoder all of its base's pieces back.

    ``rows``: the tuned word embeddings of the pruned pieces, or of all pieces; ``None``: frozen,
    the base's own table is shared.
    """
    full = _table(base.model)
    padding = full.padding_idx
    if rows is None:
        shared = nn.Embedding.from_pretrained(full.weight.detach(), True, padding)
        return _replaced(base, tuned, shared)
    weight = full.weight.detach().clone()
    if len(rows) == len(weight):
        weight = rows.detach().cpu().clone()
    elif tuned.kept is not None:
        weight[torch.from_numpy(base.remap(tuned.kept))] = rows.detach().cpu()
    return _replaced(base, tuned, nn.Embedding.from_pretrained(weight, False, padding))


def _replaced(base: Encoder, tuned: Encoder, table: nn.Embedding) -> Encoder:
    """Give a tuned encoder a whole table of word embeddings, padding where the base has it."""
    tuned.model.set_input_embeddings(table)
    tuned.model.config.vocab_size = len(table.weight)
    tuned.model.config.pad_token_id = base.model.config.pad_token_id
    embeddings: Any = getattr(tuned.model, "embeddings", None)
    if hasattr(embeddings, "padding_idx"):
        embeddings.padding_idx = table.padding_idx
    return replace(tuned, kept=base.kept)
