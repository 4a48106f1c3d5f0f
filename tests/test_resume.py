"""A run that is stopped or killed, at whatever moment, goes on to the same bits as one that is not."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from small_runs import TASKS, adding, bits, copying, fit, lines, reviews, sentiment, text

from tinyrnn import files, train
from tinyrnn.train import loop

# -- stopping and going on ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TASKS)
def test_stopped_anywhere_it_goes_on_to_the_same_bits(tmp_path, name):
    fit(TASKS[name](), tmp_path / "whole")
    wanted = bits(tmp_path / "whole")
    steps = wanted[2]["step"]
    for stop_after in (1, 2, steps // 2, steps - 1, steps):
        folder = tmp_path / str(stop_after)
        done, _ = fit(TASKS[name](), folder, stop_after)
        assert not done
        done, _ = fit(TASKS[name](), folder, resume=True)
        assert done
        assert bits(folder) == wanted


def test_stopped_at_every_step(tmp_path):
    fit(text(), tmp_path / "whole")
    done, _ = fit(text(), tmp_path / "often", 1)
    while not done:
        done, _ = fit(text(), tmp_path / "often", 1, resume=True)
    assert bits(tmp_path / "often") == bits(tmp_path / "whole")


def test_a_run_that_ended_can_be_given_more_epochs(tmp_path):
    fit(sentiment(epochs=3), tmp_path / "whole")
    fit(sentiment(epochs=2), tmp_path / "more")
    done, trainer = fit(sentiment(epochs=2), tmp_path / "more", 3, resume=True, epochs=3)
    assert not done
    done, trainer = fit(sentiment(epochs=2), tmp_path / "more", resume=True)  # still 3
    assert done
    assert trainer.progress.epoch == 3
    assert bits(tmp_path / "more")[0] == bits(tmp_path / "whole")[0]
    assert [r["epoch"] for r in lines(tmp_path / "more") if "train" in r] == [1, 2, 3]


@pytest.mark.parametrize("after", ["a torn line", "a whole line", "nothing of it", "no file"])
def test_metrics_are_set_right_on_resuming(tmp_path, after):
    fit(adding(), tmp_path / "whole")
    fit(adding(), tmp_path / "run", 4)
    metrics = tmp_path / "run" / loop.METRICS
    kept = metrics.read_text()
    assert kept.count("\n") == 1
    if after == "no file":
        metrics.unlink()
    else:
        metrics.write_text({"a torn line": kept + '{"epoch": 2, "st', "a whole line": kept * 2}.get(after, ""))
    (tmp_path / "run" / f".{loop.CHECKPOINT}.123.tmp").write_bytes(b"half")
    fit(adding(), tmp_path / "run", resume=True)
    assert bits(tmp_path / "run") == bits(tmp_path / "whole")
    assert sorted(os.listdir(tmp_path / "run")) == sorted([loop.CHECKPOINT, loop.MODEL, loop.METRICS])


def test_a_folder_that_does_not_fit_is_refused_and_left_alone(tmp_path):
    folder = tmp_path / "run"
    with pytest.raises(train.TrainingError, match=r"there is no run folder .*run"):
        fit(adding(), folder, resume=True)
    fit(adding(), folder, 1)
    before = {path: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(train.TrainingError, match="run holds a run already: go on with --resume"):
        fit(adding(), folder)
    with pytest.raises(train.TrainingError, match="its options differ"):
        fit(adding(seed=1), folder, resume=True)
    with pytest.raises(train.TrainingError, match="its task differ"):
        fit(copying(), folder, resume=True)
    with pytest.raises(train.TrainingError, match="holds no trained model yet: its first epoch is not done"):
        train.read_model(folder)
    assert {path: path.read_bytes() for path in folder.iterdir()} == before
    (tmp_path / "file").touch()
    with pytest.raises(train.TrainingError, match="file is a file, not a folder"):
        fit(adding(), tmp_path / "file")
    (tmp_path / "empty").mkdir()
    with pytest.raises(train.TrainingError, match="empty holds no run to resume"):
        fit(adding(), tmp_path / "empty", resume=True)
    (tmp_path / "empty" / loop.METRICS).write_text("mine")
    with pytest.raises(train.TrainingError, match=r"empty holds a metrics.jsonl of something else"):
        fit(adding(), tmp_path / "empty")
    assert (tmp_path / "empty" / loop.METRICS).read_text() == "mine"
    files.save(tmp_path / "empty" / loop.CHECKPOINT, adding().model)
    with pytest.raises(files.CheckpointError, match="not of a run"):
        fit(adding(), tmp_path / "empty", resume=True)


def test_other_data_are_refused(tmp_path):
    fit(sentiment(), tmp_path, 1)
    other = train.sentiment_task(sentiment().options, reviews(seed=1))
    with pytest.raises(train.TrainingError, match="the data are not those that the run began with"):
        fit(other, tmp_path, resume=True)


# -- killing -----------------------------------------------------------------------------------------------------------


class Killed(BaseException):
    """What ends a run in place of kill -9."""


class Disk:
    """Counts the calls that touch the disk and raises Killed at the `last` one and ever after; 0: never."""

    def __init__(self, monkeypatch):
        self.calls, self.last = 0, 0
        for owner, name in ((os, "fsync"), (Path, "replace"), (Path, "open"), (Path, "unlink"), (Path, "mkdir")):
            monkeypatch.setattr(owner, name, self.counted(getattr(owner, name)))

    def counted(self, call):
        def wrapper(*args, **options):
            self.calls += 1
            if 0 < self.last <= self.calls:
                raise Killed
            return call(*args, **options)

        return wrapper

    def run(self, folder, last):
        """A run of two epochs, from the start or from what is there; True if it was killed at the call `last`."""
        self.calls, self.last = 0, last
        try:
            fit(sentiment(n=40, batch=32), folder, resume=(folder / loop.CHECKPOINT).exists())
        except Killed:
            return True
        finally:
            self.last = 0
        return False


def test_killed_at_any_write_it_goes_on_to_the_same_bits(tmp_path, monkeypatch):
    """At each call that touches the disk, and with the last line of metrics.jsonl torn."""
    disk = Disk(monkeypatch)
    assert not disk.run(tmp_path / "whole", 0)
    wanted = bits(tmp_path / "whole")
    last = 1
    while disk.run(folder := tmp_path / str(last), last):
        metrics = folder / loop.METRICS
        if metrics.exists():
            metrics.write_bytes(metrics.read_bytes()[:-5])
        assert not disk.run(folder, 0)
        assert bits(folder) == wanted, f"killed at call {last}"
        last += 1
    assert last > 25


# Runs sentiment() in the folder argv[1], saving after every step.
SCRIPT = """
import os, sys
from pathlib import Path
sys.path.insert(0, os.path.dirname(sys.argv[2]))
import small_runs as t
folder = Path(sys.argv[1])
print("ready", flush=True)
t.fit(t.sentiment(n=300), folder, resume=(folder / t.loop.CHECKPOINT).exists(), save_every=0.0)
"""


def test_killed_with_kill_9_it_goes_on_to_the_same_bits(tmp_path):
    fit(sentiment(n=300), tmp_path / "whole")
    rng = np.random.default_rng(0)
    kills = 0
    while True:
        with subprocess.Popen(
            [sys.executable, "-c", SCRIPT, str(tmp_path / "run"), __file__], stdout=subprocess.PIPE
        ) as process:
            process.stdout.readline()
            if kills < 4:
                time.sleep(rng.uniform(0, 0.12))
                process.kill()
        if process.returncode == 0:
            break
        assert process.returncode == -signal.SIGKILL
        kills += 1
    assert kills == 4
    assert bits(tmp_path / "run") == bits(tmp_path / "whole")
