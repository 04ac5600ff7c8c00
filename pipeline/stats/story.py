"""One document's story as plain data, and how a terminal shows it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

SPANS = 4
"""Pieces of a document shown per slice."""

Value = str | int | float | bool
"""What a column held, as a person reads it."""


@dataclass(frozen=True)
class Passed:
    """A stage that the document went through."""

    step: str
    kind: str
    word: str


@dataclass(frozen=True)
class Passage:
    """The stages up to a place where rows were written down, and the columns that the document had there for the first time."""

    stages: tuple[Passed, ...]
    learned: Mapping[str, Value]
    folder: str


@dataclass(frozen=True)
class Dropped:
    """Where a document ended, and what stood against it."""

    step: str
    reason: str
    chars: int | None
    keeper_id: str | None = None
    keeper_origin: str | None = None
    cluster_size: int | None = None
    method: str | None = None
    similarity: float | None = None
    text: str | None = None


@dataclass(frozen=True)
class Place:
    """The document's row among the token shards of its dataset."""

    path: str
    row: int
    tokens: int
    bucket: str


@dataclass(frozen=True)
class Span:
    """Tokens [start, end) of a phase's shard that hold tokens from `document_start` on of the document."""

    sequence: int
    start: int
    end: int
    document_start: int | None


@dataclass(frozen=True)
class Sighting:
    """One slice of one phase that holds the document. `spans` is None where nothing says where (packed, no Arrow shard)."""

    phase: str
    slice: str
    reads: int
    packing: str
    shards: tuple[str, ...]
    spans: tuple[Span, ...] | None
    times_seen: float
    """Reads times the share of the document's tokens that the slice holds."""


@dataclass(frozen=True)
class Chapter:
    """What one dataset made of the document."""

    dataset: str
    passages: tuple[Passage, ...]
    dropped: Dropped | None = None
    place: Place | None = None
    sightings: tuple[Sighting, ...] = ()

    @property
    def times_seen(self) -> float:
        """How often the whole curriculum shows it."""
        return sum(one.times_seen for one in self.sightings)

    @property
    def fate(self) -> str:
        """In a few words."""
        if self.dropped is not None:
            return f"dropped by {self.dropped.step}: {self.dropped.reason}"
        if self.place is None:
            return "kept"
        tokens = f"{self.place.tokens:,} tokens in bucket {self.place.bucket}"
        return f"{tokens}, seen {times(self.times_seen)}" if self.sightings else f"{tokens}, in no phase"


@dataclass(frozen=True)
class Relative:
    """A document that this one was made from, or that was made from it. `fate` says what became of it per dataset."""

    id: str
    origin: str
    dataset: str
    fate: str = ""


@dataclass(frozen=True)
class Match:
    """A document that WHAT could mean."""

    id: str
    origin: str
    datasets: tuple[str, ...]


@dataclass(frozen=True)
class Position:
    """What stands at one token of a shard. `before`, `token` and `after` are decoded text, where the run has its tokenizer."""

    shard: str
    offset: int
    sequence: int
    token_id: int
    document_offset: int
    document_tokens: int
    before: str = ""
    token: str = ""
    after: str = ""
    file: Relative | None = None
    """The document, among those joined into this one, that the token came from."""
    line: int | None = None
    """Its line there, from 1."""


@dataclass(frozen=True)
class Story:
    """The answer to `trace RUN WHAT`: one document's story, or, where WHAT names several, only `matches`."""

    what: str
    id: str = ""
    origin: str = ""
    position: Position | None = None
    chapters: tuple[Chapter, ...] = ()
    parents: tuple[Relative, ...] = ()
    children: tuple[Relative, ...] = ()
    more_parents: int = 0
    more_children: int = 0
    duplicates: int = 0
    """Dropped documents that name this one as their keeper."""
    matches: tuple[Match, ...] = ()
    more_matches: int = 0
    notes: tuple[str, ...] = field(default=())


# ---------------------------------------------------------------------------------------------------- shown


def times(number: float) -> str:
    """`3 times`, `once`, `0.62 times`."""
    if number == 1:
        return "once"
    return f"{number:.0f} times" if number == round(number) else f"{number:.2f} times"


def render(story: Story) -> RenderableType:
    """The story for a terminal of 80 columns or more."""
    return Group(*(_matches(story) if story.matches else _parts(story)))


def _matches(story: Story) -> Iterator[RenderableType]:
    total = len(story.matches) + story.more_matches
    yield Text(f"{total:,} documents match {story.what}; trace one by its id:", style="bold")
    table = _grid("id", "dataset", "origin")
    for match in story.matches:
        table.add_row(match.id, ", ".join(match.datasets), Text(match.origin, overflow="fold"))
    yield table
    if story.more_matches:
        yield Text(f"and {story.more_matches:,} more", style="dim")


def _parts(story: Story) -> Iterator[RenderableType]:
    head = _pairs()
    head.add_row("document", Text(story.id, style="bold"))
    head.add_row("origin", Text(story.origin or "unknown", overflow="fold"))
    if story.duplicates:
        head.add_row("keeper of", f"{story.duplicates:,} dropped duplicate{'s' if story.duplicates > 1 else ''}")
    yield head
    if story.position is not None:
        yield from _position(story.position)
    for chapter in story.chapters:
        yield from _chapter(chapter)
    yield from _relatives("made from", story.parents, story.more_parents)
    yield from _relatives("made into", story.children, story.more_children)
    for note in story.notes:
        yield Text(f"\n{note}", style="yellow")


def _position(position: Position) -> Iterator[RenderableType]:
    yield Text(f"\ntoken {position.offset:,} of {position.shard}", style="bold")
    table = _pairs()
    table.add_row("sequence", f"{position.sequence:,}")
    table.add_row(
        "token", f"{position.document_offset:,} of the document's {position.document_tokens:,}, id {position.token_id}"
    )
    if position.token or position.before or position.after:
        shown = Text(position.before, style="dim", overflow="fold")
        shown.append(position.token, style="reverse")
        shown.append(position.after, style="dim")
        table.add_row("text", shown)
    if position.file is not None:
        line = f", line {position.line:,}" if position.line is not None else ""
        table.add_row("file", Text(f"{position.file.origin}{line}", overflow="fold"))
        table.add_row("", Text(position.file.id, style="dim"))
    yield _indented(table)


def _chapter(chapter: Chapter) -> Iterator[RenderableType]:
    title = Text(f"\n{chapter.dataset}", style="bold")
    title.append(f"  {chapter.fate}", style="red" if chapter.dropped else "green")
    yield title
    steps = _pairs()
    for names, learned in _lines(chapter):
        steps.add_row(Text(" > ".join(names), overflow="fold"), learned)
    if chapter.dropped is not None:
        steps.add_row(Text(chapter.dropped.step, style="red"), _dropped(chapter.dropped))
    yield _indented(steps)
    if chapter.sightings:
        yield _indented(_sightings(chapter))


def _lines(chapter: Chapter) -> Iterator[tuple[list[str], Text]]:
    """Stages and what was learned there. A compound's steps count as one; stages that taught nothing join the next line."""
    names: list[str] = []
    last = ""
    for passage in chapter.passages:
        for one in passage.stages:
            name = one.step.split("/")[0]
            if one.word not in ("exchange", "fold") and name != last:
                names.append(name)
                last = name
        if passage.learned:
            yield names, _learned(passage.learned)
            names = []
    place = chapter.place
    if place is not None:
        yield names, Text(f"row {place.row:,} of {place.path}, {place.tokens:,} tokens", overflow="fold")
    elif names:
        yield names, Text()


def _learned(learned: Mapping[str, Value]) -> Text:
    text = Text(overflow="fold")
    for number, (name, value) in enumerate(learned.items()):
        text.append(", " if number else "")
        text.append(f"{name} ", style="dim")
        text.append(_shown(value))
    return text


def _shown(value: Value) -> str:
    if isinstance(value, bool | str):
        return str(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


def _dropped(dropped: Dropped) -> Text:
    text = Text(dropped.reason, overflow="fold")
    if dropped.chars is not None:
        text.append(f"\n{dropped.chars:,} characters", style="dim")
    if dropped.keeper_id is not None:
        similarity = "" if dropped.similarity is None else f", similarity {dropped.similarity:.2f}"
        size = "" if dropped.cluster_size is None else f" in a cluster of {dropped.cluster_size:,}"
        text.append(f"\nkept instead ({dropped.method}{similarity}{size}):\n", style="dim")
        text.append(f"{dropped.keeper_id}  {dropped.keeper_origin or ''}")
    if dropped.text:
        text.append("\n" + " ".join(dropped.text.split())[:200], style="italic dim")
    return text


def _sightings(chapter: Chapter) -> RenderableType:
    lines = Text(overflow="fold")
    width = max(len(one.phase) for one in chapter.sightings)
    per_phase: dict[str, float] = {}
    for one in chapter.sightings:
        lines.append(f"{one.phase:<{width}}", style="cyan")
        lines.append(f"  read {times(one.reads)}, {_spans(one)}\n")
        lines.append("".join(f"{'':<{width}}  {path}\n" for path in one.shards), style="dim")
        per_phase[one.phase] = per_phase.get(one.phase, 0.0) + one.times_seen
    lines.append(f"seen {times(chapter.times_seen)} over the whole curriculum", style="bold")
    lines.append(f" ({', '.join(f'{phase} {times(number)}' for phase, number in per_phase.items())})", style="dim")
    return lines


def _spans(sighting: Sighting) -> str:
    if sighting.spans is None:
        return "packed: only Arrow shards say where"
    if not sighting.spans:
        return "but packing left it out"
    pieces = [
        f"[{span.start:,}, {span.end:,})" + (f" from its token {span.document_start:,}" if span.document_start else "")
        for span in sighting.spans[:SPANS]
    ]
    more = f" and {len(sighting.spans) - SPANS:,} more" if len(sighting.spans) > SPANS else ""
    return f"tokens {', '.join(pieces)}{more}"


def _relatives(title: str, relatives: tuple[Relative, ...], more: int) -> Iterator[RenderableType]:
    if not relatives:
        return
    yield Text(f"\n{title} {len(relatives) + more:,} document{'s' if len(relatives) + more > 1 else ''}", style="bold")
    table = _grid("id", "origin", "what became of it")
    for one in relatives:
        table.add_row(f"{one.id[:12]}", Text(one.origin, overflow="fold"), Text(one.fate, overflow="fold"))
    yield _indented(table)
    if more:
        yield _indented(Text(f"and {more:,} more", style="dim"))


def _pairs() -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(style="cyan", max_width=34)
    table.add_column()
    return table


def _grid(*names: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for name in names:
        table.add_column(
            name, justify="right" if name == "reads" else "left", overflow="fold", no_wrap=name in ("id", "phase")
        )
    return table


def _indented(item: RenderableType) -> Padding:
    return Padding(item, (0, 0, 0, 2))
