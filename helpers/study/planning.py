"""Turn a profile and a few names into a plan, or say at once everything that is missing."""

from __future__ import annotations

import functools
import math
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from helpers import tasks
from helpers.errors import BadPlan, HelpfulError, MissingData, unknown
from helpers.models.settings import Settings
from helpers.study import profiles
from helpers.study.costs import CHARACTERS_PER_TOKEN
from helpers.study.plans import Builder, Plan, digest
from helpers.study.profiles import CONDITIONS, Profile
from helpers.study.surveys import Survey, Surveys, encoder_key
from helpers.tasks import Task

# In place of languages: evaluate wherever the data are at hand, and say where they are not.
AVAILABLE = "available"
# The intermediate stage of these conditions is one run per intermediate task.
_PER_TASK = ("single", "mlm", "translated", "shuffled")
_SHOWN = 20  # data sets that lack rows, so that the list of problems fits on a screen
# Where Linux shows the drivers of NVIDIA's and AMD's GPUs, and of those behind Windows.
_DRIVERS = ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg")


@dataclass(frozen=True)
class Wish:
    """What a plan was asked for, checked: names exist, defaults are filled in."""

    profile: Profile
    encoder: str
    intermediates: tuple[Task, ...]
    targets: tuple[Task, ...]
    conditions: tuple[str, ...]
    seeds: tuple[int, ...]
    languages: tuple[str, ...]
    available: bool = False

    @property
    def baseline_seeds(self) -> tuple[int, ...]:
        """Return twice as many seeds: half of the baselines may serve as a covariate."""
        more = (seed for seed in range(2 * len(self.seeds)) if seed not in self.seeds)
        return (*self.seeds, *more)[: 2 * len(self.seeds)]

    def languages_of(self, target: Task) -> list[str]:
        """Return the languages in which a target is evaluated."""
        return [code for code in target.languages if not self.languages or code in self.languages]


def make(wish: Wish, surveys: Surveys) -> Plan:
    """Make a plan.

    Args:
        wish: what is asked for.
        surveys: what is known of the tasks' rows.

    Raises:
        BadPlan: data or the encoder are not there; the text names all of it.
    """
    maker = _Maker(wish, surveys)
    plan = maker.plan()
    surveys.save()
    problems = maker.problems + maker.by_data_set()
    if problems:
        raise BadPlan(listed("this plan cannot run", problems))
    return plan


def listed(what: str, problems: Sequence[str]) -> str:
    """Return one text that names every problem."""
    lines = "\n".join(f"  - {problem}" for problem in problems)
    return f"{what}: {len(problems)} problem{'s' * (len(problems) > 1)}.\n{lines}"


def wish(
    profile: str | Profile,
    intermediates: Iterable[str] | None = None,
    targets: Iterable[str] | None = None,
    conditions: Iterable[str] = ("none", "single"),
    seeds: int | Iterable[int] | None = None,
    encoder: str | None = None,
    languages: Iterable[str] | None = None,
) -> Wish:
    """Check names and fill in what the profile says; see ``helpers.study.plan``.

    Raises:
        UnknownName: a profile, condition or language that does not exist.
        BadPlan: tasks that do not exist or have the wrong role; the text names all of them.
    """
    chosen = profiles.get(profile) if isinstance(profile, str) else profile
    problems: list[str] = []
    first = _tasks(intermediates, chosen.intermediates, "intermediate", problems)
    then = _tasks(targets, chosen.targets, "target", problems)
    if problems:
        raise BadPlan(listed("this plan cannot run", problems))
    wanted = _names(conditions)
    for name in wanted:
        if name not in CONDITIONS:
            raise unknown("condition", name, CONDITIONS)
    available = languages == AVAILABLE
    codes = () if available else _names(languages)
    known = {code for task in then for code in task.languages}
    for code in codes:
        if code not in known:
            raise tasks.unknown_language("language", code, known)
    numbers = chosen.seeds if seeds is None else seeds
    listing = tuple(range(numbers)) if isinstance(numbers, int) else tuple(numbers)
    if not listing or len(set(listing)) < len(listing) or min(listing) < 0:
        raise BadPlan(f"seeds must be different numbers from 0 up, at least one; got {listing}.")
    name = encoder or chosen.encoder
    return Wish(chosen, name, first, then, wanted, listing, codes, available)


def _names(value: Iterable[str] | None) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else tuple(value or ())


def _tasks(
    given: Iterable[str] | None, default: tuple[str, ...], role: str, problems: list[str]
) -> tuple[Task, ...]:
    found = []
    for name in default if given is None else _names(given):
        try:
            task = tasks.get(name)
        except HelpfulError as error:
            problems.append(str(error))
            continue
        if task.role != role:
            problems.append(f"task {name!r} is {_a(task.role)}, not {_a(role)}.")
        found.append(task)
    return tuple({task.name: task for task in found}.values())


def _a(role: str) -> str:
    return f"{'an' if role[0] in 'aeiou' else 'a'} {role}"


class _Maker:
    """One plan in the making."""

    def __init__(self, wish: Wish, surveys: Surveys) -> None:
        self.wish = wish
        self.surveys = surveys
        self.problems: list[str] = []
        self.lacking: dict[tuple[str, ...], list[tuple[str, str]]] = {}
        self.sources: dict[str, dict[str, str]] = {}
        self.absent: dict[str, list[str]] = {}
        self.encoder = self._encoder()
        self.builder = Builder(self.encoder["identity"], wish.profile.judged)

    def plan(self) -> Plan:
        """Add all runs and return them; problems are collected on the way."""
        for target in self.wish.targets:
            if not self.wish.languages_of(target):
                text = f"target {target.name!r} has none of the languages asked for"
                self.problems.append(f"{text}: {', '.join(self.wish.languages)}.")
        for condition in ("none", "more_target"):
            if condition in self.wish.conditions:
                self._baselines(condition)
        for seed in self.wish.seeds:
            for condition in self.wish.conditions:
                for group in self._groups(condition):
                    self._chain(condition, group, seed)
        profile = self.wish.profile
        facts = {
            "keep": profile.keep,
            "judged": list(profile.judged),
            "seeds": list(self.wish.seeds),
        }
        facts |= {"languages": list(self.wish.languages), "encoder": self.builder.encoder}
        facts |= {"absent": self.absent}
        return Plan(
            profile=profile.name,
            encoder=self.wish.encoder,
            runs=self.builder.table(),
            parts=self.builder.parts,
            sources=self.sources,
            facts=facts | self.encoder["facts"],
        )

    def _encoder(self) -> dict[str, Any]:
        try:
            name = self.wish.encoder
            made = self.surveys.kept(encoder_key(name), lambda: describe_encoder(name))
            return {"identity": made["identity"], "facts": made["facts"] | {"device": device()}}
        except HelpfulError as error:
            self.problems.append(f"encoder: {error}")
            return {"identity": {"sha256": ""}, "facts": {}}

    def _groups(self, condition: str) -> list[tuple[str, ...]]:
        """Return the intermediate stages of a condition, each as the tasks it trains on."""
        names = tuple(task.name for task in self.wish.intermediates)
        if condition == "multitask":
            return [names]
        if condition == "translated":
            return [(twin,) for twin in map(self._translated, names) if twin]
        return [(name,) for name in names] if condition in _PER_TASK else []

    def _translated(self, name: str) -> str:
        twin = f"{name}-translated"
        if twin in tasks.names():
            return twin
        text = f"condition 'translated' needs a task {twin!r} with the translated rows of "
        self._problem(f"{text}{name!r}; register one.")
        return ""

    def _baselines(self, condition: str) -> None:
        for target in self.wish.targets:
            if target.format == "retrieval":
                # Nothing is trained, so nothing is random: one run is all there is to know.
                seeds: tuple[int, ...] = (0,) if condition == "none" else ()
            else:
                seeds = self.wish.baseline_seeds if condition == "none" else self.wish.seeds
            for seed in seeds:
                self._target(condition, target.name, seed)

    def _chain(self, condition: str, group: tuple[str, ...], seed: int) -> None:
        name = "+".join(group)
        settings, data, tokens = self._intermediate(condition, group)
        run = self.builder.add(
            stage="intermediate",
            condition=condition,
            seed=seed,
            data=data,
            settings=settings,
            intermediate=name,
            tokens=(tokens, 0),
        )
        for target in self.wish.targets:
            self._target(condition, target.name, seed, intermediate=name, parent=run)

    def _target(self, condition: str, target: str, seed: int, **links: str) -> None:
        settings, data, evaluation, tokens = self._facts_of_target(condition, target)
        self.builder.add(
            stage="target",
            condition=condition,
            seed=seed,
            data=data,
            settings=settings,
            evaluation=evaluation,
            target=target,
            tokens=tokens,
            **links,
        )

    @functools.cache  # noqa: B019  (a maker lives as long as its plan is made)
    def _intermediate(self, condition: str, group: tuple[str, ...]) -> tuple[str, str, int]:
        settings = self.wish.profile.settings(tasks.get(group[0]), "intermediate", condition)
        facts, tokens = {}, 0.0
        for name in group:
            facts[name], count = self._training(tasks.get(name), settings)
            tokens += count * settings.epochs
        tokens /= 1 - settings.mlm_share
        data: dict[str, Any] = {"tasks": facts}
        if settings.mlm_share:
            data["text"] = self._text(settings)
        return self.builder.settings(settings.facts()), self.builder.part(data), int(tokens)

    def _text(self, settings: Settings) -> dict[str, str]:
        """Return the fingerprints of the text for masked language modelling."""
        from helpers.data import texts

        found = {}
        for language in settings.mlm_languages:
            try:
                found[language] = texts(language, settings.mlm_rows or None).fingerprint
            except HelpfulError as error:
                self._problem(f"text in {language!r}: {error}")
        return found

    @functools.cache  # noqa: B019
    def _facts_of_target(self, condition: str, name: str) -> tuple[str, str, str, tuple[int, int]]:
        target = tasks.get(name)
        rows = self.wish.profile.test_rows.get(target.format, 0)
        fingerprints, tested = self._testing(target, rows)
        settings, trained, facts = "", 0.0, _facts(target)
        if target.format != "retrieval":
            chosen = self.wish.profile.settings(target, "target", condition)
            settings = self.builder.settings(chosen.facts())
            facts, count = self._training(target, chosen)
            trained = count * chosen.epochs
        data = self.builder.part(
            {
                "tasks": {target.name: facts},
                "test_rows": rows,
                "splits": _splits(target),
                "layer": self._layer(target) if target.format == "retrieval" else None,
            }
        )
        return settings, data, self.builder.part(fingerprints), (int(trained), int(tested))

    def _training(self, task: Task, settings: Settings) -> tuple[dict[str, Any], float]:
        """Return what identifies a task's training, and the tokens of one epoch."""
        facts, tokens = _facts(task), 0.0
        source = tasks.get(task.train_with) if task.train_with else task
        for split in ("train", "dev"):
            survey = self._survey(source, "en", split)
            facts[split] = survey.fingerprint if survey else ""
            facts[f"{split}_rows"] = survey.rows if survey else 0
            if survey and split == "train":
                tokens = _tokens(survey, settings.train_rows, _longest(task, settings))
                self.sources.setdefault(task.name, {}).setdefault("train", survey.source)
        return facts, tokens

    def _testing(self, target: Task, limit: int) -> tuple[dict[str, str], float]:
        """Return the fingerprint of each language's rows, and the tokens of all."""
        fingerprints, tokens = {}, 0.0
        for language in self._languages(target):
            survey = self._survey(target, language, test_split(target, language))
            if survey:
                fingerprints[language] = survey.fingerprint
                tokens += _tokens(survey, limit, _longest(target))
                self.sources.setdefault(target.name, {})[language] = survey.source
        return fingerprints, tokens

    def _layer(self, target: Task) -> int | None:
        """Return the hidden state that retrieval reads: chosen once, on the plain encoder."""
        if not any("dev" in source.splits for source in target.source.flat()):
            return self.wish.profile.layer or None
        survey = self._survey(target, target.languages[0], "dev")
        if survey is None or not self.encoder["facts"]:
            return None
        content = f"{self.encoder['identity']} {target.name} {survey.fingerprint}"
        return self.surveys.layer(digest(content), self.wish.encoder, target)

    def _languages(self, target: Task) -> list[str]:
        """Return the languages to evaluate; note those whose data are not at hand if that is fine."""
        wanted = self.wish.languages_of(target)
        if not self.wish.available:
            return wanted
        found = [code for code in wanted if self._at_hand(target, code)]
        self.absent[target.name] = [code for code in wanted if code not in found]
        if not found:
            self._problem(f"target {target.name!r}: no language's data are at hand.")
        return found

    def _at_hand(self, target: Task, language: str) -> bool:
        try:
            self.surveys.of(target, language, test_split(target, language))
        except MissingData:
            return False
        return True

    def _survey(self, task: Task, language: str, split: str) -> Survey | None:
        try:
            return self.surveys.of(task, language, split)
        except HelpfulError as error:
            held = tuple(sorted({source.id for source in task.source.serving(language, split)}))
            places = self.lacking.setdefault(held or (task.name,), [])
            entry = (f"{task.name!r} {language} {split}", " ".join(str(error).split()))
            if entry not in places:
                places.append(entry)
            return None

    def by_data_set(self) -> list[str]:
        """Return one problem per data set that lacks rows: what is asked of it, and why it fails."""
        found = []
        for number, entries in enumerate(self.lacking.values()):
            places = ", ".join(place for place, _ in entries[:4])
            more = f" and {len(entries) - 4} more" if len(entries) > 4 else ""
            # The first says in full what to do; the same advice need not fill the screen.
            text = entries[0][1] if not number else _shortened(entries[0][1], 160)
            found.append(f"task {places}{more}: {text}")
        if len(found) > _SHOWN:
            found[_SHOWN:] = [f"and {len(found) - _SHOWN} more data sets that are not at hand."]
        return found

    def _problem(self, text: str) -> None:
        if text not in self.problems:
            self.problems.append(text)


def _shortened(text: str, most: int) -> str:
    return text if len(text) <= most else text[:most].rsplit(" ", 1)[0] + " ..."


def test_split(task: Task, language: str) -> str:
    """Return the split a target is evaluated on: ``test``, or ``dev`` where none is public."""
    return "test" if task.source.serving(language, "test") else "dev"


def _splits(target: Task) -> dict[str, list[str]]:
    """Return the languages that are evaluated on each split."""
    found: dict[str, list[str]] = {}
    for language in target.languages:
        found.setdefault(test_split(target, language), []).append(language)
    return found


@functools.lru_cache(maxsize=8)
def describe_encoder(name: str) -> dict[str, Any]:
    """Return what identifies an encoder, and the facts a cost needs."""
    from helpers.study.execution import encoder_of

    encoder = encoder_of(name)
    total = sum(weights.numel() for weights in encoder.model.parameters())
    words = encoder.model.get_input_embeddings().weight.numel()  # type: ignore[operator]
    return {
        "identity": {"sha256": encoder.sha256, "layers": encoder.layers},
        "facts": {
            "parameters": total - words,
            "words": words,
            "trained_parameters": total - words * encoder.freeze_embeddings,
        },
    }


def device() -> str:
    """Return the kind of the best device here; where no driver is, without loading PyTorch."""
    if sys.platform == "linux" and not any(Path(place).exists() for place in _DRIVERS):
        return "cpu"
    from helpers.models.network import best_device

    return best_device().type


def _facts(task: Task) -> dict[str, Any]:
    """Return the facts of a task that change a result, beyond its rows."""
    return {
        "format": task.format,
        "metric": task.metric,
        "labels": list(task.labels),
        "max_length": task.max_length,
    }


def _tokens(survey: Survey, limit: int, longest: float) -> float:
    rows = min(survey.rows, limit) if limit else survey.rows
    return rows * survey.sequences * min(survey.characters / CHARACTERS_PER_TOKEN + 3, longest)


def _longest(task: Task, settings: Settings | None = None) -> float:
    """Return the most tokens of a sequence; long contexts of questions are cut into windows."""
    if task.format == "span":
        return math.inf
    return min(task.max_length, settings.max_length) if settings else task.max_length
