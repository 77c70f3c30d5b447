import re
import stat
import subprocess
import sys
import tomllib

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from helpers.pages import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
GROUPS = PROJECT["project"]["optional-dependencies"]


def declared():
    texts = [*PROJECT["project"]["dependencies"], *PROJECT["tool"]["transfer-book"]["data-only"]]
    texts += [text for group in GROUPS.values() for text in group]
    found = [Requirement(text) for text in texts]
    return [r for r in found if canonicalize_name(r.name) != PROJECT["project"]["name"]]


def pins():
    lines = (ROOT / "constraints.txt").read_text("utf-8").splitlines()
    found = [Requirement(line) for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(r.name): str(r.specifier) for r in found}


def lines(path):
    """What an environment takes from conda, and from pip."""
    parts = yaml.safe_load((ROOT / path).read_text("utf-8"))["dependencies"]
    (pip,) = [part["pip"] for part in parts if isinstance(part, dict)]
    return [part for part in parts if isinstance(part, str)], pip


@pytest.mark.parametrize("requirement", declared(), ids=lambda r: r.name)
def test_every_declared_package_is_pinned_within_its_range(requirement):
    pin = pins()[canonicalize_name(requirement.name)]
    assert pin.startswith("==") and "+" not in pin
    assert requirement.specifier.contains(pin[2:], prereleases=True)


def test_groups_and_environments_repeat_nothing_and_binder_has_nothing_that_trains():
    assert pins()["torch"] == "==2.13.0"
    assert (pins()["sphinx-book-theme"], pins()["pydata-sphinx-theme"]) == ("==1.2.0", "==0.16.1")
    (text,) = GROUPS["all"]
    assert Requirement(text).extras == set(GROUPS) - {"all"}
    named = {Requirement(text).name for text in PROJECT["tool"]["transfer-book"]["data-only"]}
    assert not named & {Requirement(text).name for group in GROUPS.values() for text in group}
    environment = yaml.safe_load((ROOT / "environment.yml").read_text("utf-8"))
    assert environment["name"] == PROJECT["project"]["name"]
    conda, pip = lines("environment.yml")
    assert pip == ["-c constraints.txt", "-e .[all]"] and {"pip", "make"} <= set(conda)
    named = [Requirement(line) for line in lines("binder/environment.yml")[1]]
    for requirement in named:
        assert str(requirement.specifier) == pins()[canonicalize_name(requirement.name)]
    assert not {"torch", "transformers"} & {requirement.name for requirement in named}
    for path in ("environment.yml", "binder/environment.yml"):
        (line,) = [line for line in lines(path)[0] if line.startswith("python")]
        version = re.fullmatch(r"python=(3\.\d+)", line)[1]
        assert SpecifierSet(PROJECT["project"]["requires-python"]).contains(f"{version}.0")


@pytest.mark.parametrize("module", ["torch", "datasets", "transformers"])
def test_what_is_not_on_the_list_of_binder_cannot_be_imported_there(module):
    code = f"from tests.project import light; light.refuse(); import pandas, {module}"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert f"No module named '{module}': it is not on the list" in done.stderr


def test_make_would_run_every_target_that_help_lists_with_modules_that_exist():
    said = {"cwd": ROOT, "capture_output": True, "text": True, "check": True}
    listed = subprocess.run(["make", "--no-print-directory", "help"], **said)
    targets = [line.split()[0] for line in listed.stdout.splitlines()]
    assert {"book", "test", "lab", "chapter", "study", "status", "bench"} <= set(targets)
    for target in targets:
        subprocess.run(["make", "--dry-run", target, "NAME=x", "READY=/dev/null"], **said)
    called = re.findall(r"\$\(RUN\) ([a-z_.]+)", (ROOT / "Makefile").read_text("utf-8"))
    for name in {name for name in called if name.startswith(("helpers", "benchmarks"))}:
        place = ROOT / name.replace(".", "/")
        assert place.with_suffix(".py").is_file() or (place / "__main__.py").is_file(), name


def test_ci_script_is_executable_and_calls_make_test_and_actions_are_pinned_by_commit():
    script = ROOT / ".ci" / "run"
    assert script.stat().st_mode & stat.S_IXUSR
    assert "make test" in script.read_text("utf-8")
    for file in (ROOT / ".github" / "workflows").glob("*.yml"):
        used = re.findall(r"uses: (\S+)", file.read_text("utf-8"))
        assert used and all(re.fullmatch(r"[\w\-]+/[\w\-]+@[0-9a-f]{40}", name) for name in used)
