"""What a person sees of a run: a live table on a terminal, plain lines elsewhere, and one JSON line per event in the run.

Both listeners are told the same four things (`run.Listener`): the plan, a step starts, a part is done, a step is done.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from typing import TextIO

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from pipeline.engine.account import PartAccount
from pipeline.engine.plan import PhysicalStep, Plan, Status
from pipeline.engine.run import Listener, Manifest


def duration(seconds: float) -> str:
    """`7.3s`, `4m05s`, `2h10m`."""
    if seconds < 60:
        return f"{seconds:.1f}s"
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes}m{rest:02d}s" if minutes < 60 else f"{minutes // 60}h{minutes % 60:02d}m"


class _Tally:
    """Parts, rows, drops and time of one step."""

    def __init__(self, step: PhysicalStep, parts: int, parts_done: int) -> None:
        self.step, self.parts, self.parts_done = step, parts, parts_done
        self.found_done = parts_done
        self.rows_in = self.dropped = 0
        self.bytes_in = 0
        self.started = time.monotonic()
        self.seconds: float | None = None
        self.reused = False

    def add(self, account: PartAccount) -> None:
        self.parts_done += 1
        self.rows_in += max((count.rows_in for count in account.stages), default=0)
        self.dropped += sum(count.rows_dropped for count in account.stages)
        self.bytes_in += account.bytes_in

    def elapsed(self) -> float:
        return self.seconds if self.seconds is not None else time.monotonic() - self.started

    def left(self) -> str:
        fresh = self.parts_done - self.found_done
        if self.seconds is not None or fresh <= 0:
            return ""
        return duration(self.elapsed() / fresh * (self.parts - self.parts_done))

    def rate(self) -> str:
        elapsed = self.elapsed()
        return f"{self.rows_in / elapsed:,.0f}" if self.rows_in and elapsed > 0.05 else ""


class PlainLines:
    """For logs and pipes: one line when a step starts and when it ends."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._tallies: dict[str, _Tally] = {}

    def plan(self, plan: Plan, statuses: Mapping[str, Status]) -> None:
        done = sum(status.done for status in statuses.values())
        self._console.print(f"{len(plan.steps)} steps, {done} of them reused", highlight=False)

    def step_started(self, step: PhysicalStep, parts: int, parts_done: int) -> None:
        self._tallies[step.key] = _Tally(step, parts, parts_done)
        before = f", {parts_done} done before and not redone" if parts_done else ""
        self._console.print(f"start  {step.key}: {parts} parts{before}", highlight=False)

    def part_done(self, step: PhysicalStep, account: PartAccount) -> None:
        self._tallies[step.key].add(account)

    def step_done(self, step: PhysicalStep, manifest: Manifest, reused: bool) -> None:
        if reused:
            self._console.print(f"reuse  {step.key}: {manifest.parts} parts, {manifest.rows:,} rows", highlight=False)
            return
        tally = self._tallies[step.key]
        dropped = f", {tally.dropped:,} dropped" if tally.dropped else ""
        self._console.print(
            f"done   {step.key}: {manifest.rows:,} rows out{dropped} in {duration(tally.elapsed())}", highlight=False
        )


class LiveTable:
    """For a terminal: running and finished steps with bars, rates, drops so far and time left."""

    SHOWN = 18

    def __init__(self, console: Console) -> None:
        self._console = console
        self._tallies: dict[str, _Tally] = {}
        self._total = self._done = self._reused = 0
        self._started = time.monotonic()
        self._live = Live(console=console, refresh_per_second=4, transient=True, get_renderable=self._render)

    def __enter__(self) -> LiveTable:
        self._live.__enter__()
        return self

    def __exit__(self, *exception: object) -> None:
        self._live.__exit__(None, None, None)

    def plan(self, plan: Plan, statuses: Mapping[str, Status]) -> None:
        self._total = len(plan.steps)

    def step_started(self, step: PhysicalStep, parts: int, parts_done: int) -> None:
        self._tallies[step.key] = _Tally(step, parts, parts_done)

    def part_done(self, step: PhysicalStep, account: PartAccount) -> None:
        self._tallies[step.key].add(account)

    def step_done(self, step: PhysicalStep, manifest: Manifest, reused: bool) -> None:
        self._done += 1
        self._reused += reused
        if not reused:
            tally = self._tallies[step.key]
            tally.seconds = tally.elapsed()

    def _render(self) -> Group:
        table = Table(box=None, pad_edge=False, header_style="bold")
        for name, justify in (
            ("step", "left"),
            ("parts", "right"),
            ("", "left"),
            ("rows/s", "right"),
            ("dropped", "right"),
            ("time", "right"),
            ("left", "right"),
        ):
            table.add_column(name, justify=justify, no_wrap=True)  # type: ignore[arg-type]
        tallies = list(self._tallies.values())
        finished = [t for t in tallies if t.seconds is not None]
        running = [t for t in tallies if t.seconds is None]
        for tally in [*finished, *running][-self.SHOWN :]:
            style = "dim" if tally.seconds is not None else ""
            table.add_row(
                tally.step.key, f"{tally.parts_done}/{tally.parts}",
                ProgressBar(total=max(1, tally.parts), completed=tally.parts_done, width=16),
                tally.rate(), f"{tally.dropped:,}" if tally.dropped else "", duration(tally.elapsed()), tally.left(), style=style,
            )  # fmt: skip
        dropped = sum(t.dropped for t in tallies)
        head = f"{self._done} of {self._total} steps done ({self._reused} reused), {dropped:,} drops so far, {duration(time.monotonic() - self._started)}"
        return Group(Text(head, style="bold"), table)


class EventLog:
    """One JSON object a line: `{"time": ..., "event": "part_done", "step": ..., ...}`."""

    def __init__(self, file: TextIO) -> None:
        self._file = file

    def _write(self, event: str, **values: object) -> None:
        self._file.write(json.dumps({"time": round(time.time(), 3), "event": event, **values}) + "\n")
        self._file.flush()

    def plan(self, plan: Plan, statuses: Mapping[str, Status]) -> None:
        self._write("plan", steps=len(plan.steps), reused=sum(status.done for status in statuses.values()))

    def step_started(self, step: PhysicalStep, parts: int, parts_done: int) -> None:
        self._write("step_started", step=step.key, folder=step.folder, parts=parts, parts_done_before=parts_done)

    def part_done(self, step: PhysicalStep, account: PartAccount) -> None:
        dropped = sum(count.rows_dropped for count in account.stages)
        self._write(
            "part_done",
            step=step.key,
            part=account.part,
            rows=account.rows,
            dropped=dropped,
            seconds=round(account.seconds, 4),
        )

    def step_done(self, step: PhysicalStep, manifest: Manifest, reused: bool) -> None:
        self._write(
            "step_done",
            step=step.key,
            parts=manifest.parts,
            rows=manifest.rows,
            reused=reused,
            seconds=round(manifest.seconds, 3),
        )


class Several:
    """Tells several listeners."""

    def __init__(self, listeners: Sequence[Listener]) -> None:
        self._listeners = listeners

    def plan(self, plan: Plan, statuses: Mapping[str, Status]) -> None:
        for one in self._listeners:
            one.plan(plan, statuses)

    def step_started(self, step: PhysicalStep, parts: int, parts_done: int) -> None:
        for one in self._listeners:
            one.step_started(step, parts, parts_done)

    def part_done(self, step: PhysicalStep, account: PartAccount) -> None:
        for one in self._listeners:
            one.part_done(step, account)

    def step_done(self, step: PhysicalStep, manifest: Manifest, reused: bool) -> None:
        for one in self._listeners:
            one.step_done(step, manifest, reused)
