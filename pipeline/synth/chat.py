"""`render_chat`: an agent record as one document in GLM-4.5's chat format.

Special tokens never stand in text. `render` gives ordinary text and, beside it, which special token stands before which
byte; so whatever a user, a tool or a file says (`<|assistant|>` included) stays ordinary text when it is tokenized. The
template is that of GLM-4.5 (recipe-facts 4.6), byte for byte when the tokens are put back in (`as_string`); the example
calls in its tools preamble are special tokens too, as they are for a model that reads the rendered template.

Trade-off: Olmo 3 saw a base model emit chat tokens after mid-training on them (GSM8K 49 -> 0) and used plain newlines;
`special_tokens: false` does so. Measured: about 3,000 records (16 MB) per second
and core.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Literal

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from pipeline.schema import SPECIALS, TEXT, field
from pipeline.stage import Annotate, Compound, Filter, Step
from pipeline.synth.trajectories import TRAJECTORY, Message, Record, ToolCall, read_record

Reasoning = Literal["all", "last_turn", "none"]
Special = tuple[int, str]

CHAT_DEFECT = field("chat_defect", pa.string(), "why the trajectory could not be rendered; null where it was")

CHAT_TOKENS = (
    "[gMASK]",
    "<sop>",
    "<|system|>",
    "<|user|>",
    "<|assistant|>",
    "<|observation|>",
    "<think>",
    "</think>",
    "<tool_call>",
    "</tool_call>",
    "<tool_response>",
    "</tool_response>",
    "<arg_key>",
    "</arg_key>",
    "<arg_value>",
    "</arg_value>",
    "/nothink",
)
"""All special tokens that rendering may use: a tokenizer must know each as one token."""


class _Writer:
    """Text and special tokens, side by side."""

    def __init__(self) -> None:
        self.pieces: list[str] = []
        self.specials: list[Special] = []
        self.bytes_written = 0

    def text(self, piece: str) -> None:
        self.pieces.append(piece)
        self.bytes_written += len(piece.encode())

    def special(self, token: str) -> None:
        self.specials.append((self.bytes_written, token))

    def wrapped(self, token: str, piece: str) -> None:
        """A piece between an opening and a closing token: `wrapped("think", ...)`."""
        self.special(f"<{token}>")
        self.text(piece)
        self.special(f"</{token}>")


def render(
    record: Record, reasoning: Reasoning = "last_turn", special_tokens: bool = True
) -> tuple[str, list[Special]]:
    """The record as (text, special tokens).

    `reasoning`: "all" keeps every thought; "last_turn" only those after the last user message, as GLM's template does;
    "none" leaves all out and marks user turns with /nothink, GLM's non-thinking mode.
    """
    if not special_tokens:
        return _plain(record, reasoning), []
    out = _Writer()
    out.special("[gMASK]")
    out.special("<sop>")
    if record.tools:
        _tools(out, record.tools)
    if record.system is not None:
        out.special("<|system|>")
        out.text(f"\n{record.system}")
    kept_after = _kept_after(record.messages, reasoning)
    before = ""
    for k, message in enumerate(record.messages):
        if message.role == "tool":
            if before != "tool":
                out.special("<|observation|>")
            for result in message.tool_results:
                out.text("\n")
                out.wrapped("tool_response", f"\n{_result(result)}\n")
        else:
            out.special(f"<|{message.role}|>")
            if message.role == "assistant":
                _assistant(out, message, k > kept_after)
            else:
                out.text(f"\n{message.content or ''}")
                if message.role == "user" and reasoning == "none":
                    out.special("/nothink")
        before = message.role
    return "".join(out.pieces), out.specials


def as_string(text: str, specials: Iterable[Special | Mapping[str, Any]]) -> str:
    """Text with its special tokens spelled out where they stand: for display, and to compare with a template."""
    data, pieces, at = text.encode(), [], 0
    for special in specials:
        place, token = (special["at"], special["token"]) if isinstance(special, Mapping) else special
        pieces += [data[at:place], token.encode()]
        at = place
    return b"".join([*pieces, data[at:]]).decode()


def _kept_after(messages: tuple[Message, ...], reasoning: Reasoning) -> int:
    """Index of the message after which thoughts are kept."""
    if reasoning == "all":
        return -1
    if reasoning == "none":
        return len(messages)
    return max((k for k, message in enumerate(messages) if message.role == "user"), default=-1)


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


def _argument(value: object) -> str:
    """Strings raw, so that code needs no escapes; all else as JSON."""
    return value if isinstance(value, str) else _json(value)


def _result(result: object) -> str:
    """A result: text as it is, {"output": ...} by its output (Zhipu's own form), all else as JSON."""
    return _argument(result["output"] if isinstance(result, Mapping) and "output" in result else result)


def _assistant(out: _Writer, message: Message, thoughts: bool) -> None:
    out.text("\n")
    out.wrapped("think", (message.reasoning or "").strip() if thoughts else "")
    if content := (message.content or "").strip():
        out.text(f"\n{content}")
    for call in message.tool_calls:
        out.text("\n")
        _call(out, call.name, [(name, _argument(value)) for name, value in call.arguments.items()])


def _call(out: _Writer, name: str, arguments: Iterable[tuple[str, str]], after: str = "") -> None:
    out.special("<tool_call>")
    out.text(f"{name}\n")
    for key, value in arguments:
        out.wrapped("arg_key", key)
        out.text("\n")
        out.wrapped("arg_value", value)
        out.text("\n")
    out.text(after)
    out.special("</tool_call>")


def _tools(out: _Writer, tools: Iterable[Mapping[str, Any]]) -> None:
    """The preamble of GLM-4.5's template: what tools there are, and how to call one."""
    out.special("<|system|>")
    listing = "\n".join(map(_json, tools))
    out.text(
        "\n# Tools\n\nYou may call one or more functions to assist with the user query.\n\n"
        "You are provided with function signatures within <tools></tools> XML tags:\n"
        f"<tools>\n{listing}\n</tools>\n\n"
        "For each function call, output the function name and arguments within the following XML format:\n"
    )
    pattern = [(f"{{arg-key-{k}}}", f"{{arg-value-{k}}}") for k in (1, 2)]
    _call(out, "{function-name}", pattern, after="...\n")


def _plain(record: Record, reasoning: Reasoning) -> str:
    """The conversation as headed paragraphs, without any special token."""
    parts = [f"System:\n{record.system}"] if record.system else []
    if record.tools:
        parts.append("Tools:\n" + "\n".join(map(_json, record.tools)))
    kept_after = _kept_after(record.messages, reasoning)
    for k, message in enumerate(record.messages):
        if message.role == "tool":
            parts += [f"Result:\n{_result(result)}" for result in message.tool_results]
            continue
        if message.role == "assistant" and k > kept_after and (thought := (message.reasoning or "").strip()):
            parts.append(f"Thought:\n{thought}")
        if content := (message.content or "").strip():
            parts.append(f"{message.role.capitalize()}:\n{content}")
        parts += [_plain_call(call) for call in message.tool_calls]
    return "\n\n".join(parts)


def _plain_call(call: ToolCall) -> str:
    shown = "".join(f"\n{name}: {_argument(value)}" for name, value in call.arguments.items())
    return f"Call {call.name}:{shown}"


class Render(Annotate):
    """The first half of `render_chat`: adds text and specials, and says what kept a record from being rendered.

    Memory: the batch and its rendering. Rows are parsed one by one, since messages nest.
    """

    kind: ClassVar[str] = "render"

    reasoning: Reasoning = "last_turn"
    special_tokens: bool = True
    max_chars: int = Field(default=8 << 20, ge=1)
    """Characters of a record beyond which it counts as malformed."""

    def needs(self) -> tuple[pa.Field, ...]:
        return (TRAJECTORY,)

    def adds(self) -> tuple[pa.Field, ...]:
        return (TEXT, SPECIALS, CHAT_DEFECT)

    def columns(self, docs: pa.RecordBatch) -> Mapping[str, pa.Array]:
        rows = [self._row(text) for text in docs["trajectory"].to_pylist()]
        specials = [None if row[1] is None else [{"at": at, "token": token} for at, token in row[1]] for row in rows]
        return {
            "text": pa.array([row[0] for row in rows], TEXT.type),
            "specials": pa.array(specials, SPECIALS.type),
            "chat_defect": pa.array([row[2] for row in rows], CHAT_DEFECT.type),
        }

    def _row(self, text: str | None) -> tuple[str | None, list[Special] | None, str | None]:
        if text is None or len(text) > self.max_chars:
            return None, None, "no record" if text is None else f"record longer than {self.max_chars} characters"
        try:
            rendered, specials = render(read_record(text), self.reasoning, self.special_tokens)
        except ValueError as problem:  # Malformed, or a number too long to be written
            return None, None, str(problem)
        return rendered, specials, None


class WellFormed(Filter):
    """The second half of `render_chat`: drops what could not be rendered. Reason: malformed_trajectory."""

    kind: ClassVar[str] = "wellformed"

    keep_record: bool = False

    def needs(self) -> tuple[pa.Field, ...]:
        return (CHAT_DEFECT,)

    def removes(self) -> tuple[str, ...]:
        return ("chat_defect",) if self.keep_record else ("chat_defect", "trajectory")

    def reasons(self, docs: pa.RecordBatch) -> pa.StringArray:
        broken = docs["chat_defect"].is_valid()
        return pc.if_else(broken, pa.scalar("malformed_trajectory"), pa.scalar(None, pa.string()))


class RenderChat(Compound):
    """Agent records as documents in GLM-4.5's chat format, special tokens beside the text (see this module's head).

    Malformed records are dropped (malformed_trajectory). The record itself is dropped from the rows unless `keep_record`.
    Source: GLM-4.5's chat template as rendered in recipe-facts 4.6.
    """

    kind: ClassVar[str] = "render_chat"

    reasoning: Reasoning = "last_turn"
    special_tokens: bool = True
    keep_record: bool = False
    max_chars: int = Field(default=8 << 20, ge=1)

    def needs(self) -> tuple[pa.Field, ...]:
        return (TRAJECTORY,)

    def adds(self) -> tuple[pa.Field, ...]:
        return (TEXT, SPECIALS)

    def steps(self) -> list[Step]:
        render_step = Render(reasoning=self.reasoning, special_tokens=self.special_tokens, max_chars=self.max_chars)
        return [Step("render", render_step), Step("wellformed", WellFormed(keep_record=self.keep_record))]
