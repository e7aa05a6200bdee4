"""A file is written whole or not at all."""

import pytest

from lightning_cifake.errors import UserError
from lightning_cifake.files import write_whole


def test_a_full_disk_is_one_line_and_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "metrics.json"
    path.write_bytes(b"old")

    def fail(self, data):
        self.touch()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(type(path), "write_bytes", fail)
    with pytest.raises(UserError, match=r"cannot write .*metrics\.json: No space left on device$"):
        write_whole(path, b"new")
    assert [(file.name, file.read_bytes()) for file in tmp_path.iterdir()] == [("metrics.json", b"old")]


def test_a_folder_that_is_a_file_is_one_line(tmp_path):
    (tmp_path / "run").write_text("")
    with pytest.raises(UserError, match="cannot write"):
        write_whole(tmp_path / "run" / "roc.png", b"")


def test_text_and_bytes_replace_what_was_there_and_make_the_folder(tmp_path):
    path = tmp_path / "new" / "a.txt"
    write_whole(path, b"old")
    write_whole(path, "na\u00efve \udcff")
    assert path.read_bytes() == "na\u00efve ".encode() + b"\xff"
    assert list(path.parent.iterdir()) == [path]
