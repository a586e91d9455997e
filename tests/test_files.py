"""Files are replaced atomically, and one process at a time writes to a folder."""

import errno
import os

import pytest

from llm import files
from llm.configurator import UserError
from llm.files import atomic_file, locked_folder, open_regular, read_regular, remove_temporary_files, write_atomic
from llm.storage.checkpoint import make_out_dir


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


def test_a_folder_stays_locked_when_its_file_lock_is_removed(tmp_path):
    """Whoever removed it by hand, as one would a stale one, could start a second training beside the first."""
    pytest.importorskip("fcntl")
    with locked_folder(tmp_path):
        (tmp_path / ".lock").unlink()
        for _ in range(2):  # the first try leaves a file .lock of its own
            with pytest.raises(UserError, match="being written to by another training"), locked_folder(tmp_path):
                pytest.fail("the block must not run")
    with locked_folder(tmp_path):
        assert (tmp_path / ".lock").read_text() == str(os.getpid())


def test_a_file_system_that_locks_only_what_can_be_written_is_enough(tmp_path, monkeypatch, capsys):
    """NFS, where a folder cannot be locked; the file .lock is."""
    flock = pytest.importorskip("fcntl").flock

    def files_alone(file, operation):
        if isinstance(file, int):
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        flock(file, operation)

    monkeypatch.setattr(files.fcntl, "flock", files_alone)
    with locked_folder(tmp_path), pytest.raises(UserError, match="another training"), locked_folder(tmp_path):
        pytest.fail("the block must not run")
    assert not capsys.readouterr().err


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


def test_a_link_with_the_name_of_the_temporary_file_is_replaced_and_not_followed(tmp_path):
    (tmp_path / "victim").write_bytes(b"precious")
    (tmp_path / f".a.{os.getpid()}.tmp").symlink_to("victim")
    write_atomic(tmp_path / "a", b"new")
    assert (tmp_path / "victim").read_bytes() == b"precious" and (tmp_path / "a").read_bytes() == b"new"


def test_a_link_is_replaced_and_not_followed(tmp_path):
    (tmp_path / "victim").write_bytes(b"precious")
    (tmp_path / "a").symlink_to("victim")
    write_atomic(tmp_path / "a", b"new")
    assert (tmp_path / "victim").read_bytes() == b"precious" and (tmp_path / "a").read_bytes() == b"new"


@pytest.mark.parametrize("mode", ["ab", "a+b", "wb"])
def test_no_link_is_followed_to_write_not_even_one_that_leads_nowhere(tmp_path, mode):
    (tmp_path / "link").symlink_to("victim")
    for content in (None, b"precious"):
        (tmp_path / "victim").write_bytes(content) if content else None
        with pytest.raises(OSError, match="symbolic link"):
            open_regular(tmp_path / "link", mode)
        assert not content or (tmp_path / "victim").read_bytes() == content
    assert read_regular(tmp_path / "link") == b"precious"  # Hugging Face's cache is made of links


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes")
@pytest.mark.parametrize("mode", ["rb", "ab", "a+b"])
def test_a_pipe_is_not_waited_for(tmp_path, mode):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="not a regular file"):
        open_regular(tmp_path / "pipe", mode)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes")
def test_a_link_that_becomes_a_pipe_or_file_after_the_check_is_not_followed(tmp_path, monkeypatch):
    """Between the check and the opening, another process may change what is there: the system checks again."""
    (tmp_path / "plain").write_bytes(b"")
    plain = os.stat(tmp_path / "plain")
    monkeypatch.setattr(files.os, "stat", lambda *_, **__: plain)
    (tmp_path / "victim").write_bytes(b"precious")
    (tmp_path / "link").symlink_to("victim")
    with pytest.raises(OSError):
        open_regular(tmp_path / "link", "wb")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError):
        open_regular(tmp_path / "pipe", "ab")
    assert (tmp_path / "victim").read_bytes() == b"precious"


def test_a_lock_that_is_a_link_leaves_its_target_alone(tmp_path):
    (tmp_path / "victim").write_bytes(b"precious")
    (tmp_path / ".lock").symlink_to("victim")
    with pytest.raises(UserError, match="cannot write to out_dir=.*: .lock is a symbolic link"):
        make_out_dir(tmp_path)
    assert (tmp_path / "victim").read_bytes() == b"precious"
