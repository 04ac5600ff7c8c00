"""Calls of standard library functions that simulated agents are asked about, with drawn arguments.

A fixed table of pure functions written in Python, so that an agent can open their source as well as run them.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from pipeline.synth.procedural.wording import NAMES, PLACES, WORDS


@dataclass(frozen=True)
class Function:
    """A function of the library: module, file, name, and a maker of argument text."""

    module: str
    path: str
    name: str
    arguments: Callable[[random.Random], str]


def _phrase(r: random.Random, least: int = 3, most: int = 6) -> str:
    return " ".join(r.sample(WORDS, r.randint(least, most)))


def _markup(r: random.Random) -> str:
    a, b = r.sample(WORDS, 2)
    return r.choice((f"<b>{a}</b> & {b}", f'{a} < {b} "quoted"', f"<a href='{a}'>{b}</a>", f"{a} && {b} >= 3"))


def _path(r: random.Random) -> str:
    return "/".join(r.choice((*r.sample(WORDS, 2), "..", ".", "")) for _ in range(r.randint(4, 6)))


def _numbers(r: random.Random, count: int = 7, top: int = 50) -> list[int]:
    return [r.randint(1, top) for _ in range(count)]


def _address(r: random.Random) -> str:
    return f"{r.choice(NAMES)} <{r.choice(WORDS)}@{r.choice(WORDS)}.example>"


def _url(r: random.Random) -> str:
    return f"https://{r.choice(WORDS)}.example/{'/'.join(r.sample(WORDS, r.randint(1, 3)))}"


CALLS: tuple[Function, ...] = (
    Function("textwrap", "textwrap.py", "shorten", lambda r: f"{_phrase(r, 4, 7)!r}, {r.randint(15, 28)}"),
    Function("textwrap", "textwrap.py", "wrap", lambda r: f"{_phrase(r, 4, 7)!r}, {r.randint(10, 20)}"),
    Function(
        "textwrap",
        "textwrap.py",
        "indent",
        lambda r: f"{chr(10).join(r.sample(WORDS, 3))!r}, {r.choice(('> ', '  ', '# '))!r}",
    ),
    Function("string", "string.py", "capwords", lambda r: repr(_phrase(r).replace(" ", "   ", 1))),
    Function("html", "html/__init__.py", "escape", lambda r: repr(_markup(r)) + r.choice(("", ", quote=False"))),
    Function(
        "html",
        "html/__init__.py",
        "unescape",
        lambda r: repr(
            f"{r.choice(WORDS)} &{r.choice(('amp', 'lt', 'gt', 'eacute', 'copy', 'euro'))}; &#{r.randint(65, 122)};"
        ),
    ),
    Function("posixpath", "posixpath.py", "normpath", lambda r: repr(_path(r))),
    Function(
        "posixpath",
        "posixpath.py",
        "join",
        lambda r: ", ".join(repr(r.choice(("/", "")) + w + r.choice(("/", ""))) for w in r.sample(WORDS, 3)),
    ),
    Function(
        "posixpath",
        "posixpath.py",
        "splitext",
        lambda r: repr(
            f"{r.choice(WORDS)}/{r.choice(('.', ''))}{r.choice(WORDS)}.{r.choice(('tar.gz', 'txt', 'py', ''))}"
        ),
    ),
    Function(
        "posixpath",
        "posixpath.py",
        "relpath",
        lambda r: f"'/{'/'.join(r.sample(WORDS[:12], 3))}', '/{'/'.join(r.sample(WORDS[:12], 2))}'",
    ),
    Function(
        "ntpath",
        "ntpath.py",
        "splitdrive",
        lambda r: repr(f"{r.choice('CDEF')}:\\{r.choice(WORDS)}\\{r.choice(WORDS)}.txt"),
    ),
    Function(
        "fnmatch",
        "fnmatch.py",
        "filter",
        lambda r: f"{r.sample(WORDS, 6)!r}, {r.choice(('*a*', '*er', '?a*', '[a-m]*', '*[nt]'))!r}",
    ),
    Function(
        "shlex",
        "shlex.py",
        "split",
        lambda r: repr(f"{r.choice(WORDS)} '{_phrase(r, 2, 2)}' --{r.choice(WORDS)}=\"{_phrase(r, 2, 2)}\""),
    ),
    Function(
        "shlex",
        "shlex.py",
        "quote",
        lambda r: repr(r.choice((_phrase(r, 2, 3), r.choice(WORDS), f"{r.choice(NAMES)}'s {r.choice(WORDS)}"))),
    ),
    Function("bisect", "bisect.py", "bisect_left", lambda r: f"{sorted(_numbers(r))!r}, {r.randint(1, 50)}"),
    Function("bisect", "bisect.py", "bisect_right", lambda r: f"{sorted(_numbers(r, 7, 12))!r}, {r.randint(1, 12)}"),
    Function("heapq", "heapq.py", "nsmallest", lambda r: f"{r.randint(2, 4)}, {_numbers(r)!r}"),
    Function("heapq", "heapq.py", "nlargest", lambda r: f"{r.randint(2, 4)}, {r.sample(WORDS, 6)!r}, key=len"),
    Function("statistics", "statistics.py", "median_low", lambda r: repr(_numbers(r, 6))),
    Function("statistics", "statistics.py", "median_high", lambda r: repr(_numbers(r, 8))),
    Function("statistics", "statistics.py", "multimode", lambda r: repr(_numbers(r, 9, 5))),
    Function("calendar", "calendar.py", "monthrange", lambda r: f"{r.randint(1950, 2080)}, {r.randint(1, 12)}"),
    Function("calendar", "calendar.py", "leapdays", lambda r: f"{r.randint(1890, 1950)}, {r.randint(1990, 2060)}"),
    Function(
        "colorsys",
        "colorsys.py",
        "rgb_to_hsv",
        lambda r: f"{r.randint(0, 4) / 4}, {r.randint(0, 4) / 4}, {r.randint(1, 4) / 4}",
    ),
    Function(
        "difflib",
        "difflib.py",
        "get_close_matches",
        lambda r: f"{(w := r.choice(WORDS))[:-1] + r.choice('aeiou')!r}, {sorted({*r.sample(WORDS, 8), w})!r}",
    ),
    Function(
        "urllib.parse",
        "urllib/parse.py",
        "quote",
        lambda r: repr(f"{r.choice(PLACES)} & {r.choice(WORDS)}/{r.choice(WORDS)}") + r.choice(("", ", safe=''")),
    ),
    Function(
        "urllib.parse",
        "urllib/parse.py",
        "urljoin",
        lambda r: f"{_url(r)!r}, {r.choice(('../', './', '/', '?q=', '#'))!r} + {r.choice(WORDS)!r}",
    ),
    Function(
        "urllib.parse",
        "urllib/parse.py",
        "urlencode",
        lambda r: repr({w: r.choice((n, _phrase(r, 2, 2))) for n, w in enumerate(r.sample(WORDS, 3))}),
    ),
    Function(
        "urllib.parse",
        "urllib/parse.py",
        "parse_qs",
        lambda r: repr("&".join(f"{r.choice(WORDS[:4])}={r.choice(WORDS)}" for _ in range(4))),
    ),
    Function("email.utils", "email/utils.py", "parseaddr", lambda r: repr(_address(r))),
    Function(
        "email.utils",
        "email/utils.py",
        "formataddr",
        lambda r: repr((f"{r.choice(NAMES)}, {r.choice(NAMES)}", f"{r.choice(WORDS)}@{r.choice(WORDS)}.example")),
    ),
    Function(
        "inspect",
        "inspect.py",
        "cleandoc",
        lambda r: repr(f"{_phrase(r, 2, 3)}\n\n    {_phrase(r, 2, 3)}\n      {_phrase(r, 2, 2)}\n    "),
    ),
    Function(
        "json",
        "json/__init__.py",
        "dumps",
        lambda r: (
            f"{ {w: r.choice((n, None, [n], 'é')) for n, w in enumerate(r.sample(WORDS, 3))}!r}"
            + r.choice((", sort_keys=True", ", separators=(',', ':')", ", ensure_ascii=False"))
        ),
    ),
    Function(
        "pprint",
        "pprint.py",
        "pformat",
        lambda r: f"{ {w: _numbers(r, 5) for w in r.sample(WORDS, 3)}!r}, width={r.randint(30, 50)}",
    ),
    Function("operator", "operator.py", "countOf", lambda r: f"{_numbers(r, 9, 4)!r}, {r.randint(1, 4)}"),
    Function("stat", "stat.py", "filemode", lambda r: f"0o100{r.randint(0, 7)}{r.randint(0, 7)}{r.randint(0, 7)}"),
    Function("base64", "base64.py", "b32encode", lambda r: repr(r.choice(WORDS).encode())),
    Function("copy", "copy.py", "deepcopy", lambda r: repr({w: _numbers(r, 2) for w in r.sample(WORDS, 2)})),
)
