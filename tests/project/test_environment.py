"""Dependencies are declared once; every other file agrees with that place."""

import re
import stat
import subprocess
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


def environment(path):
    return yaml.safe_load((ROOT / path).read_text("utf-8"))


def pip_lines(path):
    return next(part["pip"] for part in environment(path)["dependencies"] if isinstance(part, dict))


def conda_lines(path):
    return [part for part in environment(path)["dependencies"] if isinstance(part, str)]


@pytest.mark.parametrize("requirement", declared(), ids=lambda r: r.name)
def test_every_declared_package_is_pinned_within_its_range(requirement):
    pin = pins()[canonicalize_name(requirement.name)]
    assert pin.startswith("==") and "+" not in pin
    assert requirement.specifier.contains(pin[2:], prereleases=True)


def test_torch_and_theme_are_the_tested_ones():
    assert pins()["torch"] == "==2.13.0"
    assert (pins()["sphinx-book-theme"], pins()["pydata-sphinx-theme"]) == ("==1.2.0", "==0.16.1")


def test_the_group_all_has_every_group():
    (text,) = GROUPS["all"]
    assert Requirement(text).extras == set(GROUPS) - {"all"}


def test_conda_environment_installs_this_project_with_the_pins():
    assert environment("environment.yml")["name"] == PROJECT["project"]["name"]
    assert pip_lines("environment.yml") == ["-c constraints.txt", "-e .[all]"]
    assert {"pip", "make"} <= set(conda_lines("environment.yml"))


@pytest.mark.parametrize("path", ["environment.yml", "binder/environment.yml"])
def test_conda_python_is_one_that_the_project_supports(path):
    (line,) = [line for line in conda_lines(path) if line.startswith("python")]
    version = re.fullmatch(r"python=(3\.\d+)", line)[1]
    assert SpecifierSet(PROJECT["project"]["requires-python"]).contains(f"{version}.0")


def test_binder_has_the_pinned_versions_and_nothing_that_trains():
    for line in pip_lines("binder/environment.yml"):
        requirement = Requirement(line)
        assert str(requirement.specifier) == pins()[canonicalize_name(requirement.name)], line
    assert not {"torch", "transformers"} & {
        Requirement(line).name for line in pip_lines("binder/environment.yml")
    }


def test_data_only_packages_are_in_no_group():
    named = {Requirement(text).name for text in PROJECT["tool"]["transfer-book"]["data-only"]}
    assert not named & {Requirement(text).name for group in GROUPS.values() for text in group}


def test_make_would_run_every_target_that_help_lists():
    listed = subprocess.run(
        ["make", "--no-print-directory", "help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    targets = [line.split()[0] for line in listed.stdout.splitlines()]
    assert {"book", "test", "lab", "chapter", "study", "status", "bench"} <= set(targets)
    for target in targets:
        command = ["make", "--dry-run", target, "NAME=x", "READY=/dev/null"]
        subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)


def test_modules_that_make_calls_exist():
    called = re.findall(r"\$\(RUN\) ([a-z_.]+)", (ROOT / "Makefile").read_text("utf-8"))
    own = {name for name in called if name.startswith(("helpers", "benchmarks"))}
    missing = [
        name
        for name in own
        if not any(
            (ROOT / (name.replace(".", "/") + end)).is_file() for end in (".py", "/__main__.py")
        )
    ]
    assert missing == []


def test_ci_script_is_executable_and_calls_make_test():
    script = ROOT / ".ci" / "run"
    assert script.stat().st_mode & stat.S_IXUSR
    assert "make test" in script.read_text("utf-8")


def test_actions_are_pinned_by_commit():
    for file in (ROOT / ".github" / "workflows").glob("*.yml"):
        used = re.findall(r"uses: (\S+)", file.read_text("utf-8"))
        assert used and all(re.fullmatch(r"[\w\-]+/[\w\-]+@[0-9a-f]{40}", name) for name in used)
