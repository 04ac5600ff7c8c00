"""Agent trajectories: the neutral record, a source that reads such records, and a filter that keeps the successful ones.

One record holds everything about one task: who said what, which tools were called and what they answered, how it ended
and who judged that. It is JSON in one column, because messages nest; everything else about a row is ordinary columns.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Annotated, Any, BinaryIO, ClassVar, Literal

import fsspec
import pyarrow as pa
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator
from pydantic_core import from_json

from pipeline.schema import CREATED, ID, LANGUAGE, LICENCE, ORIGIN, document_id, field, schema_of
from pipeline.stage import Filter, InputFile, Source, SourcePart, Unreadable, in_batches

TRAJECTORY = field("trajectory", pa.large_string(), "one agent task as a neutral record (JSON, recipe-facts 8.3)")


def _arguments(value: object) -> object:
    """Arguments may come as an object or as JSON text of one (as OpenAI-style logs have them)."""
    return from_json(value) if isinstance(value, str) else value


class ToolCall(BaseModel):
    """A call: which tool, with what."""

    model_config = ConfigDict(frozen=True)

    name: str = Field(min_length=1)
    arguments: Annotated[dict[str, Any], BeforeValidator(_arguments)]


class Message(BaseModel):
    """One turn. An assistant may reason, speak and call; a tool turn answers the calls before it, in order."""

    model_config = ConfigDict(frozen=True)

    role: Literal["system", "user", "assistant", "tool"]
    content: str | None = None
    reasoning: str | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    tool_results: tuple[Any, ...] = ()

    @field_validator("tool_calls", "tool_results", mode="before")
    @classmethod
    def _none_is_empty(cls, value: object) -> object:
        return () if value is None else value


class Record(BaseModel):
    """One task. `loss_mask` says per message whether to learn from it: a wrong step may stay, masked (GLM-5)."""

    model_config = ConfigDict(frozen=True)

    system: str | None = None
    tools: tuple[dict[str, Any], ...] = ()
    messages: tuple[Message, ...] = Field(min_length=1)
    outcome: Literal["success", "failure"] | None = None
    verifier: str | None = None
    licence: str | None = None
    loss_mask: tuple[bool, ...] | None = None


class Malformed(ValueError):
    """The record cannot be rendered; says why."""


def read_record(text: str) -> Record:
    """The record of a JSON text, checked in form and in the order of its turns; Malformed otherwise."""
    try:
        record = Record.model_validate_json(text)
    except ValidationError as problem:
        first = problem.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"])) or "record"
        msg = f"{place}: {first['msg']}"
        raise Malformed(msg) from problem
    except RecursionError as problem:
        msg = "nested too deeply"
        raise Malformed(msg) from problem
    if record.loss_mask is not None and len(record.loss_mask) != len(record.messages):
        msg = f"loss_mask has {len(record.loss_mask)} entries for {len(record.messages)} messages"
        raise Malformed(msg)
    _check_order(record.messages)
    return record


def _check_order(messages: tuple[Message, ...]) -> None:
    """Tool turns answer each call of the assistant turn before them, no more and no fewer; others hold no results."""
    open_calls = 0
    for k, message in enumerate(messages):
        if message.role == "tool":
            if not message.tool_results or len(message.tool_results) > open_calls:
                msg = f"messages.{k}: {len(message.tool_results)} tool results for {open_calls} open calls"
                raise Malformed(msg)
            open_calls -= len(message.tool_results)
            continue
        if open_calls:
            msg = f"messages.{k}: {open_calls} tool calls were not answered"
            raise Malformed(msg)
        if message.tool_results or (message.tool_calls and message.role != "assistant"):
            msg = f"messages.{k}: a {message.role} turn with tool calls or results of its own"
            raise Malformed(msg)
        open_calls = len(message.tool_calls)
    if messages[-1].role != "assistant":
        msg = f"the last turn is of role {messages[-1].role}, expected assistant"
        raise Malformed(msg)


class SuccessfulTrajectories(Filter):
    """Keeps tasks that reached their goal. Reasons: task_failed, malformed_trajectory.

    Memory: the batch and one parsed record. Source: GLM-4.5 report section 3.1 and Kimi K2 (only successful ones are kept).
    """

    kind: ClassVar[str] = "successful_trajectories"

    max_chars: int = Field(default=8 << 20, ge=1)
    """Characters of a record beyond which it counts as malformed."""

    def needs(self) -> tuple[pa.Field, ...]:
        return (TRAJECTORY,)

    def reasons(self, docs: pa.RecordBatch) -> pa.StringArray:
        return pa.array([self._reason(text) for text in docs["trajectory"].to_pylist()], pa.string())

    def _reason(self, text: str | None) -> str | None:
        if text is None or len(text) > self.max_chars:
            return "malformed_trajectory"
        try:
            record = read_record(text)
        except Malformed:
            return "malformed_trajectory"
        return None if record.outcome == "success" else "task_failed"


class Trajectories(Source):
    """Neutral records from JSONL files, one record a line; files may be compressed, and lie anywhere that fsspec reads.

    A line that is too long, not UTF-8 or not a well-formed record is a counted drop. Each file is a part.
    Memory: one batch plus one line of at most `max_line_bytes`.
    """

    kind: ClassVar[str] = "trajectories"

    paths: tuple[str, ...]
    language: str | None = None
    max_line_bytes: int = Field(default=32 << 20, ge=1)

    @field_validator("paths", mode="before")
    @classmethod
    def _one_or_many(cls, paths: object) -> object:
        return (paths,) if isinstance(paths, str) else paths

    def schema(self) -> pa.Schema:  # type: ignore[override]
        return schema_of((ID, ORIGIN, TRAJECTORY, LANGUAGE, LICENCE, CREATED))

    def parts(self) -> list[SourcePart]:
        found: dict[str, InputFile] = {}
        for pattern in self.paths:
            system, path = fsspec.core.url_to_fs(pattern)
            for name in sorted(system.glob(path)):
                about = system.info(name)
                if about["type"] == "file":
                    version = str(about.get("ETag") or about.get("mtime") or about.get("created") or "")
                    found[system.unstrip_protocol(name)] = InputFile(
                        system.unstrip_protocol(name), about["size"], version
                    )
        return [SourcePart(name=path, files=(file,)) for path, file in sorted(found.items())]

    def batches(self, part: SourcePart) -> Iterator[pa.RecordBatch | Unreadable]:
        path = part.files[0].path
        name = os.path.basename(path)
        with fsspec.open(path, "rb", compression="infer") as lines:
            yield from in_batches(self._rows(lines, name), self.schema())

    def _rows(self, lines: BinaryIO, name: str) -> Iterator[dict[str, Any] | Unreadable]:
        number = 0
        while True:
            try:
                line = lines.readline(self.max_line_bytes + 1)
                if len(line) > self.max_line_bytes:
                    yield Unreadable(f"{name}#{number}", "unreadable: line too long")
                    while line and not line.endswith(b"\n"):
                        line = lines.readline(1 << 20)
                    number += 1
                    continue
            except (OSError, EOFError) as problem:  # a damaged compressed file: what came before it stays
                yield Unreadable(f"{name}#{number}", f"unreadable: {type(problem).__name__}")
                return
            if not line:
                return
            if line.strip():
                yield self._row(line, name, number)
            number += 1

    def _row(self, line: bytes, name: str, number: int) -> dict[str, Any] | Unreadable:
        origin = f"{name}#{number}"
        try:
            text = line.decode().strip()
            record = read_record(text)
        except UnicodeDecodeError:
            return Unreadable(origin, "unreadable: not UTF-8")
        except Malformed:
            return Unreadable(origin, "unreadable: not a trajectory record", len(line))
        return {
            "id": document_id("trajectories", name, str(number)),
            "origin": origin,
            "trajectory": text,
            "language": self.language,
            "licence": record.licence,
        }
