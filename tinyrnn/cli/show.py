"""What the commands print: lines that fit 80 columns, and a bar where a person watches and waits."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from tinyrnn.train import Tally, Task, Watcher

PATIENCE = 2.0
"""Seconds of work below which no bar is shown."""


class UserError(Exception):
    """Something in the command that the user has to mend; its text is one line."""


def console() -> Console:
    """Standard output. A terminal gets lines broken between words; a file or pipe, lines of any length."""
    out = Console(highlight=False, markup=False)
    out.soft_wrap = not out.is_terminal
    return out


class Bar:
    """A bar on a terminal over work that takes more than 2 s; nothing elsewhere.

    `begin` some work, `advance` in it, `close` when it is done or another output comes.
    """

    def __init__(self, out: Console) -> None:
        self.out = out
        self.shown: Progress | None = None
        self._label, self._steps, self._before, self._began = "", 0, 0, 0.0

    def begin(self, label: str, steps: int, before: int = 0) -> None:
        """Some work of `steps` steps, of which `before` were done earlier, begins now."""
        self.close()
        self._label, self._steps, self._before, self._began = label, steps, before, time.monotonic()

    def advance(self, done: int, text: str = "") -> None:
        """So many steps are done in all. text: what to say of them."""
        if self.shown is None and self.out.is_terminal and self._is_long(done):
            self.shown = Progress(
                TextColumn("{task.description}"),
                BarColumn(bar_width=None),
                TextColumn("{task.fields[text]}"),
                TimeRemainingColumn(compact=True),
                console=self.out,
                transient=True,
                expand=True,
            )
            self.shown.add_task(self._label, total=self._steps, text=text)
            self.shown.start()
        if self.shown is not None:
            self.shown.update(self.shown.task_ids[0], completed=done, text=text)

    def close(self) -> None:
        """Take the bar away."""
        if self.shown is not None:
            self.shown.stop()
            self.shown = None

    def _is_long(self, done: int) -> bool:
        """Whether a bar is worth it: of the work so far, all of it will take above 2 s, and a part of that is left."""
        spent = time.monotonic() - self._began
        left = spent / max(done - self._before, 1) * (self._steps - done)
        return spent > PATIENCE / 4 and spent + left > PATIENCE


class Display(Watcher):
    """Shows a training run: a line an epoch, and on a terminal a bar over whatever takes more than 2 s.

    task: names the results that are shown. epochs: as many at most.
    """

    def __init__(self, task: Task, epochs: int, out: Console) -> None:
        self.task, self.epochs, self.out = task, epochs, out
        self.names = list(task.report(0.0, 0.0))
        self.bar = Bar(out)

    def header(self) -> None:
        """The head of the table of epochs."""
        width = 10 * len(self.names)
        self.out.print(f"{'':7}{'training':>{width}}  {'validation':>{width}}", style="bold")
        names = "".join(f"{name:>10}" for name in self.names)
        self.out.print(f"{'epoch':7}{names}  {names}{'tokens/s':>12}{'seconds':>9}", style="bold")

    def row(self, record: Mapping[str, Any], best: bool) -> None:
        """One line of the table, of a record of metrics.jsonl."""
        train, valid = ("".join(f"{record[part][name]:10.4f}" for name in self.names) for part in ("train", "valid"))
        self.out.print(
            f"{record['epoch']:5}  {train}  {valid}{record['tokens_per_second']:12,}{record['seconds']:9.1f}"
            + ("  best" if best else ""),
        )

    def epoch_begins(self, epoch: int, batches: int, done: int) -> None:
        self.bar.begin(f"epoch {epoch}/{self.epochs}", batches, done)

    def batch_ends(self, done: int, tally: Tally) -> None:
        results = self.task.report(tally.mean_loss, tally.accuracy)
        shown = [f"{name} {value:.3f}" for name, value in results.items()]
        self.bar.advance(done, "  ".join(shown) + f"  {tally.tokens_per_second:,.0f} tokens/s")

    def judging(self, part: str, batches: int, done: int, tally: Tally) -> None:
        if done == 0:
            self.bar.begin(part, batches)
        else:
            self.bar.advance(done)

    def epoch_ends(self, record: Mapping[str, Any], best: bool) -> None:
        self.close()
        self.row(record, best)

    def note(self, text: str) -> None:
        self.out.print(text, style="yellow")

    def close(self) -> None:
        """Take the bar away."""
        self.bar.close()
