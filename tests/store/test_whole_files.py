import errno
import os

import pytest
import torch

from helpers import files
from helpers.errors import BadRecord, HelpfulError, StoreFull
from helpers.files import load_tensors, save_tensors, sha256_file, write_atomic


def left_in(folder):
    return sorted(path.name for path in folder.iterdir())


def raising(number):
    def broken(*arguments, **options):
        raise OSError(number, os.strerror(number))

    return broken


def test_content_is_written_into_new_folders_and_replaced(tmp_path):
    path = tmp_path / "a" / "b" / "file.bin"
    for content in (b"old", b"new"):
        write_atomic(path, content)
    assert path.read_bytes() == b"new" and left_in(path.parent) == ["file.bin"]
    with pytest.raises(HelpfulError, match="choose another"):  # a folder that cannot be made
        write_atomic(path / "inside", b"new")


@pytest.mark.parametrize("place", ["replace", "fsync", "fdopen", "open"])
@pytest.mark.parametrize(
    ("number", "kind", "advice"),
    [
        (errno.ENOSPC, StoreFull, "Free some space"),
        (errno.EDQUOT, StoreFull, "Free some space"),
        (errno.EIO, HelpfulError, "or choose another"),
    ],
)
@pytest.mark.parametrize("before", [[], ["file.bin"]])
def test_a_failed_write_changes_nothing(place, number, kind, advice, before, tmp_path, monkeypatch):
    for name in before:
        write_atomic(tmp_path / name, b"old")
    monkeypatch.setattr(files.os, place, raising(number))
    with pytest.raises(kind, match=f"file.bin.*{advice}") as error:
        write_atomic(tmp_path / "file.bin", b"new")
    assert type(error.value) is kind
    monkeypatch.undo()
    assert left_in(tmp_path) == before
    assert all((tmp_path / name).read_bytes() == b"old" for name in before)


def test_tensors_and_facts_come_back_and_every_flipped_byte_is_noticed(tmp_path):
    path, sum_file = tmp_path / "state.safetensors", tmp_path / "state.safetensors.sha256"
    tensors = {"a": torch.arange(6.0).reshape(2, 3).T, "b": torch.tensor(3), "c": torch.zeros(0)}
    facts = {"name": "\u4e2d", "steps": 4, "dev": {"x": 0.1}}
    save_tensors(path, tensors, facts)
    found, said = load_tensors(path)
    assert said == facts and found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert torch.equal(found[name], tensor) and found[name].dtype == tensor.dtype
    assert sum_file.read_text() == sha256_file(path) and len(sum_file.read_text()) == 64
    for file in (path, sum_file):
        content = file.read_bytes()
        for place in range(0, len(content), 7):
            for flip in (1, 128):
                changed = bytes([content[place] ^ flip])
                file.write_bytes(content[:place] + changed + content[place + 1 :])
                with pytest.raises(BadRecord, match="state.safetensors"):
                    load_tensors(path)
        file.write_bytes(content)
    load_tensors(path)


def test_a_file_of_another_kind_or_without_its_checksum_is_not_trusted(tmp_path, monkeypatch):
    path, sum_file = tmp_path / "state.safetensors", tmp_path / "state.safetensors.sha256"
    write_atomic(path, b"not tensors")
    write_atomic(sum_file, sha256_file(path).encode())
    with pytest.raises(BadRecord, match="not a safetensors file"):
        load_tensors(path)
    sum_file.unlink()
    with pytest.raises(BadRecord, match="checksum is missing"):
        load_tensors(path)
    # A write that is cut off between content and checksum.
    save_tensors(path, {"a": torch.zeros(1)}, {})
    real, cut = files.write_atomic, lambda at, content: real(at, content) if at == path else 1 / 0
    monkeypatch.setattr(files, "write_atomic", cut)
    with pytest.raises(ZeroDivisionError):
        save_tensors(path, {"a": torch.ones(1)}, {})
    with pytest.raises(BadRecord, match="missing"):
        load_tensors(path)
