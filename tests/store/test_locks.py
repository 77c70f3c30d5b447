"""Claims keep processes apart, and none of them outlives its holder."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path

import pytest

from helpers.study import locks

_HOLD = """
import sys, time
from pathlib import Path
from helpers.study import locks
claim = locks.claim(Path(sys.argv[1]))
print("held" if claim else "refused", flush=True)
time.sleep(60)
"""


def holder_process(path: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", _HOLD, str(path)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout and process.stdout.readline().strip() == "held"
    return process


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "claims" / "ab12.json"


def foreign(path: Path, **changes: object) -> locks.Holder:
    """Leave a claim as a process on another machine would."""
    claim = locks.claim(path)
    assert claim
    locks._Heart.remove(claim)
    holder = locks.Holder(**(asdict(claim.holder) | {"machine": "elsewhere|boot|pid"} | changes))
    path.write_text(json.dumps(asdict(holder)))
    return holder


def test_one_holder_at_a_time(path: Path) -> None:
    with locks.claim(path) as claim:
        assert claim
        assert locks.claim(path) is None and locks.held(path)
    assert not path.exists() and not locks.held(path)
    assert locks.claim(path)


def test_a_living_holder_is_left_alone_and_a_killed_one_replaced_at_once(path: Path) -> None:
    process = holder_process(path)
    try:
        assert locks.claim(path) is None
        process.kill()
        process.wait()
        claim = locks.claim(path)
        assert claim and json.loads(path.read_text())["pid"] == os.getpid()
    finally:
        process.kill()
        assert process.stdout
        process.stdout.close()


def test_a_number_that_another_process_uses_now_is_not_mistaken_for_the_holder(path: Path) -> None:
    mine = locks.Holder(locks._machine(), os.getpid(), "12345", "t")
    path.parent.mkdir()
    path.write_text(json.dumps(asdict(mine)))
    assert locks.claim(path)


def test_a_reboot_frees_the_claims_of_this_host(path: Path) -> None:
    host, boot, space = locks._machine().split("|")
    if not boot:
        pytest.skip("this system does not number its boots")
    foreign(path, machine=f"{host}|another-boot|{space}")
    assert locks.claim(path)


def test_a_holder_elsewhere_is_given_up_only_after_silence(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [1000.0]
    monkeypatch.setattr(locks.time, "monotonic", lambda: now[0])
    foreign(path)
    assert locks.claim(path) is None
    now[0] += locks.PATIENCE - 1
    assert locks.claim(path) is None
    os.utime(path)  # it beats
    now[0] += 2
    assert locks.claim(path) is None
    now[0] += locks.PATIENCE + 1
    assert locks.claim(path)


@pytest.mark.parametrize("jump", [-10 * 365 * 86400, -3600, 3600, 10 * 365 * 86400])
def test_clocks_that_jump_or_disagree_change_nothing(
    path: Path, monkeypatch: pytest.MonkeyPatch, jump: int
) -> None:
    now = [1000.0]
    monkeypatch.setattr(locks.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(locks.time, "time", lambda: pytest.fail("wall clock"))
    foreign(path)
    assert locks.claim(path) is None
    for step in range(5):
        os.utime(path, (time.time_ns() // 10**9 + jump + step,) * 2)
        now[0] += locks.PATIENCE * 0.9
        assert locks.claim(path) is None


def test_a_claim_that_cannot_be_read_is_replaced_after_silence(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr(locks.time, "monotonic", lambda: now[0])
    path.parent.mkdir()
    path.write_text("{half")
    assert locks.claim(path) is None
    now[0] += locks.PATIENCE + 1
    assert locks.claim(path)


def test_a_holder_that_was_replaced_does_not_remove_the_new_claim(path: Path) -> None:
    claim = locks.claim(path)
    assert claim
    new = foreign_over(path)
    claim.beat()
    claim.release()
    assert json.loads(path.read_text())["token"] == new.token


def foreign_over(path: Path) -> locks.Holder:
    path.unlink()
    return foreign(path)


def test_holders_beat(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "BEAT", 0.02)
    monkeypatch.setattr(locks._Heart, "_thread", None)
    with locks.claim(path) as claim:
        assert claim
        os.utime(path, (0, 0))
        deadline = time.monotonic() + 10
        while path.stat().st_mtime_ns == 0 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert path.stat().st_mtime_ns > 0


_RACE = """
import sys, time
from pathlib import Path
from helpers.study import locks
path, out = Path(sys.argv[1]), Path(sys.argv[2])
while not (path.parent / "go").exists():
    time.sleep(0.001)
claim = locks.claim(path)
if claim:
    (out / claim.holder.token).touch()
    print("held", flush=True)
time.sleep(2)
"""


def test_of_many_that_want_a_dead_claim_one_gets_it(path: Path, tmp_path: Path) -> None:
    path.parent.mkdir()
    dead = locks.Holder(locks._machine(), 2**22 - 1, "1", "dead")
    path.write_text(json.dumps(asdict(dead)))
    winners = tmp_path / "winners"
    winners.mkdir()
    command = [sys.executable, "-c", _RACE, str(path), str(winners)]
    racers = [subprocess.Popen(command, stdout=subprocess.DEVNULL) for _ in range(6)]
    time.sleep(1)
    (path.parent / "go").touch()
    for racer in racers:
        assert racer.wait(60) == 0
    assert len(list(winners.iterdir())) == 1
