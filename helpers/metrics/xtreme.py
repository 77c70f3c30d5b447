"""What XTREME and XTREME-R's official evaluation script expects: tasks, languages, files, groups."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from helpers.errors import unknown

Kind = Literal["labels", "tags", "pairs", "answers", "choices", "entities", "candidates"]


@dataclass(frozen=True)
class OfficialTask:
    """One task as the official script reads it.

    Attributes:
        name: name of its folder.
        kind: form of its files: lines of labels or of tags, pairs, answers by question id, JSON
            lines with a label, ranked entities or ranked candidates by query id.
        suffix: ending of its files.
        metric: metric in :mod:`helpers.metrics`.
        languages: languages in official order.
    """

    name: str
    kind: Kind
    suffix: str
    metric: str
    languages: tuple[str, ...]


@dataclass(frozen=True)
class Benchmark:
    """A benchmark's tasks, and the groups whose means the official script prints.

    Attributes:
        name: ``"xtreme"`` or ``"xtreme-r"``.
        tasks: its tasks by name.
        groups: names of tasks by group.
        no_overall: why the official script gives no mean over all tasks; empty if it does.
    """

    name: str
    tasks: dict[str, OfficialTask]
    groups: dict[str, tuple[str, ...]]
    no_overall: str = ""


_XNLI = "ar,bg,de,el,en,es,fr,hi,ru,sw,th,tr,ur,vi,zh"
_PANX = (
    "ar,he,vi,id,jv,ms,tl,eu,ml,ta,te,af,nl,en,de,el,bn,hi,mr,ur,fa,fr,it,pt,es,bg,ru,ja,ka,ko,th,"
    "sw,yo,my,zh,kk,tr,et,fi,hu"
)
_UDPOS = (
    "af,ar,bg,de,el,en,es,et,eu,fa,fi,fr,he,hi,hu,id,it,ja,kk,ko,mr,nl,pt,ru,ta,te,th,tl,tr,ur,vi,"
    "yo,zh"
)
_TATOEBA = (
    "ar,he,vi,id,jv,tl,eu,ml,ta,te,af,nl,de,el,bn,hi,mr,ur,fa,fr,it,pt,es,bg,ru,ja,ka,ko,th,sw,zh,"
    "kk,tr,et,fi,hu"
)
_XQUAD = "en,es,de,el,ru,tr,ar,vi,th,zh,hi"
_MLQA = "en,es,de,ar,hi,vi,zh"
_TYDIQA = "en,ar,bn,fi,id,ko,ru,sw,te"


def _tasks(*tasks: tuple[str, Kind, str, str, str]) -> dict[str, OfficialTask]:
    return {
        name: OfficialTask(name, kind, suffix, metric, tuple(languages.split(",")))
        for name, kind, suffix, metric, languages in tasks
    }


XTREME = Benchmark(
    "xtreme",
    _tasks(
        ("pawsx", "labels", "tsv", "accuracy", "de,en,es,fr,ja,ko,zh"),
        ("xnli", "labels", "tsv", "accuracy", _XNLI),
        ("panx", "tags", "tsv", "span_f1", _PANX),
        ("udpos", "tags", "tsv", "span_f1", _UDPOS),
        ("bucc2018", "pairs", "tsv", "pair_f1", "de,fr,ru,zh"),
        ("tatoeba", "labels", "tsv", "accuracy", _TATOEBA),
        ("xquad", "answers", "json", "squad", _XQUAD),
        ("mlqa", "answers", "json", "mlqa", _MLQA),
        ("tydiqa", "answers", "json", "squad", _TYDIQA),
    ),
    {
        "classification": ("pawsx", "xnli"),
        "tagging": ("udpos", "panx"),
        "qa": ("xquad", "mlqa", "tydiqa"),
        "retrieval": ("bucc2018", "tatoeba"),
    },
)

XTREME_R = Benchmark(
    "xtreme-r",
    _tasks(
        ("xnli", "labels", "tsv", "accuracy", _XNLI),
        ("panx", "tags", "tsv", "span_f1", _PANX + ",qu,pl,uk,az,lt,pa,gu,ro"),
        ("udpos", "tags", "tsv", "span_f1", _UDPOS + ",lt,pl,uk,wo,ro"),
        ("tatoeba", "labels", "tsv", "accuracy", _TATOEBA + ",az,lt,pl,uk,ro"),
        ("xcopa", "choices", "jsonl", "accuracy", "et,ht,id,it,qu,sw,ta,th,tr,vi,zh"),
        ("lareqa", "candidates", "json", "map@20", "ar,de,el,en,es,hi,ru,th,tr,vi,zh"),
        ("mewslix", "entities", "json", "mrr@20", "ar,de,en,es,fa,ja,pl,ro,ta,tr,uk"),
        ("xquad", "answers", "json", "squad", _XQUAD + ",ro"),
        ("mlqa", "answers", "json", "mlqa", _MLQA),
        ("tydiqa", "answers", "json", "squad", _TYDIQA),
    ),
    {
        "classification": ("xnli", "xcopa"),
        "tagging": ("udpos", "panx"),
        "qa": ("xquad", "mlqa", "tydiqa"),
        "retrieval": ("tatoeba", "mewslix"),
        "multi_choice": ("xcopa",),
    },
    no_overall=(
        "XTREME-R's official script cannot give a mean over all tasks: it lists LAReQA, but has no "
        "languages, no reader and no metric for it; it also counts XCOPA in two groups."
    ),
)

BENCHMARKS = {"xtreme": XTREME, "xtreme-r": XTREME_R}


def benchmark(name: str) -> Benchmark:
    """Return the facts of a benchmark.

    Raises:
        UnknownName: neither ``"xtreme"`` nor ``"xtreme-r"``.
    """
    if name not in BENCHMARKS:
        raise unknown("benchmark", name, BENCHMARKS)
    return BENCHMARKS[name]
