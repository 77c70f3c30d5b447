"""Fine-tuning and evaluating: stock Trainer, Trainer tuned by its arguments, this project's loop.

Every arm trains the same encoder on the same tokenised rows, in a process of its own, in turn, and
then predicts them. Its time starts when rows are tokenised and the model is on its device, and ends
when the last step is done. Tokens are real ones: padding does not count. Stock Trainer is so slow on a
processor that it is run once; the others take turns, and medians are stored.
"""

import copy
import gc
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import torch

from benchmarks import harness
from benchmarks.harness import Row, apart, measured, turns
from benchmarks.workloads import CPU, GPU, Workload, prepared
from helpers import metrics
from helpers.formats import Encoded, task_scores
from helpers.models import network, training
from helpers.models.network import Network
from helpers.models.training import Prepared

ARMS = ("stock", "tuned", "ours")
PRODUCT = "largest matrix product, operations/s"


def compare(workload: str, repeats: int = 2) -> list[Row]:
    """Turn the medians of all arms of one workload into rows of the table."""
    found = medians(ARMS, workload, repeats)
    ours, rows = found.pop("ours"), []
    facts = here(ours["rows"])
    for arm, other in found.items():
        note = f"dev score {ours['dev']:.3f} against {other['dev']:.3f}; peak memory "
        note += f"{ours['peak_memory_mb']:.0f} against {other['peak_memory_mb']:.0f} MB"
        for stage, said in (("train", note), ("evaluate", "predicting the training rows")):
            pair = (ours[stage], "tokens/s", f"transformers.Trainer, {arm}", other[stage])
            name = f"{stage}_{workload}_vs_{arm}_trainer"
            rows.append(measured(name, *pair, note=said, **facts))
    share = ours["share_of_peak"]
    name = "train_matmul_share_of_peak" + f"_{workload}" * (workload != "pair")
    return [*rows, measured(name, share, "share", PRODUCT, ours["peak"], ratio=share, **facts)]


pair, tagging, span = (partial(compare, name) for name in CPU)


def medians(arms: Sequence[str], workload: str, repeats: int) -> dict[str, Row]:
    """Run arms in turn, each in a process of its own, and stock Trainer once; return medians by arm."""
    asked = [
        (arm, seed) for seed in range(repeats) for arm in arms if not (seed and arm == "stock")
    ]
    found = pd.DataFrame([apart("training.one", arm, workload, seed) for arm, seed in asked])
    middle: Any = found.groupby([arm for arm, _ in asked]).median().to_dict("index")
    return middle


def here(rows: float) -> Row:
    """Return what a row says of the device, and of how many rows it worked on."""
    device = network.best_device()
    name = network.describe(device) if device.type == "cuda" else harness.machine()
    return {"device": name, "threads": torch.get_num_threads(), "rows": int(rows)}


def beside(repeats: int = 2) -> list[Row]:
    """Train pairs beside one busy neighbour, both this project's way and a tuned Trainer's."""
    alone = apart("training.one", "ours", "pair", 0)["train"]
    with harness.neighbour():
        found = medians(ARMS[1:], "pair", repeats)
    ours, tuned = found["ours"], found["tuned"]
    name = "train_pair_beside_a_neighbour_vs_tuned_trainer"
    note = f"one other program keeps a core busy; {alone:.0f} tokens/s without it"
    pair = (ours["train"], "tokens/s", "transformers.Trainer, tuned", tuned["train"])
    return [measured(name, *pair, note=note, **here(ours["rows"]))]


def one(arm: str, workload: str, seed: int) -> dict[str, Any]:
    """Run one arm of a workload that this machine can measure."""
    return run_arm(arm, (GPU if torch.cuda.is_available() else CPU)[workload], seed)


def run_arm(arm: str, work: Workload, seed: int) -> dict[str, Any]:
    """Train once and return tokens per second, matmul work, memory and dev score."""
    device, settings = network.best_device(), work.settings
    train = ours if arm == "ours" else trainer
    if device.type == "cuda":
        # Warm up: start the GPU's libraries and compile what the arm compiles.
        short = replace(work, settings=replace(settings, train_rows=1600))
        train(arm, prepared(short, seed), short, seed)
        gc.collect()  # or what is warm would count as memory of what is measured
        torch.cuda.empty_cache()
        if arm == "stock":  # a rate needs fewer rows than the others take in that time
            work = short
    ready = prepared(work, seed)
    (encoded,) = ready.train.values()
    precision = network.resolve_precision("auto", device)
    peak = matmul_peak(device, precision)
    torch.manual_seed(seed)
    found = train(arm, ready, work, seed)
    tokens = found.pop("tokens", settings.epochs * len(encoded.tokens))
    flops = matmul_flops(encoded, ready.encoder.dimension, ready.encoder.layers)
    # A shared machine's speed drifts: its peak is the best seen just before and just after.
    peak = max(peak, matmul_peak(device, precision))
    seconds, predicting = found.pop("seconds"), found.pop("predicting")
    return found | {
        "train": tokens / seconds,
        "evaluate": len(encoded.tokens) / predicting,
        "peak": peak,
        "share_of_peak": tokens / len(encoded.tokens) * flops / seconds / peak,
        "rows": encoded.rows,
    }


def ours(arm: str, ready: Prepared, work: Workload, seed: int) -> dict[str, Any]:
    """Train and predict with this project's loop."""
    ended: list[float] = []

    def look(done: int, total: int) -> None:
        if done == total:
            _synchronise()
            ended.append(time.perf_counter())

    begin = time.perf_counter()
    outcome = training.Run(ready, work.settings, seed).train(progress=look).outcome
    found = {"seconds": ended[0] - begin, "peak_memory_mb": outcome.peak_memory_mb}
    found |= {"tokens": outcome.tokens, "dev": next(iter(outcome.dev.values()), float("nan"))}
    # Predict as evaluation does: forward passes alone, with the budget of the device.
    ready = prepared(work, seed)
    ((name, encoded),) = ready.train.items()
    head = ready.formats[name].head(ready.tasks[name], ready.encoder.dimension, 0.0)
    how: dict[str, Any] = {"precision": "auto", "packed": None}
    joined = Network(ready.pruned.model, {name: head}, ready.formats, **how)
    return found | {"predicting": _least(lambda: joined.outputs(name, encoded))}


def _least(work: Callable[[], object], times: int = 2) -> float:
    return min(turns({"": work}, times)[0][""])


def _synchronise() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


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

    def multiply() -> None:
        a @ b
        _synchronise()

    _synchronise()
    return 2 * size**3 / _least(multiply, 12)


# The stock way.


def trainer(arm: str, ready: Prepared, work: Workload, seed: int) -> dict[str, Any]:
    """Train and predict with transformers.Trainer, as it comes or tuned by its arguments."""
    import transformers

    (task,), (encoded,) = ready.tasks.values(), ready.train.values()
    device, settings = network.best_device(), work.settings
    # Twice as many run out of memory on 80 GB: Trainer pads and keeps the whole word table.
    tokens = min(settings.batch_tokens, 16_384)
    rows_per_step = max(1, round(tokens / encoded.lengths.mean()))
    tuned = {
        "bf16": network.resolve_precision("auto", device) == "bf16",
        "per_device_train_batch_size": rows_per_step,
        "per_device_eval_batch_size": 4 * rows_per_step,
        "train_sampling_strategy": "group_by_length",
        "dataloader_num_workers": 4 if device.type == "cuda" else 0,
        "optim": "adamw_torch_fused",
    }
    how: dict[str, Any] = {"num_train_epochs": settings.epochs, "seed": seed}
    how |= {"learning_rate": settings.learning_rate, "use_cpu": device.type == "cpu"}
    how |= {"save_strategy": "no", "logging_strategy": "no", "report_to": [], "disable_tqdm": True}
    how |= tuned if arm == "tuned" else {}
    padded = "ForTokenClassification" if task.format == "tagging" else "WithPadding"
    collator = getattr(transformers, f"DataCollator{padded}")(ready.encoder.tokenizer)
    items, model = trainer_items(ready, encoded), trainer_model(ready, arm)
    with tempfile.TemporaryDirectory() as folder:
        arguments = transformers.TrainingArguments(folder, **how)
        stock: Any = transformers.Trainer(model, arguments, collator, items)
        model.to(device)
        _synchronise()
        begin = time.perf_counter()
        stock.train()
        _synchronise()
        found: dict[str, Any] = {"seconds": time.perf_counter() - begin}
        found |= {"peak_memory_mb": network.peak_memory_mb(device)}
        found |= {"predicting": _least(lambda: stock.predict(items))}
        return found | {"dev": trainer_dev(stock, ready)}


def trainer_items(ready: Prepared, encoded: Encoded) -> Any:
    """Return tokenised rows as a Trainer wants them, with ids of the whole table: it has no pruned one."""
    kept: Any = ready.pruned.kept
    columns: dict[str, Any] = {"input_ids": np.split(kept[encoded.tokens], encoded.starts[1:-1])}
    names = {"label": "labels", "begin": "start_positions", "end": "end_positions"}
    columns |= {names[k]: v for k, v in encoded.per_sequence.items() if k in names}
    if "tag" in encoded.per_token:
        columns["labels"] = np.split(encoded.per_token["tag"], encoded.starts[1:-1])
    rows = zip(*columns.values(), strict=True)
    return [{k: v.tolist() for k, v in zip(columns, row, strict=True)} for row in rows]


def trainer_model(ready: Prepared, arm: str) -> Any:
    """Return the encoder under transformers' own head of the task's format."""
    import transformers

    (task,), source = ready.tasks.values(), ready.encoder
    heads = {"pair": "SequenceClassification", "tagging": "TokenClassification"}
    head = heads.get(task.format, "QuestionAnswering")
    config = copy.deepcopy(source.model.config)
    config.num_labels = 2 if task.format == "span" else len(task.labels)
    if arm == "tuned":
        config.hidden_dropout_prob = config.attention_probs_dropout_prob = 0.0
    auto = getattr(transformers, f"AutoModelFor{head}")
    model = auto.from_config(config, attn_implementation="sdpa")
    base = getattr(model, model.base_model_prefix)
    base.load_state_dict(source.model.state_dict(), strict=False)
    if arm == "tuned" and source.freeze_embeddings:
        base.get_input_embeddings().weight.requires_grad_(False)
    return model


def trainer_dev(stock: Any, ready: Prepared) -> float:
    """Score a Trainer's model on the English dev rows, decoded as this project decodes."""
    if not ready.dev:
        return float("nan")
    ((name, (rows, encoded)),) = ready.dev.items()
    task, format_ = ready.tasks[name], ready.formats[name]
    # Grouped by length, answers would come in another order than their rows.
    stock.args.train_sampling_strategy = "random"
    found = stock.predict(trainer_items(ready, encoded)).predictions

    def tokens(padded: np.ndarray) -> np.ndarray:
        return np.concatenate([row[:n] for row, n in zip(padded, encoded.lengths, strict=True)])

    if task.format == "span":
        raw = {"begin_score": tokens(found[0]), "end_score": tokens(found[1])}
    else:
        best = found.argmax(-1)
        raw = {"tag": tokens(best)} if task.format == "tagging" else {"label": best}
    values = task_scores(task, rows, format_.decode(task, rows, encoded, raw))
    return values[metrics.get(task.metric).main]


# Where the time goes: what the operations of a step are, by their names in PyTorch.

PARTS = {
    "matmul": "aten::mm aten::addmm aten::bmm aten::baddbmm mkldnn",
    "attention": "aten::_scaled_dot_product aten::_softmax aten::_flash_attention",
    "optimiser": "aten::_fused_adamw aten::_foreach aten::linalg_vector_norm",
    "elementwise": "aten::gelu aten::native_layer_norm aten::add aten::mul aten::copy_ aten::sum "
    "aten::div aten::fill_ aten::cat aten::masked_fill",
}
NOTES = {
    "matmul": "attention of short sequences included",
    "attention": "softmax, and the fused kernel of long sequences",
}


def profiles(works: Iterable[Workload] = CPU.values()) -> list[Row]:
    """Return which share of the time of training goes into which kind of operation."""
    from torch.profiler import ProfilerActivity, profile

    cpu, rows = torch.device("cpu"), []
    for work in works:
        ready = prepared(work)
        ready.dev.clear()  # training alone
        (encoded,) = ready.train.values()
        peak = matmul_peak(cpu, network.resolve_precision("auto", cpu))
        with profile(activities=[ProfilerActivity.CPU]) as seen:
            outcome = training.Run(ready, work.settings, 0).train().outcome
        spent = dict.fromkeys(PARTS, 0.0)
        for event in seen.key_averages():
            for part, names in PARTS.items():
                if event.key.startswith(tuple(names.split())):
                    spent[part] += event.self_cpu_time_total / 1e6 / outcome.seconds
                    break
        spent["rest"] = 1 - sum(spent.values())
        facts: Row = {"threads": torch.get_num_threads(), "rows": ready.outcome.rows}
        for part, share in spent.items():
            name, note = f"train_{work.name}_time_in_{part}", NOTES.get(part, "")
            rows.append(measured(name, share, "share", note=note, **facts))
        passes = outcome.tokens / len(encoded.tokens)
        flops = passes * matmul_flops(encoded, ready.encoder.dimension, ready.encoder.layers)
        rate = flops / ((spent["matmul"] + spent["attention"]) * outcome.seconds) / peak
        facts |= {"ratio": rate, "note": "while matrix products and attention run"}
        name = f"train_{work.name}_matmul_rate"
        rows.append(measured(name, rate, "share", PRODUCT, peak, **facts))
    return rows
