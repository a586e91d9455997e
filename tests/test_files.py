"""A file is whole at every instant."""

import pytest

from llm.configurator import UserError
from llm.files import atomic_file, write_atomic


def test_the_new_bytes_take_the_place_of_the_old_only_at_the_end(tmp_path):
    path = tmp_path / "a"
    write_atomic(path, b"old")
    with atomic_file(path) as f:
        f.write(b"new")
        f.flush()
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new" and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_what_is_interrupted_leaves_the_old_bytes_and_nothing_else(tmp_path, error):
    path = tmp_path / "a"
    write_atomic(path, b"old")
    with pytest.raises(error), atomic_file(path) as f:
        f.write(b"new")
        raise error
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]


def test_a_disk_that_refuses_is_told_in_one_line(tmp_path):
    with pytest.raises(UserError, match="cannot write .*: No such file or directory"):
        write_atomic(tmp_path / "nowhere" / "a", b"")
    (tmp_path / "folder").mkdir()
    with pytest.raises(UserError, match="cannot write .*folder"):
        write_atomic(tmp_path / "folder", b"")
