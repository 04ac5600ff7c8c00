"""`simulate_agents`: tasks over the standard library, carried out step by step with real tools.

A scripted agent sees only what the tools answer; the truth comes from the syntax tree (or from calling the function
here), so a task can fail, and then its outcome says so. Some runs begin with a wrong move, which the loss mask leaves
out, and recover. Trade-off: scripts give fewer shapes than a model would, but every call and answer in them is real.
Measured: about 30 trajectories per second and core, 600 to 2,800 tokens each, 1,400 in the mean (shared 2-core machine).
"""

from __future__ import annotations

import ast
import importlib
import json
import platform
import random
import re
import sysconfig
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Any, ClassVar, TypeVar

import pyarrow as pa
from pydantic import Field

from pipeline.schema import CREATED, ID, LANGUAGE, LICENCE, ORIGIN, document_id, schema_of
from pipeline.stage import Source, SourcePart, Unreadable, in_batches, random_keys
from pipeline.synth.calls import CALLS
from pipeline.synth.facts import facts_of
from pipeline.synth.procedural.wording import WORDS, Voice
from pipeline.synth.sandbox import Sandbox
from pipeline.synth.tools import SPECIFICATIONS, Tools, read_library
from pipeline.synth.trajectories import TRAJECTORY

_HIT = re.compile(r"^([^\s:]+\.py):(\d+): (.*)$", re.M)
_COUNT = re.compile(r"^(\d+) match")
_SMALLEST_FILE_CHARS = 3000

Known = TypeVar("Known")


class NoTask(Exception):
    """This draw has no task of the wanted kind (no such function in the file): draw again."""


class Episode:
    """One conversation under way: what was said, and the tools behind it."""

    def __init__(self, tools: Tools, voice: Voice):
        self.tools, self.voice = tools, voice
        self.library, self.rng = tools.library, voice.rng
        self.messages: list[dict[str, Any]] = []
        self.learn: list[bool] = []
        self.truths: list[str] = []
        self.success = True

    def user(self, template: str, **values: object) -> None:
        """The user speaks."""
        self._say({"role": "user", "content": self.voice.say(template, **values)}, learn=False)

    def act(self, thought: str, name: str, learn: bool = True, **arguments: Any) -> str:
        """One call; returns the tool's answer. `learn=False`: a wrong move, to be left out of the loss."""
        return self.act_all(thought, [(name, arguments)], learn)[0]

    def act_all(self, thought: str, calls: list[tuple[str, dict[str, Any]]], learn: bool = True) -> list[str]:
        """Several calls in one turn."""
        shown = [{"name": name, "arguments": arguments} for name, arguments in calls]
        self._say({"role": "assistant", "content": "", "reasoning": thought, "tool_calls": shown}, learn)
        results = [self.tools.call(name, arguments) for name, arguments in calls]
        self._say({"role": "tool", "tool_results": results}, learn=False)
        return results

    def finish(self, thought: str, answer: str, found: object, truth: object) -> None:
        """The answer; right only if what the agent found is the truth."""
        self._say({"role": "assistant", "content": answer, "reasoning": thought}, learn=True)
        self.truths.append(str(truth))
        self.success = self.success and found == truth

    def think(self, template: str, **values: object) -> str:
        """A thought in one of its wordings."""
        return self.voice.say(template, **values)

    def _say(self, message: dict[str, Any], learn: bool) -> None:
        self.messages.append(message)
        self.learn.append(learn)


def _some_file(e: Episode) -> str:
    """A file of some length."""
    for _ in range(50):
        path = e.rng.choice(e.library.paths)
        if len(e.library.text(path)) >= _SMALLEST_FILE_CHARS:
            return path
    raise NoTask


def _one_that(e: Episode, named: Sequence[tuple[str, Known]], pattern: str) -> tuple[str, Known]:
    """One of the named things, drawn, whose definition (`pattern` with its name) stands once in the whole library."""
    for name, known in e.rng.sample(named, len(named)):
        if len(e.library.matches(pattern.format(name))) == 1:
            return name, known
    raise NoTask


def _hits(result: str) -> list[tuple[str, int, str]]:
    """What the agent reads in a search result."""
    return [(path, int(line), text) for path, line, text in _HIT.findall(result)]


def _counted(result: str) -> int:
    found = _COUNT.match(result)
    return int(found[1]) if found else 0


def _source(result: str) -> str:
    """The code in the answer of open_file, without line numbers."""
    return "\n".join(line.partition("\t")[2] for line in result.splitlines()[1:])


def _detour(e: Episode, name: str, right_path: str) -> None:
    """Sometimes: a first move that leads nowhere, and the insight that it did."""
    kind = e.rng.randrange(6)
    if kind == 0:
        guess = e.rng.choice([path for path in e.library.paths if path != right_path])
        e.act(
            e.think(
                "[I would guess|My first guess is|Perhaps] `{n}` [is in|lives in|belongs to] {g}.", n=name, g=guess
            ),
            "search",
            False,
            pattern=rf"\b{name}\b",
            path=guess,
        )
        if e.rng.random() < 0.5:
            e.act(
                e.think("[Not there|No luck in that file|Wrong file]. [Its folder may have it|Look around it]."),
                "search",
                False,
                pattern=rf"(def|class) {name}\b",
                path=guess.rpartition("/")[0],
            )
    elif kind == 1:
        guess = f"{name.strip('_').lower()}.py"
        if guess not in e.library:
            e.act(
                e.think(
                    "[Maybe there is a file of that name|A module called {g} would be natural]; [try to open it|let me look].",
                    g=guess,
                ),
                "open_file",
                False,
                path=guess,
                first_line=1,
                last_line=40,
            )
    elif kind == 2:
        slip = name[:-1] + name[-1] * 2 if len(name) > 3 else f"{name}x"
        e.act(
            e.think("[Search for the definition|Let me find where it is defined|First find the definition]."),
            "search",
            False,
            pattern=rf"(def|class) {slip}\b",
        )


def _open_around(e: Episode, path: str, line: int, before: int = 4, after: int = 34) -> str:
    thought = e.think(
        "[The definition is in|Found in|There it is:] {p}, line {n}. [Read it|Open that place|Look at the code there].",
        p=path,
        n=line,
    )
    return e.act(thought, "open_file", path=path, first_line=max(1, line - before), last_line=line + after)


# ------------------------------------------------------------------------------------------------ tasks


def default_of_parameter(e: Episode) -> None:
    """In which file is a function defined, and what is the default of one of its parameters?"""
    path = _some_file(e)
    name, plain = _one_that(e, facts_of(e.library, path).defaults, r"def {}\(")
    parameter, truth = e.rng.choice(plain)
    e.user(
        "[In which file of the library is the function `{f}` defined|Where is the function `{f}` defined|Which file defines the function `{f}`], and what is the default value of its parameter `{p}`?",
        f=name,
        p=parameter,
    )
    _detour(e, name, path)
    found = _hits(
        e.act(
            e.think(
                "[A definition begins with def|Search for `def {f}`|The line that defines it must read `def {f}(`].",
                f=name,
            ),
            "search",
            pattern=rf"def {name}\(",
        )
    )
    file, line, _ = found[0]
    code = _source(_open_around(e, file, line))
    signature = re.search(rf"def {name}\((.*?)\)(?: *->[^:]*)?:\s*(?:#.*)?\n", code, re.S)
    value: object = None
    if signature:
        read = ast.parse(f"def {name}({signature[1]}): pass").body[0]
        assert isinstance(read, ast.FunctionDef)
        defaults = dict(zip([a.arg for a in reversed(read.args.args)], reversed(read.args.defaults), strict=False))
        value = ast.literal_eval(defaults[parameter])
    e.finish(
        e.think("[The signature reads|In the signature stands|There it says] `{p}={v!r}`.", p=parameter, v=value),
        e.think(
            "`{f}` is defined in `{file}` (line {n}); [the default of `{p}` is|its parameter `{p}` defaults to] `{v!r}`.",
            f=name,
            file=file,
            n=line,
            p=parameter,
            v=value,
        ),
        (file, repr(value)),
        (path, truth),
    )


def count_classes(e: Episode) -> None:
    """How many classes does a file define at its outermost level?"""
    path = _some_file(e)
    truth = facts_of(e.library, path).classes
    if not 2 <= truth <= 60:
        raise NoTask
    e.user(
        "[How many classes does|Count the classes that|What number of classes does] `{p}` [define|defines] at its outermost level (not indented)?".replace(
            "Count the classes that|", ""
        ),
        p=path,
    )
    if e.rng.random() < 0.5:
        first = e.act(
            e.think("[Search the file for the word class|Look for class in the file]."),
            "search",
            False,
            pattern="class",
            path=path,
        )
        thought = e.think(
            "[That gives {n} lines, among them comments, strings and indented ones|{n} hits, but not all are definitions]. [A definition at the outermost level starts in column 0|Anchor the pattern at the line start].",
            n=_counted(first),
        )
    else:
        thought = e.think(
            "[Such a definition starts a line with `class`|Anchor at the start of the line, so that nested classes and comments stay out]."
        )
    found = _counted(e.act(thought, "search", pattern=r"^class \w", path=path))
    if e.rng.random() < 0.4:
        where = _hits(
            e.act(
                e.think("[To be sure, look at the first of them|Check that these are definitions]."),
                "search",
                pattern=r"^class \w+.*:",
                path=path,
            )
        )
        if where:
            e.act(
                e.think("[Look at one of them in its place|See how such a definition looks here]."),
                "open_file",
                path=path,
                first_line=where[0][1],
                last_line=where[0][1] + 25,
            )
    e.finish(
        e.think("[The count is in the first line of the answer|{n} lines start with class|So there are {n}].", n=found),
        e.think("`{p}` [defines|has] {n} classes at its outermost level.", p=path, n=found),
        found,
        truth,
    )


def call_result(e: Episode) -> None:
    """What does a function return for given arguments? Read it, run it."""
    function = e.rng.choice([f for f in CALLS if f.path in e.library])
    arguments = function.arguments(e.rng)
    shown = f"{function.module}.{function.name}({arguments})"
    module = importlib.import_module(function.module)
    values = ast.parse(f"f({arguments})", mode="eval").body
    assert isinstance(values, ast.Call)
    args = [_plain(a) for a in values.args]
    truth = repr(getattr(module, function.name)(*args, **{str(k.arg): _plain(k.value) for k in values.keywords}))
    e.user(
        "[What does|What value does] `{s}` return[?| in this version of Python?] [Look at its source as well|Read the source first, then run it|Check with the source and by running it].",
        s=shown,
    )
    _detour(e, function.name, function.path)
    hits = _hits(
        e.act(
            e.think("[Find its source|First its definition|Look for the definition in the module]."),
            "search",
            pattern=rf"def {function.name}\(",
            path=function.path,
        )
    )
    if hits:
        _open_around(e, hits[0][0], hits[0][1], 1, e.rng.randint(20, 45))
    slip = e.rng.random()
    if slip < 0.2:
        e.act(e.think("[Now run it|Let me just call it|Try it]."), "run_python", False, code=f"print(repr({shown}))")
        thought = e.think(
            "[The import is missing|I forgot to import {m}|A NameError: the module must be imported first].",
            m=function.module,
        )
    elif slip < 0.35:
        e.act(
            e.think("[Now run it|Call it with these arguments]."),
            "run_python",
            False,
            code=f"import {function.module}\n{shown}",
        )
        thought = e.think("[Nothing was printed; print the value|A program has to print its result].")
    else:
        thought = e.think(
            "[Now run it to be sure|The code is clear; confirm by running it|Run it with the given arguments]."
        )
    found = e.act(thought, "run_python", code=f"import {function.module}\nprint(repr({shown}))")
    e.finish(
        e.think("[The program printed the value|That is the result|There is the value]."),
        e.think("[It returns|The call returns|`{f}` returns] `{v}`.", f=function.name, v=found),
        found,
        truth,
    )


def _plain(node: ast.expr) -> Any:
    """A literal, or one of the two other things that the table of calls writes: a sum of strings, and `len`."""
    match node:
        case ast.Name(id="len"):
            return len
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            return _plain(left) + _plain(right)
        case _:
            return ast.literal_eval(node)


def find_raise(e: Episode) -> None:
    """Which functions of a file raise a given exception?"""
    path = _some_file(e)
    known = facts_of(e.library, path).raises
    raises = {x: names for x, names in known.items() if len(names) <= 3 and "" not in names}
    if not raises:
        raise NoTask
    exception = e.rng.choice(sorted(raises))
    truth = sorted(set(raises[exception]))
    e.user(
        "[Which function or functions in `{p}` raise `{x}`?|In `{p}`, find the functions that raise `{x}`.|Where in `{p}` is `{x}` raised? Name the functions.]",
        p=path,
        x=exception,
    )
    if e.rng.random() < 0.4:
        e.act(
            e.think("[Look for the exception's name|Search for {x} in the file].", x=exception),
            "search",
            False,
            pattern=exception,
            path=path,
        )
        thought = e.think(
            "[Only raise statements count|Not each mention raises it; narrow the search|Restrict it to lines that raise]."
        )
    else:
        thought = e.think("[Search for the raise statements|Lines that raise it look like `raise {x}`].", x=exception)
    hits = _hits(e.act(thought, "search", pattern=rf"raise {exception}\b", path=path))
    names = []
    for _, line, _ in hits:
        name = ""
        last, depth = line, 10**6
        while last > 0 and not name:
            first = max(1, last - 39)
            page = e.act(
                e.think(
                    "[See which function line {n} belongs to|The function around line {n} starts above|Look above line {n} for its def].",
                    n=line,
                ),
                "open_file",
                path=path,
                first_line=first,
                last_line=last,
            )
            rows = _source(page).split("\n")
            if depth == 10**6:
                depth = len(rows[-1]) - len(rows[-1].lstrip())
            for row in reversed(rows):
                start = re.match(r"( *)(?:async )?def (\w+)", row)
                if start and len(start[1]) < depth:
                    name = start[2]
                    break
            last = first - 1
        names.append(name)
    found = sorted(set(names))
    e.finish(
        e.think("[All raise statements are placed|Every hit has its function now|That settles each line]."),
        e.think(
            "[`{x}` is raised in|It is raised by|These functions raise `{x}`:] {f}.",
            x=exception,
            f=", ".join(f"`{n}`" for n in found),
        ),
        found,
        truth,
    )


def compare_files(e: Episode) -> None:
    """Which of two files defines more functions at its outermost level, and by how many?"""
    first, second = _some_file(e), _some_file(e)

    functions = {path: facts_of(e.library, path).functions for path in (first, second)}
    if first == second or functions[first] == functions[second]:
        raise NoTask
    e.user(
        "[Which of the files|Which one of] `{a}` and `{b}` defines more functions at its outermost level (lines that start with `def`), and [by how many|how many more]?",
        a=first,
        b=second,
    )
    if e.rng.random() < 0.35:
        e.act(
            e.think("[Count the defs in one of them|Begin with {a}].", a=first),
            "search",
            False,
            pattern=r"def \w",
            path=first,
        )
        thought = e.think(
            "[That also counts methods; the pattern needs an anchor|Methods are in there, too. Anchor the pattern], [and ask for both files|and do it for both at once]."
        )
    else:
        thought = e.think(
            "[The two searches do not depend on each other, so make both at once|Ask for both files at once], [with the pattern anchored at the line start|anchored, so that methods do not count]."
        )
    answers = e.act_all(thought, [("search", {"pattern": r"^def \w", "path": path}) for path in (first, second)])
    counts = [_counted(answer) for answer in answers]
    pages = [
        ("open_file", {"path": path, "first_line": hits[0][1], "last_line": hits[0][1] + 12})
        for path, answer in zip((first, second), answers, strict=True)
        if (hits := _hits(answer))
    ]
    if pages and e.rng.random() < 0.5:
        e.act_all(
            e.think(
                "[Check on one of each that these are definitions|See whether the hits are real definitions, not text]."
            ),
            pages,
        )
    more, fewer = (first, second) if counts[0] > counts[1] else (second, first)
    found = (more, abs(counts[0] - counts[1]))
    truth = (first if functions[first] > functions[second] else second, abs(functions[first] - functions[second]))
    e.finish(
        e.think(
            "[Counts|So]: {a} {x}, {b} {y}[; the difference is {d}|].",
            a=first,
            x=counts[0],
            b=second,
            y=counts[1],
            d=found[1],
        ),
        e.think(
            "`{m}` [defines|has] more: {x} against {y} in `{f}`, [a difference of {d}|that is {d} more].",
            m=more,
            f=fewer,
            x=max(counts),
            y=min(counts),
            d=found[1],
        ),
        found,
        truth,
    )


def base_classes(e: Episode) -> None:
    """From what does a class derive, and in which file does it stand?"""
    path = _some_file(e)
    name, bases_there = _one_that(e, facts_of(e.library, path).bases, r"class {}\b")
    truth = (path, bases_there)
    e.user(
        "[From which class or classes does `{c}` derive|What are the base classes of `{c}`|Which classes does `{c}` inherit from], and [in which file is it defined|where does it stand]?",
        c=name,
    )
    _detour(e, name, path)
    hits = _hits(
        e.act(
            e.think("[Search for its class statement|Find `class {c}`].", c=name),
            "search",
            pattern=rf"class {name}\b",
        )
    )
    file, line, _ = hits[0]
    code = _source(_open_around(e, file, line, 2, e.rng.randint(20, 40)))
    bases = re.search(rf"class {name}\((.*?)\):", code, re.S)
    found = (file, re.sub(r"\s+", " ", bases[1]).strip() if bases else "")
    e.finish(
        e.think("[The class statement names|In brackets stand|Its bases are] {b}.", b=found[1]),
        e.think(
            "`{c}` [derives from|inherits from] `{b}`; it is defined in `{f}`, line {n}.",
            c=name,
            b=found[1],
            f=file,
            n=line,
        ),
        found,
        truth,
    )


def constant_value(e: Episode) -> None:
    """What is the value of a constant of a module?"""
    path = _some_file(e)
    name, truth = _one_that(e, facts_of(e.library, path).constants, r"^{} *=")
    e.user(
        "[What is the value of the constant|What value has the constant|To what is] `{n}`[ in the library|], [and which file sets it|and where is it set]?".replace(
            "|To what is", ""
        ),
        n=name,
    )
    _detour(e, name, path)
    if e.rng.random() < 0.4:
        e.act(e.think("[Search for its name|See where it occurs]."), "search", False, pattern=rf"\b{name}\b")
    hits = _hits(
        e.act(
            e.think("[An assignment at the start of a line sets it|Only the assignment matters; anchor the search]."),
            "search",
            pattern=rf"^{name} *=",
        )
    )
    file, line, text = hits[0]
    _open_around(e, file, line, 12, 25)
    try:
        found = repr(ast.literal_eval(text.partition("=")[2].strip()))
    except (ValueError, SyntaxError):
        found = "?"
    e.finish(
        e.think("[Line {n} sets it|The assignment is in line {n}].", n=line),
        e.think("`{c}` is `{v}`, set in `{f}`, line {n}.", c=name, v=found, f=file, n=line),
        (file, found),
        (path, truth),
    )


def missing_function(e: Episode) -> None:
    """Where is a function that does not exist?"""
    verb, noun = (
        e.rng.choice(("normalize", "parse", "merge", "encode", "split", "check", "load", "format")),
        e.rng.choice(WORDS),
    )
    name = f"{verb}_{noun}"
    if e.library.matches(name):
        raise NoTask
    e.user(
        "[In which file is `{f}` defined?|Where does the library define `{f}`?|Find the definition of the function `{f}`.]",
        f=name,
    )
    first = e.act(
        e.think("[Search for its definition|Look for `def {f}`].", f=name), "search", pattern=rf"def {name}\b"
    )
    second = e.act(
        e.think(
            "[No definition. It may be assigned or imported under that name|Nothing; perhaps it is not made by def]."
        ),
        "search",
        pattern=name,
    )
    third = e.act(
        e.think("[Not mentioned at all. Are there similar names|Nowhere. See what begins alike]?"),
        "search",
        pattern=rf"def {verb}_\w+",
    )
    close = [found[2].split("(")[0].removeprefix("def ") for found in _hits(third)][:3]
    if close:
        file, line, _ = _hits(third)[0]
        e.act(
            e.think("[Look at the nearest one, in case it is meant|Check whether the first of these does the same]."),
            "open_file",
            path=file,
            first_line=line,
            last_line=line + e.rng.randint(25, 45),
        )
    absent = first == second == "no matches"
    also = (
        e.think(
            "[Names that begin alike are|There are, however,|Similar names:] {c}.", c=", ".join(f"`{c}`" for c in close)
        )
        if close
        else ""
    )
    e.finish(
        e.think(
            "[The library has no such function|Nothing by that name exists]; [say so|better to say it than to guess]."
        ),
        e.think(
            "[The library does not define|There is no function called|No file defines] `{f}`. {also}", f=name, also=also
        ),
        absent,
        not any(name in text.as_py() for text in e.library.texts),
    )


def importers(e: Episode) -> None:
    """Which files of a package import a given module?"""
    packages = sorted(f for f in e.library.folders if f and "/" not in f)
    package = e.rng.choice(packages)
    files = [p for p in e.library.paths if p.startswith(f"{package}/")]
    users: dict[str, set[str]] = {}
    for path in files:
        for imported in facts_of(e.library, path).imports:
            users.setdefault(imported, set()).add(path)
    names = sorted(n for n, paths in users.items() if 2 <= len(paths) <= 8 and "." not in n)
    if len(files) < 3 or not names:
        raise NoTask
    module = e.rng.choice(names)
    e.user(
        "[Which files in the package|Which modules of the package|What files of] `{p}` import `{m}` with a plain import statement that is not indented?",
        p=package,
        m=module,
    )
    if e.rng.random() < 0.4:
        e.act(
            e.think("[Search for the module's name in the package|Begin with all mentions]."),
            "search",
            False,
            pattern=rf"\b{module}\b",
            path=package,
        )
        thought = e.think(
            "[Too broad: uses are in there as well|Mentions are not imports]. [Restrict it to import lines|Anchor it at import]."
        )
    else:
        thought = e.think(
            "[Import lines start with import, and may name several modules|Anchor at the line start; the module may stand anywhere in the list]."
        )
    hits = _hits(e.act(thought, "search", pattern=rf"^import (.*, *)?{module}\b *(,|$|#| as )", path=package))
    found = sorted({path for path, _, _ in hits})
    if hits:
        path, line, _ = e.rng.choice(hits)
        e.act(
            e.think("[Check one of them in its place|Look at one file's imports, to be sure]."),
            "open_file",
            path=path,
            first_line=max(1, line - 10),
            last_line=line + 20,
        )
    e.finish(
        e.think("[These files have such a line|The hits name {n} files].", n=len(found)),
        e.think(
            "[`{m}` is imported in|These import `{m}`:|The files are] {f}.",
            m=module,
            f=", ".join(f"`{p}`" for p in found),
        ),
        found,
        sorted(users[module]),
    )


def no_tool_needed(e: Episode) -> None:
    """A question that needs no tool: the agent must not call one (Hammer: about a tenth of such data helps)."""
    a, b = e.rng.randint(12, 99), e.rng.randint(12, 99)
    e.user("[Without looking anything up|Before we start|No need for the tools here]: what is {a} times {b}?", a=a, b=b)
    tens, ones = a * (b // 10 * 10), a * (b % 10)
    e.finish(
        e.think(
            "[This needs no tool|Plain arithmetic, no search needed]. {a} × {t} = {x}, {a} × {o} = {y}, [together|sum] {s}.",
            a=a,
            t=b // 10 * 10,
            o=b % 10,
            x=tens,
            y=ones,
            s=tens + ones,
        ),
        e.think("{a} times {b} is {s}.", a=a, b=b, s=tens + ones),
        tens + ones,
        sum([a] * b),
    )


TASKS: tuple[Callable[[Episode], None], ...] = (
    default_of_parameter,
    count_classes,
    call_result,
    find_raise,
    compare_files,
    base_classes,
    constant_value,
    missing_function,
    importers,
)
_NO_TOOL_SHARE = 0.05  # our choice, below Hammer's 10 % because half of these talks go on to a real task
_TWO_TASKS_SHARE = 0.25  # our choice: conversations with a second question

_SYSTEM = (
    "[You are an assistant for Python's standard library.|You answer questions about a library of Python source files.|"
    "You are a careful programmer with access to a code library.] "
    "[Use the tools to find facts instead of relying on memory.|Look things up with the tools; do not guess.|"
    "Base every answer on what the tools show.] "
    "[Answer briefly.|Give the file and line where that helps.|Keep answers short and exact.]"
)


def simulate(tools: Tools, key: int) -> dict[str, Any]:
    """One trajectory, as a neutral record: a function of the library and of a 64-bit random key."""
    voice = Voice(random.Random(key))  # noqa: S311
    system = voice.say(_SYSTEM)
    episode = Episode(tools, voice)
    if voice.rng.random() < _NO_TOOL_SHARE:
        no_tool_needed(episode)
    for _ in range(2 if voice.rng.random() < _TWO_TASKS_SHARE else 1):
        _one_task(episode)
    return {
        "system": system,
        "tools": list(SPECIFICATIONS),
        "messages": episode.messages,
        "outcome": "success" if episode.success else "failure",
        "verifier": json.dumps({"verifier": "syntax_tree", "expected": episode.truths}, ensure_ascii=False),
        "licence": "PSF-2.0",
        "loss_mask": episode.learn,
    }


def _one_task(e: Episode) -> None:
    """The next task that can be had from this library; nothing is said before a task is sure to exist."""
    for _ in range(500):
        try:
            e.rng.choice(TASKS)(e)
        except NoTask:
            continue
        return
    msg = f"no task in 500 draws from a library of {len(e.library.paths)} files"
    raise RuntimeError(msg)


class SimulateAgents(Source):
    """Tasks over the standard library of the running Python, carried out with real tools by a scripted agent.

    Failed tasks are there too, marked: keep the good ones with `successful_trajectories`. Memory: the library (about
    9 MB of text) and one batch. Source: the record and the filter rule are recipe-facts 8.3 (GLM-4.5, Kimi K2, GLM-5).
    """

    kind: ClassVar[str] = "simulate_agents"
    seeded: ClassVar[bool] = True

    count: int = Field(default=400, ge=1, le=100_000_000)
    parts_wanted: int = Field(default=4, ge=1, le=100_000)

    def schema(self) -> pa.Schema:  # type: ignore[override]
        return schema_of((ID, ORIGIN, TRAJECTORY, LANGUAGE, LICENCE, CREATED))

    def parts(self) -> list[SourcePart]:
        pieces = min(self.parts_wanted, self.count)
        edges = [self.count * k // pieces for k in range(pieces + 1)]
        about = {"library": read_library(_root()).digest, "python": platform.python_version()}
        return [
            SourcePart(name=f"trajectories-{first:09d}", settings={"first": first, "end": end, **about})
            for first, end in pairwise(edges)
        ]

    def batches(self, part: SourcePart) -> Iterator[pa.RecordBatch | Unreadable]:
        first, end = int(part.settings["first"]), int(part.settings["end"])
        with Sandbox() as sandbox:
            yield from in_batches(self._rows(Tools(read_library(_root()), sandbox), first, end), self.schema())

    def _rows(self, tools: Tools, first: int, end: int) -> Iterator[dict[str, Any]]:
        ids = [document_id("agents", "stdlib", str(number), str(self.seed)) for number in range(first, end)]
        keys = random_keys(pa.array(ids, pa.binary(16)), self.seed, "simulate_agents")
        for number, identity, key in zip(range(first, end), ids, keys.tolist(), strict=True):
            record = simulate(tools, key)
            yield {
                "id": identity,
                "origin": f"agents:stdlib#{number}",
                "trajectory": json.dumps(record, ensure_ascii=False),
                "language": "en",
                "licence": record["licence"],
            }


def _root() -> str:
    return sysconfig.get_path("stdlib")
