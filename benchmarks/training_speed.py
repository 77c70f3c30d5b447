"""Fine-tuning and evaluating: stock Trainer, Trainer tuned by its arguments, this project's loop.

Every arm trains the same encoder on the same tokenised rows, in a process of its own, in turn, and
then predicts them::

    python -m benchmarks.training_speed                    # what this machine can measure
    python -m benchmarks.training_speed --arm ours --workload pair   # one arm, as JSON
    python -m benchmarks.training_speed --profile          # where the time of the loop goes
    python -m benchmarks.training_speed --memory           # XLM-R Large at batch 32 x 128

The arm's time starts when rows are tokenised and the model is on its device, and ends when the last
step is done. Tokens are real ones: padding does not count. Stock Trainer is so slow on a processor
that it is run once; the others take turns, and medians are stored.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from benchmarks.table import Measurement, machine, not_measured, store
from benchmarks.workloads import Workload, prepared
from helpers.formats import Encoded
from helpers.formats.encoded import IGNORE
from helpers.models import network, training
from helpers.models.network import Network, outputs
from helpers.models.settings import Settings
from helpers.models.training import Prepared

ARMS = ("stock", "tuned", "ours")
PRODUCT = "largest matrix product, operations/s"
NO_GPU = "no GPU on the machine that ran the benchmarks"
# Steps so small, and heads so fast, that the English dev score is no lower than stock Trainer's: a rate
# bought with too few steps to learn the task would say nothing.
CPU = {
    "pair": Workload(
        "pair",
        "bundled",
        "intents",
        Settings(epochs=3, train_rows=320, learning_rate=3e-4, batch_tokens=512),
    ),
    "tagging": Workload(
        "tagging",
        "bundled",
        "slots",
        Settings(epochs=3, train_rows=320, learning_rate=3e-4, batch_tokens=256, head_rate=30),
    ),
    "span": Workload(
        "span",
        "bundled",
        "generated-span",
        Settings(
            epochs=2,
            train_rows=96,
            dev_rows=64,
            learning_rate=3e-4,
            batch_tokens=800,
            head_rate=10,
            max_length=384,
        ),
    ),
}
_LARGE = Settings(epochs=1, learning_rate=1e-5, pooling="first", dev_rows=1, compile=True)
MEMORY = Workload(
    "memory",
    "large-random",
    "generated-pair",
    Settings(epochs=1, pooling="first", train_rows=640, batch_tokens=32 * 128, max_length=128),
)
GPU = {
    "pair": Workload(
        "pair",
        "large-random",
        "generated-pair",
        _LARGE.override({"train_rows": 20_000, "batch_tokens": 32_768, "max_length": 256}),
    ),
    "tagging": Workload(
        "tagging",
        "large-random",
        "generated-tagging",
        _LARGE.override({"train_rows": 20_000, "batch_tokens": 32_768, "max_length": 256}),
    ),
    "span": Workload(
        "span",
        "large-random",
        "generated-span",
        _LARGE.override({"train_rows": 10_000, "batch_tokens": 32_768, "max_length": 384}),
    ),
}


def run_arm(arm: str, work: Workload, seed: int) -> dict[str, Any]:
    """Train once and return seconds, tokens per second, matmul work, memory and dev score."""
    device = network.best_device()
    if device.type == "cuda":
        _train_a_little(arm, work, seed)
        if arm == "stock":  # a rate needs fewer rows than the others take in that time
            work = replace(work, settings=replace(work.settings, train_rows=1600))
    ready = prepared(work, seed)
    (encoded,) = ready.train.values()
    precision = network.resolve_precision("auto", device)
    peak = matmul_peak(device, precision)
    torch.manual_seed(seed)
    if arm == "ours":
        ended: list[float] = []

        def look(done: int, total: int) -> None:
            if done == total:
                _synchronise(device)
                ended.append(time.perf_counter())

        begin = time.perf_counter()
        outcome = training.Run(ready, work.settings, seed).train(progress=look).outcome
        seconds, dev = ended[0] - begin, next(iter(outcome.dev.values()), float("nan"))
        passes, memory = outcome.tokens / len(encoded.tokens), outcome.peak_memory_mb
        evaluating = _predicting(work, seed, device)
    else:
        seconds, dev, memory, evaluating = _trainer(arm, ready, work, seed, device)
        passes = work.settings.epochs
    flops = passes * matmul_flops(encoded, ready.encoder.dimension, ready.encoder.layers)
    # A shared machine's speed drifts: its peak is the best seen just before and just after.
    peak = max(peak, matmul_peak(device, precision))
    return {
        "arm": arm,
        "seconds": seconds,
        "train": passes * len(encoded.tokens) / seconds,
        "evaluate": len(encoded.tokens) / evaluating,
        "peak": peak,
        "share_of_peak": flops / seconds / peak,
        "peak_memory_mb": memory,
        "dev": dev,
        "rows": encoded.rows,
        "device": network.describe(device),
    }


def _predicting(work: Workload, seed: int, device: torch.device) -> float:
    """Return the seconds that this project takes to predict the workload's training rows."""
    ready = prepared(work, seed)
    ((name, encoded),) = ready.train.items()
    format_, precision = ready.formats[name], network.resolve_precision("auto", device)
    head = format_.head(ready.tasks[name], ready.encoder.dimension, 0.0)
    packed = network.suits(ready.pruned.model, device, precision)
    joined = Network(ready.pruned.model, {name: head}, {name: format_}, packed=packed).to(device)
    how: dict[str, Any] = {"device": device, "precision": precision}
    how["budget"] = network.forward_tokens(device)  # as in evaluation
    return _least(lambda: outputs(joined.eval(), name, encoded, **how))


def _least(work: Callable[[], object], times: int = 2) -> float:
    """Return the least seconds that some work takes, results on the host included."""
    seconds = []
    for _ in range(times):
        begin = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - begin)
    return min(seconds)


def _train_a_little(arm: str, work: Workload, seed: int) -> None:
    """Warm up: start the GPU's libraries and compile what the arm compiles."""
    short = replace(work, settings=replace(work.settings, train_rows=1600))
    ready = prepared(short, seed)
    if arm == "ours":
        training.Run(ready, short.settings, seed).train()
    else:
        _trainer(arm, ready, short, seed, network.best_device())
    del ready
    gc.collect()  # or what is warm would count as memory of what is measured
    torch.cuda.empty_cache()


def matmul_flops(encoded: Encoded, width: int, layers: int) -> float:
    """Return the operations of all matrix products in one forward and backward pass.

    Per layer and token: 24 width^2 for projections and feed-forward, 4 length x width for
    attention; the backward pass doubles both. Embeddings and heads are not counted.
    """
    lengths = encoded.lengths.astype(float)
    return 3 * layers * (24 * width**2 * lengths.sum() + 4 * width * (lengths**2).sum())


def matmul_peak(device: torch.device, precision: str) -> float:
    """Return the best rate of a large matrix product on this machine, operations per second."""
    size = 8192 if device.type == "cuda" else 2048
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    best = float("inf")
    for _ in range(12):
        if device.type == "cuda":
            torch.cuda.synchronize()
        begin = time.perf_counter()
        a @ b
        if device.type == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - begin)
    return 2 * size**3 / best


def _trainer(
    arm: str, ready: Prepared, work: Workload, seed: int, device: torch.device
) -> tuple[float, float, float, float]:
    """Return seconds of training, dev score, peak memory in MB and seconds of predicting."""
    from transformers import Trainer, TrainingArguments

    model = _model_with_head(ready, arm)
    (name,) = ready.train
    tuned = arm == "tuned"
    bf16 = network.resolve_precision("auto", device) == "bf16"
    encoded = ready.train[name]
    # Twice as many run out of memory on 80 GB: Trainer pads and keeps the whole word table.
    tokens = min(work.settings.batch_tokens, 16_384)
    rows_per_step = max(1, round(tokens / encoded.lengths.mean()))
    extra: dict[str, Any] = {}
    if tuned:
        extra = {
            "bf16": bf16,
            "per_device_train_batch_size": rows_per_step,
            "per_device_eval_batch_size": 4 * rows_per_step,
            "train_sampling_strategy": "group_by_length",
            "length_column_name": "length",
            "dataloader_num_workers": 4 if device.type == "cuda" else 0,
            "optim": "adamw_torch_fused",
        }
    arguments = TrainingArguments(
        output_dir="/tmp/benchmark-trainer",
        num_train_epochs=work.settings.epochs,
        learning_rate=work.settings.learning_rate,
        save_strategy="no",
        logging_strategy="no",
        report_to=[],
        disable_tqdm=True,
        use_cpu=device.type == "cpu",
        seed=seed,
        remove_unused_columns=False,
        **extra,
    )
    kind = ready.tasks[name].format
    items = _Items(encoded, kind, whole_ids(ready, encoded))
    trainer = Trainer(model, arguments, train_dataset=items, data_collator=_collator(ready, kind))
    model.to(device)
    _synchronise(device)
    begin = time.perf_counter()
    trainer.train()
    _synchronise(device)
    seconds, memory = time.perf_counter() - begin, network.peak_memory_mb(device)
    return (
        seconds,
        _trainer_dev(model, ready, device),
        memory,
        _least(lambda: trainer.predict(items)),
    )


def whole_ids(ready: Prepared, encoded: Encoded) -> np.ndarray:
    """Return a set's piece ids in the whole table: Trainer has no pruned one."""
    kept = ready.pruned.kept
    return encoded.tokens.astype(np.int64) if kept is None else kept[encoded.tokens]


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def _model_with_head(ready: Prepared, arm: str) -> Any:
    import transformers

    (task,) = ready.tasks.values()
    family = type(ready.encoder.model).__name__.removesuffix("Model")
    suffix = {
        "pair": "ForSequenceClassification",
        "tagging": "ForTokenClassification",
        "span": "ForQuestionAnswering",
    }[task.format]
    source = ready.encoder
    config = type(source.model.config)(**source.model.config.to_dict())
    config.num_labels = 2 if task.format == "span" else len(task.labels)
    config._attn_implementation = "sdpa"
    if arm == "tuned":
        config.hidden_dropout_prob = config.attention_probs_dropout_prob = 0.0
    model = getattr(transformers, family + suffix)(config)
    base = getattr(model, model.base_model_prefix)
    base.load_state_dict(source.model.state_dict(), strict=False)
    if arm == "tuned" and ready.encoder.freeze_embeddings:
        base.get_input_embeddings().weight.requires_grad_(False)
    return model


class _Items(torch.utils.data.Dataset):  # type: ignore[type-arg]
    """The tokenised rows as a Trainer wants them: one dictionary per sequence."""

    def __init__(self, encoded: Encoded, kind: str, ids: np.ndarray) -> None:
        self.encoded, self.kind, self.ids = encoded, kind, ids

    def __len__(self) -> int:
        return len(self.encoded)

    def __getitem__(self, place: int) -> dict[str, Any]:
        if place >= len(self):
            raise IndexError(place)
        begin, end = self.encoded.starts[place : place + 2]
        item: dict[str, Any] = {
            "input_ids": self.ids[begin:end].tolist(),
            "length": int(end - begin),
        }
        if self.kind == "pair":
            item["labels"] = int(self.encoded.per_sequence["label"][place])
        elif self.kind == "tagging":
            item["labels"] = self.encoded.per_token["tag"][begin:end].tolist()
        else:
            item["start_positions"] = int(self.encoded.per_sequence["begin"][place])
            item["end_positions"] = int(self.encoded.per_sequence["end"][place])
        return item


def _collator(ready: Prepared, kind: str) -> Any:
    pad = ready.encoder.model.config.pad_token_id or 0

    def collate(items: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        width = max(len(item["input_ids"]) for item in items)
        fill = [width - len(item["input_ids"]) for item in items]
        batch = {
            "input_ids": [i["input_ids"] + [pad] * f for i, f in zip(items, fill, strict=True)],
            "attention_mask": [[1] * (width - f) + [0] * f for f in fill],
        }
        for name in ("start_positions", "end_positions"):
            if name in items[0]:
                batch[name] = [item[name] for item in items]
        if kind == "tagging":
            batch["labels"] = [i["labels"] + [IGNORE] * f for i, f in zip(items, fill, strict=True)]
        elif kind == "pair":
            batch["labels"] = [item["labels"] for item in items]
        return {name: torch.tensor(values) for name, values in batch.items()}

    return collate


@torch.inference_mode()
def _trainer_dev(model: Any, ready: Prepared, device: torch.device) -> float:
    """Score a Trainer's model on the English dev rows, decoded as this project decodes."""
    from helpers import metrics
    from helpers.formats import task_scores

    if not ready.dev:
        return float("nan")
    ((name, (rows, encoded)),) = ready.dev.items()
    task, format_ = ready.tasks[name], ready.formats[name]
    model.eval()
    raw: dict[str, list[np.ndarray]] = {}
    whole = whole_ids(ready, encoded)
    for place in range(len(encoded)):
        begin, end = encoded.starts[place : place + 2]
        ids = torch.tensor(whole[begin:end][None], device=device)
        output = model(input_ids=ids)
        if task.format == "span":
            found = {"begin_score": output.start_logits[0], "end_score": output.end_logits[0]}
        elif task.format == "tagging":
            found = {"tag": output.logits[0].argmax(-1)}
        else:
            found = {"label": output.logits.argmax(-1)}
        for key, value in found.items():
            raw.setdefault(key, []).append(value.float().cpu().numpy())
    joined = {key: np.concatenate(parts) for key, parts in raw.items()}
    if "tag" in joined:
        joined["tag"] = joined["tag"].astype(int)
    values = task_scores(task, rows, format_.decode(task, rows, encoded, joined))
    return values[metrics.main(task.metric)]


def one_arm(arm: str, workload: str, seed: int) -> dict[str, Any] | None:
    """Run one arm in a process of its own; ``None`` where it fails, with the reason printed."""
    command = [sys.executable, "-m", "benchmarks.training_speed", "--arm", arm]
    command += ["--workload", workload, "--seed", str(seed)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        print(f"arm {arm} of {workload} failed:\n{done.stderr[-2000:]}", file=sys.stderr)
        return None
    return json.loads(done.stdout.splitlines()[-1])


def compare(workload: str, repeats: int) -> dict[str, dict[str, Any]]:
    """Run all arms in turn, ``repeats`` times, and return the median of each figure."""
    runs: dict[str, list[dict[str, Any]]] = {arm: [] for arm in ARMS}
    for seed in range(repeats):
        for arm in ARMS if seed == 0 else ARMS[1:]:
            result = one_arm(arm, workload, seed)
            if result is not None:
                runs[arm].append(result)
                print(json.dumps(result), file=sys.stderr, flush=True)
    return {
        arm: {
            key: statistics.median(r[key] for r in found) if isinstance(value, float) else value
            for key, value in found[0].items()
        }
        for arm, found in runs.items()
        if found
    }


def measurements(workload: str, found: dict[str, dict[str, Any]]) -> list[Measurement]:
    """Turn the medians of one workload into rows of the table."""
    ours = found["ours"]
    facts = _facts(ours)
    rows = []
    for arm in [arm for arm in ("stock", "tuned") if arm in found]:
        other = found[arm]
        memory = (
            f"peak memory {ours['peak_memory_mb']:.0f} against {other['peak_memory_mb']:.0f} MB"
        )
        notes = {
            "train": f"dev score {ours['dev']:.3f} against {other['dev']:.3f}; {memory}",
            "evaluate": "predicting the training rows",
        }
        rows += [
            Measurement(
                f"{stage}_{workload}_vs_{arm}_trainer",
                ours[stage],
                "tokens/s",
                f"transformers.Trainer, {arm}",
                other[stage],
                ours[stage] / other[stage],
                note=note,
                **facts,
            )
            for stage, note in notes.items()
        ]
    name = "train_matmul_share_of_peak" + ("" if workload == "pair" else f"_{workload}")
    share = ours["share_of_peak"]
    rows.append(Measurement(name, share, "share", PRODUCT, ours["peak"], share, **facts))
    return rows


def _facts(found: dict[str, Any]) -> dict[str, Any]:
    device = found["device"] if torch.cuda.is_available() else machine()
    return {"device": device, "threads": torch.get_num_threads(), "rows": found["rows"]}


def memory() -> Measurement:
    """Return the memory that XLM-R Large's shape needs at batch 32 x 128; on a GPU only."""
    name = "train_large_32x128_peak_memory"
    if not torch.cuda.is_available():
        return not_measured(name, "MB", "cuda", NO_GPU)
    found = run_arm("ours", MEMORY, 0)
    used, limit = found["peak_memory_mb"], 16_000.0
    return Measurement(name, used, "MB", "16 GB", limit, limit / used, **_facts(found))


# What the operations of a step are, by their names in PyTorch.
PARTS = {
    "matmul": ("aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm", "mkldnn"),
    "attention": ("aten::_scaled_dot_product", "aten::_softmax", "aten::_flash_attention"),
    "optimiser": ("aten::_fused_adamw", "aten::_foreach", "aten::linalg_vector_norm"),
    "elementwise": (
        "aten::gelu", "aten::native_layer_norm", "aten::add", "aten::mul", "aten::copy_",
        "aten::sum", "aten::div", "aten::fill_", "aten::cat", "aten::masked_fill",
    ),
}  # fmt: skip


def profile(work: Workload) -> list[Measurement]:
    """Return which share of the time of training goes into which kind of operation."""
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as profiler

    ready = prepared(work)
    ready.dev.clear()  # training alone
    (encoded,) = ready.train.values()
    cpu = torch.device("cpu")
    peak = matmul_peak(cpu, network.resolve_precision("auto", cpu))
    with profiler(activities=[ProfilerActivity.CPU]) as seen:
        outcome = training.Run(ready, work.settings, 0).train().outcome
    seconds = outcome.seconds
    spent = dict.fromkeys([*PARTS, "rest"], 0.0)
    for event in seen.key_averages():
        kind = next((part for part, names in PARTS.items() if event.key.startswith(names)), "rest")
        spent[kind] += event.self_cpu_time_total / 1e6 / seconds
    spent["rest"] = 1 - sum(share for part, share in spent.items() if part != "rest")
    notes = {
        "matmul": "attention of short sequences included",
        "attention": "softmax, and the fused kernel of long sequences",
    }
    facts: dict[str, Any] = {"threads": torch.get_num_threads(), "rows": ready.outcome.rows}
    rows = [
        Measurement(
            f"train_{work.name}_time_in_{part}", share, "share", note=notes.get(part, ""), **facts
        )
        for part, share in spent.items()
    ]
    passes = outcome.tokens / len(encoded.tokens)
    flops = passes * matmul_flops(encoded, ready.encoder.dimension, ready.encoder.layers)
    multiplying = (spent["matmul"] + spent["attention"]) * seconds
    rate = flops / multiplying / peak
    note = "while matrix products and attention run"
    name = f"train_{work.name}_matmul_rate"
    return [*rows, Measurement(name, rate, "share", PRODUCT, peak, rate, note=note, **facts)]


def main() -> None:
    """Measure what this machine can and store it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--arm", choices=ARMS)
    parser.add_argument("--workload", nargs="*")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--memory", action="store_true")
    options = parser.parse_args()
    works = GPU if torch.cuda.is_available() else CPU
    names = options.workload or list(works)
    if options.arm:
        print(json.dumps(run_arm(options.arm, works[names[0]], options.seed)))
    elif options.profile:
        for work in CPU.values():
            _show(profile(work))
    elif options.memory:
        _show([memory()])
    else:
        for name in names:
            _show(measurements(name, compare(name, options.repeats)))
            if not torch.cuda.is_available():
                gpu = f"train_{name}_vs_tuned_trainer"
                store([not_measured(gpu, "tokens/s", "cuda", NO_GPU)])


def _show(rows: list[Measurement]) -> None:
    store(rows)
    for row in rows:
        print(
            f"{row.name}: {row.value:.3g} {row.unit}, {row.ratio:.2f} x {row.reference} {row.note}"
        )


if __name__ == "__main__":
    main()
