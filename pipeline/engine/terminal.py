"""What a person sees of a run: a tree that fits the terminal, plain lines elsewhere; `tokenmill status` draws the same tree.

The tree has a line per dataset, under it the steps that run. Where lines are short, finished and waiting datasets share
one line each, then reasons of drops go, then steps without a finished part. Four frames a second, each sent in one piece.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from pipeline.engine.account import PartAccount
from pipeline.engine.executors import Retry
from pipeline.engine.housekeeping import Findings
from pipeline.engine.plan import PhysicalStep, Plan, Status
from pipeline.engine.progress import Progress, StepProgress, duration, size_words
from pipeline.engine.run import Manifest
from pipeline.engine.run_state import RunState

HEARTBEAT_SECONDS = 30.0
GAP = 2


@dataclass(frozen=True)
class _Column:
    title: str
    width: int
    since: int
    """Shown from this width of the terminal on."""


_COLUMNS = (
    _Column("", 10, 90),  # the bar
    _Column("parts", 5, 0),
    _Column("rows", 7, 110),
    _Column("rows/s", 6, 70),
    _Column("MB/s", 5, 78),
    _Column("dropped", 7, 60),
    _Column("time", 6, 0),
    _Column("left", 6, 0),
)


@dataclass(frozen=True)
class _Row:
    """A name, values by column title, and the step whose bar it shows."""

    name: str
    values: Mapping[str, str]
    style: str
    step: StepProgress | None = None


@dataclass
class Lines:
    """Draws a run as lines of text of one width."""

    width: int
    ascii_only: bool = False

    def head(self, progress: Progress, now: float) -> list[Text]:
        """Two lines: how far, and where."""
        done, total = progress.count("done"), len(progress.steps)
        reused = sum(step.reused for step in progress.steps.values())
        left = progress.left(now) if progress.state == "running" else None
        words = [
            f"{done} of {total} steps" if total else "starting",
            f"{reused} reused" if reused else "",
            duration(progress.elapsed(now)),
            f"about {roughly(left)} left" if left is not None and done < total else "",
            f"{progress.dropped():,} dropped" if progress.dropped() else "",
            f"{progress.retries} retried" if progress.retries else "",
        ]
        first = Text(f"{progress.title}  " if progress.title else "", style="bold")
        first.append(self._dots(words), style="default not bold")
        return [self._fit(first), self._fit(Text(self._dots(self._where(progress)), style="dim"))]

    def _where(self, progress: Progress) -> list[str]:
        workers = f"{progress.executor}, {progress.workers} worker{'s' if progress.workers != 1 else ''}"
        return [progress.address, workers, progress.dashboard_url or ""]

    def _dots(self, words: Sequence[str]) -> str:
        return (" - " if self.ascii_only else " · ").join(word for word in words if word)

    def _dataset(self, name: str, steps: Sequence[StepProgress], now: float, width: int) -> _Row:
        """One line for a dataset."""
        done = [s for s in steps if s.state == "done"]
        running = any(s.state == "running" for s in steps)
        count = f"{len(steps)} step{'s' if len(steps) != 1 else ''}"
        if len(done) == len(steps):
            state, style = f"{'reused' if all(s.reused for s in steps) else 'done'}, {count}", "dim"
        elif done or any(s.began is not None or s.parts_done for s in steps):
            state, style = f"{len(done)} of {count}", "bold" if running else ""
        else:
            state, style = f"waiting, {count}", "dim"
        kept = next((s for s in steps if s.keep and s.state == "done"), None)
        dropped = sum(s.dropped for s in steps)
        began = [s.began for s in steps if s.began is not None and not s.reused]
        until = max((s.ended if s.ended is not None else now for s in steps if s.began is not None), default=now)
        values = {
            "rows": f"{kept.rows:,}" if kept else "",
            "dropped": f"{dropped:,}" if dropped else "",
            "time": duration(until - min(began)) if began else "",
        }
        return _Row(f"{name.ljust(width)}  {state}", values, style)

    def _step(self, one: StepProgress, now: float) -> _Row:
        """One line for a step."""
        rows, data = one.per_second(one.rows_in, now), one.per_second(one.bytes_in, now)
        left = one.left(now)
        values = {
            "parts": f"{one.parts_done:,}/{one.parts:,}"
            if one.parts is not None
            else f"{one.parts_done:,}"
            if one.parts_done
            else "",
            "rows": f"{one.rows:,}" if one.rows else "",
            "rows/s": pace(rows) if rows is not None else "",
            "MB/s": pace(data / 1e6) if data is not None else "",
            "dropped": f"{one.dropped:,}" if one.dropped else "",
            "time": duration(one.elapsed(now)) if one.began is not None and not one.reused else "",
            "left": duration(left) if left is not None else "",
        }
        mark = {"done": "x " if self.ascii_only else "✓ ", "running": "> " if self.ascii_only else "▸ "}
        return _Row(f"  {mark.get(one.state, '  ')}{one.label}", values, "" if one.state == "running" else "dim", one)

    def _reasons(self, one: StepProgress) -> Text:
        """The commonest reasons of a step's drops, under it."""
        top = ", ".join(f"{reason} {count:,}" for reason, count in one.reasons.most_common(3))
        return Text(f"      dropped: {top}", style="dim")

    def _drawn(self, rows: Sequence[_Row | Text]) -> list[Text]:
        """Rows under their titles, numbers right-aligned in columns as wide as their longest."""
        titles = _Row("", {column.title: column.title for column in _COLUMNS if column.title}, "bold")
        cells = [titles, *(row for row in rows if isinstance(row, _Row))]
        shown = [column for column in _COLUMNS if self.width >= column.since]
        widths = {c.title: max(c.width, *(len(row.values.get(c.title, "")) for row in cells)) for c in shown}
        space = max(12, self.width - sum(widths.values()) - GAP * len(shown))
        lines = []
        for row in [titles, *rows]:
            if isinstance(row, Text):
                lines.append(self._fit(row))
                continue
            if row.step is None:  # a dataset's line is empty on the left: its name and state may go on there
                cells_after = "".join(
                    " " * GAP + row.values.get(title, "").rjust(width) for title, width in widths.items()
                )
                over = max(0, min(len(row.name) - space, len(cells_after) - len(cells_after.lstrip()) - 1))
                name = row.name[: space + over].ljust(space)
                lines.append(self._fit(Text((name + cells_after[over:]).rstrip(), style=row.style)))
                continue
            line = Text(_shortened(row.name, space, ".." if self.ascii_only else "…").ljust(space), style=row.style)
            for title, width in widths.items():
                line.append(" " * GAP)
                line.append_text(Text(row.values.get(title, "").rjust(width)) if title else self._bar(row.step, width))
            line.rstrip()
            lines.append(self._fit(line))
        return lines

    def _bar(self, step: StepProgress | None, width: int) -> Text:
        if step is None or not step.parts or step.state == "waiting":
            return Text(" " * width)
        filled = int(width * min(1.0, step.parts_done / step.parts))
        full, empty = ("#", ".") if self.ascii_only else ("━", "━")
        bar = Text(full * filled, style="green" if step.state == "running" else "dim green")
        bar.append(empty * (width - filled), style="bright_black")
        return bar

    def _fit(self, line: Text) -> Text:
        line.no_wrap, line.overflow = True, "crop" if self.ascii_only else "ellipsis"
        line.truncate(self.width, overflow=line.overflow)
        return line

    # ------------------------------------------------------------------------------------------------ the tree

    def tree(self, progress: Progress, now: float, height: int | None = None, every_step: bool = False) -> list[Text]:
        """Column titles, then datasets and what runs in them, in at most `height` lines (any number when None)."""
        datasets: dict[str, list[StepProgress]] = {}
        for step in progress.steps.values():
            datasets.setdefault(step.dataset, []).append(step)
        rows: list[_Row | Text] = []
        for detail in _DETAILS:
            rows = self._rows(datasets, now, detail, every_step)
            if height is None or len(rows) < height:
                break
        lines = self._drawn(rows)
        return lines if height is None else lines[: max(1, height)]

    def _rows(
        self, datasets: Mapping[str, list[StepProgress]], now: float, detail: _Detail, every_step: bool
    ) -> list[_Row | Text]:
        rows: list[_Row | Text] = []
        together: dict[str, list[str]] = {"done": [], "waiting": []}
        width = max((len(name) for name in datasets), default=0)
        for name, steps in datasets.items():
            running = [s for s in steps if s.state == "running" or (s.state == "waiting" and s.parts_done)]
            if detail.together and not running:
                together["done" if all(s.state == "done" for s in steps) else "waiting"].append(name)
                continue
            rows.append(self._dataset(name, steps, now, width))
            if every_step:
                rows += [self._step(s, now) for s in steps]
                continue
            finished = [s for s in steps if s.state == "done" and not s.reused]
            if detail.last and running and finished:
                rows.append(self._step(max(finished, key=lambda s: s.order), now))
            shown = sorted(running, key=lambda s: not s.fresh())[: detail.most]
            for step in shown:
                rows.append(self._step(step, now))
                if detail.reasons and step.reasons:
                    rows.append(self._reasons(step))
            if len(running) > len(shown):
                rows.append(Text(f"    and {len(running) - len(shown)} more steps that run", style="dim"))
        rows += [Text(f"{state}: {', '.join(names)}", style="dim") for state, names in together.items() if names]
        return rows


@dataclass(frozen=True)
class _Detail:
    """What a tree shows: under each dataset its last finished step, reasons of drops, quiet datasets on a line of their
    own or together, and at most so many running steps."""

    last: bool
    reasons: bool
    together: bool
    most: int | None


_DETAILS = (
    _Detail(True, True, False, None),
    _Detail(False, True, False, None),
    _Detail(False, False, False, None),
    _Detail(False, False, True, None),
    _Detail(False, False, True, 8),
    _Detail(False, False, True, 3),
    _Detail(False, False, True, 1),
)


def pace(value: float) -> str:
    """`0.4`, `73`, `1,488`."""
    return f"{value:,.0f}" if value >= 9.95 else f"{value:.1f}"


def _shortened(name: str, width: int, dots: str) -> str:
    """The end of a long step name tells more than its beginning; the indent and mark before it stay."""
    if len(name) <= width:
        return name
    start = min(4, len(name) - len(name.lstrip(" ")) + 2)
    return f"{name[:start]}{dots}{name[-max(1, width - start - len(dots)) :]}"


def roughly(seconds: float) -> str:
    """A guess in round numbers: `20s`, `3m`, `1h40m`."""
    if seconds < 55:
        return f"{max(5, 5 * round(seconds / 5))}s"
    minutes = max(1, round(seconds / 60))
    if minutes < 60:
        return f"{minutes}m"
    hours, rest = divmod(10 * round(minutes / 10), 60)
    return f"{hours}h{rest:02d}m" if hours < 48 else f"{hours // 24}d{hours % 24:02d}h"


# ---------------------------------------------------------------------------------------------------- other commands


def status_lines(state: RunState, console: Console, *, every_step: bool) -> list[Text]:
    """What `tokenmill status` prints."""
    now = time.monotonic()
    lines = Lines(min(console.size.width, 140), console.options.ascii_only)
    first, second = lines.head(state.progress, now)
    sentence = Text(
        state.sentence(), style={"done": "green", "failed": "bold red", "running": ""}.get(state.state, "yellow")
    )
    drawn = [first, second, *lines.tree(state.progress, now, every_step=every_step), sentence]
    if state.unneeded.bytes:
        drawn.append(Text(f"`tokenmill clean` would free {size_words(state.unneeded.bytes)}", style="dim"))
    return drawn


def findings_table(findings: Findings) -> Table:
    """What may go, largest first within each kind."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("what", "where", "files", "size"):
        table.add_column(name, justify="right" if name in ("files", "size") else "left", overflow="fold")
    for (why, place), (files, size) in sorted(
        findings.groups.items(), key=lambda one: (one[0][0], -one[1][1], one[0][1])
    ):
        table.add_row(Text(why), Text(place), f"{files:,}", size_words(size))
    return table


# ---------------------------------------------------------------------------------------------------- listeners


class _Shown:
    """What both listeners share; the numbers come from `Progress`, which is told first."""

    def __init__(self, console: Console, progress: Progress) -> None:
        self._console, self._progress = console, progress

    def plan(self, plan: Plan, statuses: Mapping[str, Status]) -> None: ...

    def step_started(self, step: PhysicalStep, parts: int, parts_done: int) -> None: ...

    def part_done(self, step: PhysicalStep, account: PartAccount) -> None: ...

    def part_retried(self, retry: Retry) -> None: ...

    def step_done(self, step: PhysicalStep, manifest: Manifest, reused: bool) -> None: ...

    def tick(self) -> None: ...

    def __enter__(self) -> None: ...

    def __exit__(self, *exception: object) -> None: ...


class PlainLines(_Shown):
    """For logs and pipes: a line when a step starts and when it ends, and one every HEARTBEAT_SECONDS for each that runs."""

    def __init__(self, console: Console, progress: Progress) -> None:
        super().__init__(console, progress)
        self._said = time.monotonic()

    def _say(self, line: str) -> None:
        self._console.print(line, highlight=False, markup=False, soft_wrap=True)

    def plan(self, plan: Plan, statuses: Mapping[str, Status]) -> None:
        done = sum(status.done for status in statuses.values())
        self._say(f"{len(plan.steps)} steps, {done} of them reused, into {self._progress.address}")
        if self._progress.dashboard_url:
            self._say(f"dashboard  {self._progress.dashboard_url}")

    def step_started(self, step: PhysicalStep, parts: int, parts_done: int) -> None:
        before = f", {parts_done} done before and not redone" if parts_done else ""
        self._say(f"start  {step.key}: {parts} {'part' if parts == 1 else 'parts'}{before}")

    def part_retried(self, retry: Retry) -> None:
        self._say(
            f"retry  {retry.task.step_key}, part {retry.task.part}, attempt {retry.attempts + 1} ({retry.fault}: {retry.error})"
        )

    def step_done(self, step: PhysicalStep, manifest: Manifest, reused: bool) -> None:
        one = self._progress.steps[step.key]
        if reused:
            self._say(f"reuse  {step.key}: {manifest.parts} parts, {manifest.rows:,} rows")
            return
        dropped = f", {one.dropped:,} dropped" if one.dropped else ""
        self._say(
            f"done   {step.key}: {manifest.rows:,} rows out{dropped} in {duration(one.elapsed(time.monotonic()))}"
        )

    def tick(self) -> None:
        now = time.monotonic()
        if now - self._said < HEARTBEAT_SECONDS:
            return
        self._said = now
        with self._progress.lock:
            lines = [
                _heartbeat(step, now)
                for step in self._progress.steps.values()
                if step.state == "running" and step.elapsed(now) >= HEARTBEAT_SECONDS
            ]
            done, total, left = self._progress.count("done"), len(self._progress.steps), self._progress.left(now)
            about = f", about {roughly(left)} left" if left is not None else ""
            lines.append(f"...    {done} of {total} steps, {duration(self._progress.elapsed(now))}{about}")
        for line in lines:
            self._say(line)


def _heartbeat(step: StepProgress, now: float) -> str:
    rows, data, left = step.per_second(step.rows_in, now), step.per_second(step.bytes_in, now), step.left(now)
    words = [f"{step.parts_done:,} of {step.parts or 0:,} parts"]
    if rows is not None:
        words.append(f"{rows:,.0f} rows/s")
    if data is not None:
        words.append(f"{data / 1e6:,.1f} MB/s")
    if step.dropped:
        reason, count = step.reasons.most_common(1)[0] if step.reasons else ("", 0)
        words.append(f"{step.dropped:,} dropped" + (f" ({reason} {count:,})" if reason else ""))
    words.append(duration(step.elapsed(now)))
    if left is not None:
        words.append(f"{duration(left)} left")
    return f"...    {step.key}: {', '.join(words)}"


class LiveTree(_Shown):
    """For a terminal: the tree, redrawn in place; it goes at a good end and stays at a bad one."""

    def __init__(self, console: Console, progress: Progress) -> None:
        super().__init__(console, progress)
        self._live = Live(
            console=console, refresh_per_second=4, transient=True, get_renderable=self._render, vertical_overflow="crop"
        )

    def __enter__(self) -> None:
        self._live.__enter__()

    def __exit__(self, *exception: object) -> None:
        self._live.transient = self._progress.state == "done"
        self._live.__exit__(None, None, None)

    def _render(self) -> Group:
        size = self._console.size
        lines = Lines(min(size.width - 1, 160), self._console.options.ascii_only)
        now = time.monotonic()
        with self._progress.lock:
            head = lines.head(self._progress, now)
            return Group(*head, *lines.tree(self._progress, now, max(1, size.height - len(head) - 1)))
