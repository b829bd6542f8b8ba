"""What a run says when its disk is full."""

import errno
import os

import pytest

from audiossl.train.journal import Journal


class Full:
    """A file on a full disk."""

    def __init__(self, file):
        self.file = file

    def write(self, text):
        return len(text)

    def flush(self):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def close(self):
        self.file.close()
        self.flush()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


@pytest.mark.parametrize(
    ("name", "file", "act"),
    [
        ("_metrics", "metrics.jsonl", lambda journal: journal.record(1, "train", {"loss": 1.0})),
        ("_log", "log/train.log", lambda journal: journal.say("hello")),
        ("_log", "log/train.log", lambda journal: journal.advance(1, {"loss": 1.0}, announce=True)),
    ],
)
def test_a_full_disk_is_told_with_the_file(tmp_path, name, file, act):
    def run():
        with Journal(tmp_path, total_steps=2, resumed_at=0, tensorboard=False, speaks=True) as journal:
            setattr(journal, name, Full(getattr(journal, name)))
            act(journal)

    with pytest.raises(OSError, match="No space left") as error:
        run()
    assert error.value.filename == str(tmp_path / file)


def test_lines_that_a_power_cut_damaged_are_dropped(tmp_path):
    row = '{"step": %d, "kind": "dev", "loss": 1.0}\n'
    damaged = (row % 1).encode() + b"\0\0\0\n3\n\xff\xfe\n" + (row % 2).encode() + (row % 3).encode() + b'{"step": 2'
    (tmp_path / "metrics.jsonl").write_bytes(damaged)
    with Journal(tmp_path, total_steps=4, resumed_at=2, tensorboard=False, speaks=True) as journal:
        assert journal.holds(1, "dev")
        assert not journal.holds(3, "dev")
    assert (tmp_path / "metrics.jsonl").read_text() == row % 1 + row % 2
