"""What a person sees of a run: a tree that fits the terminal, plain lines elsewhere; `tokenmill status` draws the same tree.

The tree has a line per dataset, under it the steps that run. Where lines are short, finished and waiting datasets share
one line each, then reasons of drops go, then steps without a finished part. Four frames a second, each sent in one piece.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from pipeline.engine.account import PartAccount
from pipeline.engine.plan import PhysicalStep, Plan, Status
from pipeline.engine.progress import Progress, StepProgress, duration
from pipeline.engine.run import Manifest

HEARTBEAT_SECONDS = 30.0
NAME_COLUMNS = 30
GAP = 2


@dataclass(frozen=True)
class _Column:
    title: str
    width: int
    since: int
    """Shown from this width of the terminal on."""


_COLUMNS = (
    _Column("", 10, 96),  # the bar
    _Column("parts", 9, 0),
    _Column("rows", 11, 110),
    _Column("rows/s", 8, 70),
    _Column("MB/s", 6, 90),
    _Column("dropped", 9, 60),
    _Column("time", 6, 0),
    _Column("left", 6, 0),
)
_BAR = 0


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

    def titles(self) -> Text:
        return self._row("", ["", *(column.title for column in _COLUMNS[1:])], "bold")

    def dataset(self, name: str, steps: Sequence[StepProgress], now: float) -> Text:
        """One line for a dataset."""
        done = [s for s in steps if s.state == "done"]
        running = any(s.state == "running" for s in steps)
        started = running or any(s.parts_done for s in steps if s.state != "done")
        if len(done) == len(steps):
            state = "reused" if all(s.reused for s in steps) else "done"
            style = "dim"
        elif done or started:
            state, style = f"{len(done)} of {len(steps)} steps", "bold" if running else ""
        else:
            state, style = "waiting", "dim"
        kept = next((s for s in steps if s.keep and s.state == "done"), None)
        dropped = sum(s.dropped for s in steps)
        began = [s.began for s in steps if s.began is not None and not s.reused]
        until = max((s.ended if s.ended is not None else now for s in steps if s.began is not None), default=now)
        values = ["", state if len(state) <= 9 else f"{len(done)}/{len(steps)}", f"{kept.rows:,}" if kept else "", "", "",
                  f"{dropped:,}" if dropped else "", duration(until - min(began)) if began else "", ""]  # fmt: skip
        if len(state) > 9:
            name, values[1] = f"{name}  {state}", ""
        return self._row(name, values, style)

    def step(self, one: StepProgress, now: float) -> Text:
        """One line for a step."""
        rows, data = one.per_second(one.rows_in, now), one.per_second(one.bytes_in, now)
        left = one.left(now)
        began = one.began is not None and not one.reused
        values = [
            "",
            f"{one.parts_done:,}/{one.parts:,}" if one.parts is not None else (f"{one.parts_done:,}" or ""),
            f"{one.rows:,}" if one.rows else "",
            f"{rows:,.0f}" if rows is not None else "",
            f"{data / 1e6:,.1f}" if data is not None else "",
            f"{one.dropped:,}" if one.dropped else "",
            duration(one.elapsed(now)) if began else "",
            duration(left) if left is not None else "",
        ]
        mark = {"done": "x " if self.ascii_only else "✓ ", "running": "> " if self.ascii_only else "▸ "}
        style = {"done": "dim", "running": "", "waiting": "dim"}[one.state]
        return self._row(f"  {mark.get(one.state, '  ')}{one.label}", values, style, one)

    def reasons(self, one: StepProgress) -> Text:
        """The commonest reasons of a step's drops, under it."""
        top = ", ".join(f"{reason} {count:,}" for reason, count in one.reasons.most_common(3))
        return self._fit(Text(f"      dropped: {top}", style="dim"))

    def note(self, text: str) -> Text:
        return self._fit(Text(text, style="dim"))

    def _row(self, name: str, values: Sequence[str], style: str, step: StepProgress | None = None) -> Text:
        shown = [(column, n) for n, column in enumerate(_COLUMNS) if self.width >= column.since]
        used = sum(column.width + GAP for column, _ in shown)
        space = max(12, self.width - used)
        line = Text(_shortened(name, space).ljust(space), style=style, no_wrap=True)
        for column, n in shown:
            line.append(" " * GAP)
            if n == _BAR:
                line.append_text(self._bar(step, column.width))
            else:
                line.append(values[n].rjust(column.width))
        return self._fit(line)

    def _bar(self, step: StepProgress | None, width: int) -> Text:
        if step is None or not step.parts or step.state == "waiting":
            return Text(" " * width)
        filled = int(width * min(1.0, step.parts_done / step.parts))
        full, empty = ("#", "-") if self.ascii_only else ("━", "━")
        bar = Text(full * filled, style="green" if step.state == "running" else "dim green")
        bar.append(empty * (width - filled), style="bright_black")
        return bar

    def _fit(self, line: Text) -> Text:
        line.no_wrap, line.overflow = True, "ellipsis"
        line.truncate(self.width, overflow="ellipsis")
        return line

    # ------------------------------------------------------------------------------------------------ the tree

    def tree(self, progress: Progress, now: float, height: int | None = None, every_step: bool = False) -> list[Text]:
        """Datasets and what runs in them, in at most `height` lines (any number when None)."""
        datasets: dict[str, list[StepProgress]] = {}
        for step in progress.steps.values():
            datasets.setdefault(step.dataset, []).append(step)
        attempts: Iterator[tuple[bool, bool, bool, int | None]] = iter(
            ((True, True, False, None), (False, True, False, None), (False, False, False, None),
             (False, False, True, None), (False, False, True, 12), (False, False, True, 6), (False, False, True, 2))
        )  # fmt: skip
        lines: list[Text] = []
        for last, reasons, together, most in attempts:
            lines = self._tree(
                datasets, now, last=last, reasons=reasons, together=together, most=most, every=every_step
            )
            if height is None or len(lines) <= height:
                return lines
        return lines[: max(1, height or 1)]

    def _tree(
        self, datasets: dict[str, list[StepProgress]], now: float, *, last: bool, reasons: bool, together: bool,
        most: int | None, every: bool,
    ) -> list[Text]:  # fmt: skip
        lines: list[Text] = []
        done, waiting = [], []
        for name, steps in datasets.items():
            running = [s for s in steps if s.state == "running" or (s.state == "waiting" and s.parts_done)]
            if together and not running and all(s.state == "done" for s in steps):
                done.append(name)
                continue
            if together and not running:
                waiting.append(name)
                continue
            lines.append(self.dataset(name, steps, now))
            if every:
                lines += [self.step(s, now) for s in steps]
                continue
            finished = [s for s in steps if s.state == "done" and not s.reused]
            if last and running and finished:
                lines.append(self.step(max(finished, key=lambda s: s.order), now))
            shown = sorted(running, key=lambda s: not s.fresh())[:most]
            for step in shown:
                lines.append(self.step(step, now))
                if reasons and step.reasons:
                    lines.append(self.reasons(step))
            if len(running) > len(shown):
                lines.append(self.note(f"    and {len(running) - len(shown)} more steps"))
        if done:
            lines.append(self.note(f"done: {', '.join(done)}"))
        if waiting:
            lines.append(self.note(f"waiting: {', '.join(waiting)}"))
        return lines


def _shortened(name: str, width: int) -> str:
    """The end of a long step name tells more than its beginning."""
    if len(name) <= width:
        return name
    indent = name[: len(name) - len(name.lstrip(" "))]
    mark = name[len(indent) : len(indent) + 2] if name[len(indent) : len(indent) + 1] in "✓▸x>" else ""
    return f"{indent}{mark}…{name[-(width - len(indent) - len(mark) - 1) :]}"


def roughly(seconds: float) -> str:
    """A guess in round numbers: `20s`, `3m`, `1h40m`."""
    if seconds < 55:
        return f"{max(5, 5 * round(seconds / 5))}s"
    minutes = max(1, round(seconds / 60))
    if minutes < 60:
        return f"{minutes}m"
    hours, rest = divmod(10 * round(minutes / 10), 60)
    return f"{hours}h{rest:02d}m" if hours < 48 else f"{hours // 24}d{hours % 24:02d}h"


# ---------------------------------------------------------------------------------------------------- listeners


class _Shown:
    """What both listeners share; the numbers come from `Progress`, which is told first."""

    def __init__(self, console: Console, progress: Progress) -> None:
        self._console, self._progress = console, progress

    def plan(self, plan: Plan, statuses: Mapping[str, Status]) -> None: ...

    def step_started(self, step: PhysicalStep, parts: int, parts_done: int) -> None: ...

    def part_done(self, step: PhysicalStep, account: PartAccount) -> None: ...

    def part_retried(self, step_key: str, part: int, attempt: int, error: str) -> None: ...

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

    def part_retried(self, step_key: str, part: int, attempt: int, error: str) -> None:
        self._say(f"retry  {step_key}, part {part}, after attempt {attempt}: {error}")

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
            return Group(*head, lines.titles(), *lines.tree(self._progress, now, max(1, size.height - len(head) - 2)))
