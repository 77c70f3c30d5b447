import errno
import os

import pytest
import torch

from helpers import files
from helpers.errors import BadRecord, HelpfulError, StoreFull
from helpers.files import load_tensors, save_tensors, sha256_file, write_atomic


def left_in(folder):
    return sorted(path.name for path in folder.iterdir())


def test_content_is_written_into_new_folders_and_replaced(tmp_path):
    path = tmp_path / "a" / "b" / "file.bin"
    write_atomic(path, b"old")
    write_atomic(path, b"new")
    assert path.read_bytes() == b"new" and left_in(path.parent) == ["file.bin"]


@pytest.mark.parametrize("place", ["replace", "fsync", "fdopen"])
@pytest.mark.parametrize(
    ("number", "kind"),
    [(errno.ENOSPC, StoreFull), (errno.EDQUOT, StoreFull), (errno.EIO, HelpfulError)],
)
def test_a_failed_write_leaves_the_old_content_and_nothing_else(
    place, number, kind, tmp_path, monkeypatch
):
    path = tmp_path / "file.bin"
    write_atomic(path, b"old")

    def broken(*arguments):
        if place == "fdopen":
            os.close(arguments[0])
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(files.os, place, broken)
    with pytest.raises(kind, match="file.bin") as error:
        write_atomic(path, b"new")
    assert type(error.value) is kind
    monkeypatch.undo()
    assert path.read_bytes() == b"old" and left_in(tmp_path) == ["file.bin"]


def test_a_first_write_that_fails_leaves_no_file(tmp_path, monkeypatch):
    def full(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files.os, "replace", full)
    with pytest.raises(StoreFull, match="Free some space"):
        write_atomic(tmp_path / "file.bin", b"new")
    assert left_in(tmp_path) == []


def test_a_folder_that_cannot_be_made_is_explained(tmp_path, monkeypatch):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(HelpfulError, match="choose another"):
        write_atomic(tmp_path / "file" / "inside", b"new")

    def full(*arguments, **options):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files.tempfile, "mkstemp", full)
    with pytest.raises(StoreFull):
        write_atomic(tmp_path / "other", b"new")


def test_tensors_and_facts_come_back(tmp_path):
    path = tmp_path / "state.safetensors"
    tensors = {"a": torch.arange(6.0).reshape(2, 3).T, "b": torch.tensor(3), "c": torch.zeros(0)}
    facts = {"name": "\u4e2d", "steps": 4, "dev": {"x": 0.1}}
    save_tensors(path, tensors, facts)
    found, said = load_tensors(path)
    assert said == facts and found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert torch.equal(found[name], tensor) and found[name].dtype == tensor.dtype
    checksum = (tmp_path / "state.safetensors.sha256").read_text()
    assert checksum == sha256_file(path) and len(checksum) == 64


def test_every_flipped_byte_is_noticed(tmp_path):
    path = tmp_path / "state.safetensors"
    save_tensors(path, {"a": torch.arange(4.0)}, {"n": 1})
    for file in (path, tmp_path / "state.safetensors.sha256"):
        content = file.read_bytes()
        for place in range(0, len(content), 7):
            for flip in (1, 128):
                file.write_bytes(
                    content[:place] + bytes([content[place] ^ flip]) + content[place + 1 :]
                )
                with pytest.raises(BadRecord, match="state.safetensors"):
                    load_tensors(path)
        file.write_bytes(content)
    load_tensors(path)


def test_a_file_without_its_checksum_is_not_trusted(tmp_path):
    path = tmp_path / "state.safetensors"
    save_tensors(path, {"a": torch.zeros(1)})
    (tmp_path / "state.safetensors.sha256").unlink()
    with pytest.raises(BadRecord, match="checksum is missing"):
        load_tensors(path)


def test_a_file_of_another_kind_with_a_checksum_is_named(tmp_path):
    path = tmp_path / "state.safetensors"
    write_atomic(path, b"not tensors")
    write_atomic(tmp_path / "state.safetensors.sha256", sha256_file(path).encode())
    with pytest.raises(BadRecord, match="not a safetensors file"):
        load_tensors(path)


def test_a_write_cut_off_between_content_and_checksum_is_noticed(tmp_path, monkeypatch):
    path = tmp_path / "state.safetensors"
    save_tensors(path, {"a": torch.zeros(1)})
    written = []

    def once(target, content):
        if written:
            raise KeyboardInterrupt
        written.append(target)
        write_atomic(target, content)

    monkeypatch.setattr(files, "write_atomic", once)
    with pytest.raises(KeyboardInterrupt):
        save_tensors(path, {"a": torch.ones(1)})
    with pytest.raises(BadRecord, match="missing"):
        load_tensors(path)
