"""What does this program print? Small generated programs with a line-by-line account by our own evaluator."""

from __future__ import annotations

import random
from collections.abc import Callable

from pipeline.synth.procedural.evaluator import Evaluator, Event, Unsupported
from pipeline.synth.procedural.wording import WORDS, Problem, Topic, Voice

_NUMBERS = [
    "values",
    "nums",
    "data",
    "scores",
    "items",
    "amounts",
    "prices",
    "levels",
    "readings",
    "heights",
    "weights",
    "sizes",
    "marks",
    "counts",
    "steps",
]
_TOTALS = [
    "total",
    "acc",
    "result",
    "score",
    "balance",
    "tally",
    "energy",
    "sum_so_far",
    "points",
    "budget",
    "depth",
    "answer",
    "state",
]
_ITEMS = ["n", "x", "v", "item", "value", "k", "num", "q", "w", "element", "entry", "one"]
_OTHERS = ["best", "count", "last", "a", "b", "c", "left", "right", "flag", "extra", "step", "limit", "high", "low"]
_TEXTS = ["word", "text", "name", "label", "phrase", "code", "token", "title", "key", "line"]
_FUNCTIONS = [
    "f",
    "g",
    "step",
    "combine",
    "update",
    "rate_it",
    "fold",
    "mix",
    "shrink",
    "grow",
    "walk",
    "measure",
    "transform",
    "reduce_it",
    "build",
    "pick",
    "solve",
]

_MOST_EVENTS = 34


def _names(r: random.Random, *pools: list[str]) -> list[str]:
    """One name of each pool, all different."""
    chosen: list[str] = []
    for pool in pools:
        chosen.append(r.choice([name for name in pool if name not in chosen]))
    return chosen


def _test(r: random.Random, x: str) -> str:
    k = r.randint(2, 5)
    return r.choice(
        (
            f"{x} % {k} == {r.randint(0, k - 1)}",
            f"{x} > {r.randint(3, 20)}",
            f"{x} < {r.randint(5, 25)}",
            f"{x} % {k} != 0",
            f"{r.randint(2, 9)} < {x} < {r.randint(12, 30)}",
        )
    )


def _change(r: random.Random, total: str, x: str) -> str:
    return r.choice(
        (
            f"{total} += {x}",
            f"{total} -= {x}",
            f"{total} += {x} * {r.randint(2, 5)}",
            f"{total} = {total} + {x} // {r.randint(2, 4)}",
            f"{total} += {r.randint(1, 9)}",
            f"{total} = {total} * {r.randint(2, 3)} - {x}",
            f"{total} += {x} % {r.randint(3, 7)}",
            f"{total} = max({total}, {x})",
            f"{total} = abs({total} - {x})",
        )
    )


def _list(r: random.Random, count: int) -> str:
    return str([r.randint(1, 30) for _ in range(count)])


def _fold(r: random.Random, d: int) -> str:
    xs, x, total, other = _names(r, _NUMBERS, _ITEMS, _TOTALS, _OTHERS)
    lines = [f"{xs} = {_list(r, 3 + d // 2)}", f"{total} = {r.randint(0, 10)}"]
    both = r.random() < 0.5
    if both:
        lines.append(f"{other} = {r.randint(0, 5)}")
    lines += [f"for {x} in {xs}:", f"    if {_test(r, x)}:", f"        {_change(r, total, x)}"]
    if r.random() < 0.7:
        lines += ["    else:", f"        {_change(r, other if both else total, x)}"]
    if r.random() < 0.3:
        lines += [
            f"    if {total} > {r.randint(30, 80)}:",
            r.choice(("        break", f"        {total} -= {r.randint(5, 30)}")),
        ]
    return "\n".join([*lines, f"print({total}, {other})" if both else f"print({total})"])


def _digits(r: random.Random, d: int) -> str:
    n, total, digit = _names(r, ["n", "number", "m", "rest", "x"], _TOTALS, ["digit", "d", "last", "r"])
    base = r.choice((10, 10, 10, 2, 3, 8))
    start = r.randint(base**3, base ** (4 + (base < 4)))
    lines = [
        f"{n} = {start}",
        f"{total} = {r.randint(0, 1)}",
        f"while {n} > 0:",
        f"    {digit} = {n} % {base}",
        f"    {n} = {n} // {base}",
    ]
    kind = r.randint(0, 3)
    if kind == 0:
        lines.append(f"    {total} += {digit}")
    elif kind == 1:
        lines.append(f"    {total} = {total} * {r.choice((base, 2, 3))} + {digit}")
    elif kind == 2:
        lines += [f"    if {digit} % 2 == {r.randint(0, 1)}:", f"        {_change(r, total, digit)}"]
    else:
        lines += [
            f"    if {digit} > {r.randint(1, base // 2)}:",
            f"        {total} += {digit}",
            "    else:",
            f"        {total} += {r.randint(1, 3)}",
        ]
    return "\n".join([*lines, f"print({total})"])


def _letters(r: random.Random, d: int) -> str:
    text, c, out = _names(r, _TEXTS, ["c", "ch", "letter", "s"], ["out", "result", "built", "answer", "r"])
    word = r.choice([w for w in WORDS if len(w) <= 4 + d])
    group = "".join(r.sample("aeioulnrst", r.randint(2, 5)))
    hit = r.choice(
        (
            f"{out} += {c}.upper()",
            f"{out} = {c} + {out}",
            f"{out} += {c} * 2",
            f"{out} += '{r.choice('*-.#_')}'",
            f"{out} += str(len({out}))",
        )
    )
    miss = r.choice((f"{out} += {c}", f"{out} = {out} + {c}", f"{out} = {c} + {out}", f"{out} += '{r.choice('xyz!')}'"))
    test = r.choice(
        (f"{c} in '{group}'", f"{c} < '{r.choice('fghklmnp')}'", f"len({out}) % {r.randint(2, 3)} == {r.randint(0, 1)}")
    )
    last = r.choice((f"print({out})", f"print({out}, len({out}))", f"print({out}[::-1])", f"print({out}[1:])"))
    return "\n".join(
        (
            f"{text} = '{word}'",
            f"{out} = ''",
            f"for {c} in {text}:",
            f"    if {test}:",
            f"        {hit}",
            "    else:",
            f"        {miss}",
            last,
        )
    )


def _counts(r: random.Random, d: int) -> str:
    seen, x, xs = _names(
        r,
        ["seen", "counts", "table", "found", "where", "stock"],
        ["c", "w", "item", "key", "word"],
        ["things", "words", "row", "entries", "stream"],
    )
    if r.random() < 0.5:
        source = f"'{r.choice([w for w in WORDS if len(w) < 6 + d // 2])}'"
    else:
        pool = r.sample(WORDS, 3)
        source = str([r.choice(pool) for _ in range(4 + d // 2)])
    amount = r.choice(("1", f"len({x})", str(r.randint(2, 4))))
    lines = [
        f"{xs} = {source}",
        f"{seen} = {{}}",
        f"for {x} in {xs}:",
        f"    {seen}[{x}] = {seen}.get({x}, {r.choice((0, 0, 1, 10))}) + {amount}",
    ]
    last = r.choice(
        (
            f"print({seen})",
            f"print(sorted({seen}.items()))",
            f"print(max({seen}.values()), len({seen}))",
            f"print([k for k in {seen} if {seen}[k] > {r.randint(1, 2)}])",
            f"print(sum({seen}.values()) - len({seen}))",
        )
    )
    return "\n".join([*lines, last])


def _nested(r: random.Random, d: int) -> str:
    i, j, total = _names(r, ["i", "a", "row", "x"], ["j", "b", "col", "y"], _TOTALS)
    lines = [f"{total} = {r.randint(0, 5)}", f"for {i} in range({r.randint(1, 2)}, {r.randint(3, 4)}):"]
    inner = r.choice((f"range({r.randint(2, 4)})", f"range({i})", f"range({i}, {r.randint(4, 5)})", _list(r, 3)))
    lines.append(f"    for {j} in {inner}:")
    kind = r.randint(0, 2)
    if kind == 0:
        lines.append(f"        {total} += {i} * {j}" + r.choice(("", f" + {r.randint(1, 5)}", f" - {i}")))
    elif kind == 1:
        lines += [
            f"        if ({i} + {j}) % {r.randint(2, 3)} == 0:",
            f"            {r.choice(('continue', 'break'))}",
            f"        {total} += {r.choice((j, i, f'{i} + {j}'))}",
        ]
    else:
        lines += [
            f"        if {j} > {i}:",
            f"            {_change(r, total, j)}",
            "        else:",
            f"            {_change(r, total, i)}",
        ]
    return "\n".join([*lines, f"print({total})"])


def _recursion(r: random.Random, d: int) -> str:
    f, n = _names(r, _FUNCTIONS, ["n", "k", "m", "x"])
    start = r.randint(4, 5 + d)
    down = r.choice((f"{n} - 1", f"{n} - 2", f"{n} // 2"))
    if "//" in down:
        start = r.randint(10, 60 * d)
    body = r.choice(
        (
            "{f}({down}) + {n}",
            "{n} * {f}({down}) - {a}",
            "{f}({down}) * 2 + {a}",
            "{a} + {f}({down})",
            "{f}({down}) + {n} % {b}",
            "{n} - {f}({down})",
        )
    )
    lines = [
        f"def {f}({n}):",
        f"    if {n} <= {r.randint(1, 2)}:",
        f"        return {r.choice((n, '1', str(r.randint(2, 6))))}",
    ]
    if r.random() < 0.4:
        lines += [f"    if {n} % {r.randint(2, 3)} == 0:", f"        return {f}({down}) + {r.randint(1, 9)}"]
    lines.append("    return " + body.format(f=f, n=n, down=down, a=r.randint(1, 9), b=r.randint(2, 4)))
    return "\n".join([*lines, f"print({f}({start}))"])


def _mutation(r: random.Random, d: int) -> str:
    (xs,) = _names(r, _NUMBERS)
    length = 4
    lines = [f"{xs} = {_list(r, length)}"]
    for _ in range(3 + d):
        kind = r.randint(0, 7)
        at = r.randint(0, length - 1)
        if kind == 0:
            lines.append(
                f"{xs}.append({r.choice((f'{xs}[0] + {xs}[-1]', str(r.randint(1, 40)), f'len({xs})', f'max({xs})'))})"
            )
            length += 1
        elif kind == 1 and length > 3:
            lines.append(f"{xs}.pop({r.choice((at, 0, -1))})")
            length -= 1
        elif kind == 2:
            lines.append(f"{xs}[{at}] = {xs}[{r.randint(0, length - 1)}] {r.choice('+-*')} {r.randint(2, 5)}")
        elif kind == 3:
            other = r.randint(0, length - 1)
            lines.append(f"{xs}[{at}], {xs}[{other}] = {xs}[{other}], {xs}[{at}]")
        elif kind == 4:
            lines.append(f"{xs}.insert({at}, {r.randint(1, 40)})")
            length += 1
        elif kind == 5:
            lines.append(f"{xs} = {xs}[::-1]")
        elif kind == 6:
            lines.append(f"{xs} = {r.choice((f'sorted({xs})', f'{xs}[1:] + {xs}[:1]', f'{xs}[-1:] + {xs}[:-1]'))}")
        else:
            lines.append(f"{xs}[{at}] += {r.choice((f'{xs}[-1]', f'len({xs})', str(r.randint(1, 9))))}")
    last = r.choice((f"print({xs})", f"print({xs}, sum({xs}))", f"print({xs}[0], {xs}[-1])", f"print(sum({xs}[::2]))"))
    return "\n".join([*lines, last])


def _pipeline(r: random.Random, d: int) -> str:
    xs, x, ys, out = _names(
        r, _NUMBERS, _ITEMS, ["kept", "chosen", "part", "ys", "squares", "small"], ["answer", "out", "res", "final"]
    )
    lines = [f"{xs} = {r.choice((_list(r, 4 + d), f'list(range({r.randint(1, 4)}, {r.randint(8, 11 + d)}))'))}"]
    lines.append(
        f"{ys} = [{r.choice((x, f'{x} * {x}', f'{x} + {r.randint(1, 9)}', f'{x} % {r.randint(3, 7)}', f'{x} * {r.randint(2, 5)} - 1'))} for {x} in {xs} if {_test(r, x)}]"
    )
    for _ in range(1 + d // 2):
        lines.append(  # noqa: PERF401
            f"{ys} = "
            + r.choice(
                (
                    f"[{x} // 2 for {x} in {ys}]",
                    f"[{x} for {x} in {ys} if {_test(r, x)}]",
                    f"sorted({ys}, reverse=True)",
                    f"{ys} + [len({ys})]",
                    f"{ys}[{r.choice((':-1', '1:', '::2', '::-1'))}]",
                    f"[{x} + {r.randint(1, 5)} for {x} in {ys}]",
                )
            )
        )
    lines.append(
        f"{out} = {r.choice((f'sum({ys})', f'len({ys})', f'sum({ys}) * len({xs})', f'len({xs}) - len({ys})', f'max({ys} + [0])'))}"
    )
    return "\n".join([*lines, r.choice((f"print({out})", f"print({ys}, {out})"))])


def _functions(r: random.Random, d: int) -> str:
    f, g = r.sample(_FUNCTIONS, 2)
    a, b, _xs, total = _names(r, ["a", "p", "x", "first"], ["b", "q", "y", "second"], _NUMBERS, _TOTALS)
    one = r.choice(
        (
            f"{a} * {r.randint(2, 4)} + {b}",
            f"{a} - {b} * {r.randint(2, 3)}",
            f"max({a}, {b}) - min({a}, {b})",
            f"{a} + {b} % {r.randint(2, 5)}",
        )
    )
    lines = [f"def {f}({a}, {b}):"]
    if r.random() < 0.6:
        lines += [
            f"    if {a} {r.choice('<>')} {b}:",
            f"        return {r.choice((a, b, f'{b} - {a}', f'{a} + {r.randint(1, 9)}'))}",
        ]
    lines += [f"    return {one}", "", f"def {g}({a}):"]
    if r.random() < 0.5:
        lines.append(f"    {b} = {a} // {r.randint(2, 3)}")
        lines.append(
            f"    return {f}({b}, {a})" if r.random() < 0.5 else f"    return {f}({a}, {b}) + {r.randint(1, 5)}"
        )
    else:
        lines.append(f"    return {f}({a}, {r.randint(2, 12)}) + {f}({r.randint(2, 12)}, {a})")
    lines += [
        "",
        f"{total} = {r.randint(0, 9)}",
        f"for {a} in {_list(r, 2 + d // 3)}:",
        f"    {total} = {r.choice((f'{total} + {g}({a})', f'{f}({total}, {g}({a}))', f'{g}({a}) - {total}'))}",
    ]
    return "\n".join([*lines, f"print({total})"])


def _pair(r: random.Random, d: int) -> str:
    a, b, n = _names(r, ["a", "x", "old", "p"], ["b", "y", "new", "q"], ["i", "turn", "k", "count"])
    new = r.choice(
        (f"{a} + {b}", f"{b} - {a}", f"2 * {b} - {a}", f"({a} * {b}) % {r.randint(7, 30)}", f"{a} + {b} // 2")
    )
    lines = [f"{a}, {b} = {r.randint(0, 9)}, {r.randint(1, 9)}"]
    if r.random() < 0.5:
        lines += [f"for {n} in range({3 + d}):", f"    {a}, {b} = {b}, {new}"]
    else:
        lines += [
            f"{n} = 0",
            f"while {b} < {r.randint(20, 60 + 20 * d)} and {n} < {4 + d}:",
            f"    {a}, {b} = {b}, {new}",
            f"    {n} += 1",
        ]
    return "\n".join([*lines, r.choice((f"print({b})", f"print({a}, {b})", f"print({a} + {b}, {n})"))])


def _collatz(r: random.Random, d: int) -> str:
    n, count = _names(r, ["n", "x", "value", "m"], ["count", "turns", "rounds", "length"])
    k, c = r.choice(((3, 1), (1, 1), (1, 3), (3, 1), (5, 1)))
    grow = f"{n} = {k} * {n} + {c}" if k > 1 else f"{n} = {n} + {c}"
    lines = [
        f"{n} = {r.randint(5, 15 + 6 * d)}",
        f"{count} = 0",
        f"while {n} {r.choice(('!= 1', '> 2', '> 4'))} and {count} < {5 + d}:",
        f"    if {n} % 2 == 0:",
        f"        {n} = {n} // 2",
        "    else:",
        f"        {grow}",
        f"    {count} += 1",
    ]
    return "\n".join([*lines, f"print({n}, {count})"])


def _walk_two(r: random.Random, d: int) -> str:
    xs, ys, x, y, total = _names(r, _NUMBERS, [*_NUMBERS], ["a", "p", "u"], ["b", "q", "w"], _TOTALS)
    n = 3 + d // 2
    lines = [f"{xs} = {_list(r, n)}", f"{ys} = {_list(r, n)}", f"{total} = {r.randint(0, 5)}"]
    if r.random() < 0.5:
        lines.append(f"for {x}, {y} in zip({xs}, {ys}):")
    else:
        lines += [f"for {x}, {y} in enumerate({ys}):", f"    {y} = {y} + {xs}[{x}]"]
    lines += [
        f"    if {x} {r.choice('<>')} {y}:",
        f"        {_change(r, total, y)}",
        "    else:",
        f"        {_change(r, total, x)}",
    ]
    return "\n".join([*lines, f"print({total})"])


def _strings(r: random.Random, d: int) -> str:
    s, t = _names(r, _TEXTS, ["t", "parts", "other", "rest"])
    lines = [f"{s} = '{' '.join(r.sample(WORDS, 2 + d // 3))}'"]
    for _ in range(2 + d):
        lines.append(  # noqa: PERF401
            r.choice(
                (
                    f"{s} = {s}[::-1]",
                    f"{s} = {s}.replace('{r.choice('aeiou')}', '{r.choice('aeiou*_')}')",
                    f"{s} = {s}[{r.randint(1, 3)}:]",
                    f"{s} = {s}.upper()",
                    f"{s} = {s}.lower()",
                    f"{s} = {s} + {s}[:{r.randint(1, 3)}]",
                    f"{s} = '{r.choice('-+.')}'.join({s}.split())",
                    f"{s} = f'{{{s}}}{r.randint(1, 9)}'",
                    f"{s} = {s}.title()",
                    f"{s} = {s}[-2:] + {s}[:-2]",
                )
            )
        )
    if r.random() < 0.5:
        lines.append(
            f"{t} = {r.choice((f'len({s})', f'{s}.count({r.choice(WORDS)[0]!r})', f'{s}.find({r.choice(WORDS)[1]!r})'))}"
        )
        return "\n".join([*lines, f"print({s}, {t})"])
    return "\n".join([*lines, f"print({s})"])


_SHAPES: tuple[Callable[[random.Random, int], str], ...] = (
    _fold,
    _digits,
    _letters,
    _counts,
    _nested,
    _recursion,
    _mutation,
    _pipeline,
    _functions,
    _pair,
    _collatz,
    _walk_two,
    _strings,
)


def _sentence(v: Voice, e: Event) -> str:
    """One event in words."""
    where = v.phrase("[Line {n}|In line {n}|At line {n}|Then line {n}]", n=e.line)
    plain = e.detail == e.value
    line = v.phrase("[Line|Then line|Now line|And line] {n}", n=e.line)
    match e.kind:
        case "assign" if plain:
            return v.say("{w}: {a} [becomes|is set to|gets|is now|=] {v}.", w=where, a=e.about, v=e.value)
        case "assign":
            return v.say(
                "{w}: [the right side is|we get|compute] {d} = {v}[, so {a} is {v}|; {a} becomes {v}|, the new {a}|, stored in {a}].",
                w=where,
                a=e.about,
                d=e.detail,
                v=e.value,
            )
        case "print":
            return v.say("{w} [prints|writes|puts out|shows]: {v}", w=line, v=e.value)
        case "change":
            return v.say(
                "{w}: {a}[, after which {d} is|; now {d} is|; {d} becomes] {v}.",
                w=where,
                a=e.about,
                d=e.detail,
                v=e.value,
            )
        case "test":
            out = {"True": "[holds|is true|is True, so we go in]", "False": "[does not hold|is false|is False]"}[
                e.value
            ]
            return v.say(
                "{w}: " + "[the condition {a}, here {d},|{d}|is {d}? The condition {a}] " + out + ".",
                w=where,
                a=e.about,
                d=e.detail,
            )
        case "loop_test":
            out = {
                "True": "[go round|the loop continues|another turn]",
                "False": "[the loop ends|we leave the loop|no further turn]",
            }[e.value]
            return v.say("{w}: {d} [is|gives] {t}, [so |]" + out + ".", w=where, d=e.detail, t=e.value)
        case "turn":
            return v.say(
                "[Next turn|{w}|The loop takes|Now the loop goes on with]: {a} = {v}.", w=where, a=e.about, v=e.value
            )
        case "loop_end":
            return v.say(
                "[Nothing is left for {a}; the loop is done|The loop over {a} is finished|No further value for {a}].",
                a=e.about,
            )
        case "call":
            return v.say("[We enter|Call|Go into|Now evaluate] {a}.", a=e.about)
        case "return" if e.about == e.value:
            return v.say("{w} [returns|gives back|hands back] {v}.", w=line, v=e.value)
        case "return":
            return v.say("{w} [returns|gives back|hands back] {a} = {v}.", w=line, a=e.about, v=e.value)
        case "break":
            return v.say("{w}: [break, so the loop stops here|break leaves the loop].", w=where)
        case _:
            return v.say("{w}: [continue, on to the next turn|continue skips the rest of this turn].", w=where)


def _topic(shape: Callable[[random.Random, int], str]) -> Topic:
    def topic(v: Voice, d: int) -> Problem:
        """A program of one shape whose account is neither empty nor too long."""
        for attempt in range(200):
            program = shape(v.rng, d if attempt < 20 else 1)
            run = Evaluator()
            try:
                answer = run.run(program)
            except (Unsupported, ValueError, IndexError, TypeError, KeyError):  # a bad draw: the next one
                continue
            if 4 <= len(run.events) <= _MOST_EVENTS and 0 < len(answer) <= 120 and answer == answer.strip():
                break
        else:
            msg = f"no program of shape {shape.__name__} in 200 draws"
            raise RuntimeError(msg)
        question = v.say(
            "[What does this program print?|What is the output of this Python program?|Predict the output:|Read the program and say what it prints.|Trace this Python code. What appears on the screen?|Without running it, find the output of:]"
        )
        steps = [_sentence(v, e) for e in run.events]
        if v.number(0, 1):
            steps.insert(
                0,
                v.say(
                    "[Follow the program line by line|Let us go through it step by step|We trace the variables|Execute it by hand][, counting lines from 1|]."
                ),
            )
        return Problem(
            f"{question}\n\n```python\n{program}\n```", steps, answer, "program_output", {"program": program}
        )

    topic.__name__ = shape.__name__.lstrip("_")
    return topic


TOPICS: tuple[Topic, ...] = tuple(_topic(shape) for shape in _SHAPES)
