"""Files are replaced atomically, and one process at a time writes to a folder."""

import os

import pytest

from llm import files
from llm.configurator import UserError
from llm.files import atomic_file, locked_folder, remove_temporary_files, write_atomic


def test_a_file_is_replaced_only_when_the_block_ends(tmp_path):
    path = tmp_path / "a"
    write_atomic(path, b"old")
    with atomic_file(path) as f:
        f.write(b"new")
        f.flush()
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new" and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_an_interrupted_write_leaves_the_old_file_and_no_temporary_file(tmp_path, error):
    path = tmp_path / "a"
    write_atomic(path, b"old")
    with pytest.raises(error), atomic_file(path) as f:
        f.write(b"new")
        raise error
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]


def test_a_write_that_the_system_refuses_gives_a_one_line_error(tmp_path):
    with pytest.raises(UserError, match="cannot write .*: No such file or directory"):
        write_atomic(tmp_path / "nowhere" / "a", b"")
    (tmp_path / "folder").mkdir()
    with pytest.raises(UserError, match="cannot write .*folder"):
        write_atomic(tmp_path / "folder", b"")


def test_a_file_larger_than_the_free_space_is_refused_before_anything_is_written(tmp_path):
    message = r"cannot write .*: it takes [\d,]+ MB, and [\d,]+ MB are free on this disk"
    with pytest.raises(UserError, match=message), atomic_file(tmp_path / "a", needed=10**18):
        pytest.fail("the block must not run")
    assert not list(tmp_path.iterdir())


def test_only_temporary_files_that_match_are_removed(tmp_path):
    for name in (".ckpt.pt.123.tmp", ".ckpt_last.pt.7.tmp", "ckpt.pt", ".meta.json.123.tmp"):
        (tmp_path / name).touch()
    remove_temporary_files(tmp_path, "ckpt*.pt")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".meta.json.123.tmp", "ckpt.pt"]


def test_a_locked_folder_is_refused_until_it_is_released_even_by_an_error(tmp_path):
    """flock locks belong to an open file, so a second lock conflicts within one process as between two."""
    pytest.importorskip("fcntl")
    with pytest.raises(ValueError), locked_folder(tmp_path):
        message = rf"being written to by another training \(process {os.getpid()}\)"
        with pytest.raises(UserError, match=message), locked_folder(tmp_path):
            pytest.fail("the block must not run")
        raise ValueError
    with locked_folder(tmp_path):
        assert (tmp_path / ".lock").read_text() == str(os.getpid())


def test_a_file_system_without_locks_is_told(tmp_path, monkeypatch, capsys):
    def flock(*_):
        raise OSError(37, "No locks available")

    monkeypatch.setattr(files.fcntl, "flock", flock)
    with locked_folder(tmp_path):
        assert "cannot be locked (No locks available): start no second training there" in capsys.readouterr().err


def test_without_fcntl_folders_are_not_locked(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "fcntl", None)
    with locked_folder(tmp_path), locked_folder(tmp_path):
        assert (tmp_path / ".lock").read_text() == str(os.getpid())
