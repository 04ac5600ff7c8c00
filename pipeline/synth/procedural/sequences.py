"""Algorithms on lists and strings: sorting, searching, windows, run lengths, ciphers, brackets, editing."""

from __future__ import annotations

from typing import Any

from pipeline.synth.procedural.wording import NAMES, THINGS, WORDS, Problem, Topic, Voice


def _items(v: Voice, count: int) -> list[str] | list[int]:
    return v.some(WORDS, count) if v.number(0, 1) else v.rng.sample(range(2, 99), count)


def _row(items: list[str] | list[int] | list[Any]) -> str:
    return ", ".join(map(str, items))


def sort_passes(v: Voice, d: int) -> Problem:
    """The state of a list after some passes of insertion, selection or bubble sort."""
    items: list[Any] = list(_items(v, 5 + d))
    way = v.rng.choice(("insertion", "selection", "bubble"))
    passes = v.number(2, 2 + d)
    order = "alphabetical" if isinstance(items[0], str) else "ascending"
    question = v.say(
        "[{w} sort puts this list into {o} order: {l}. What does the list look like after {p} passes|The list {l} is sorted ({o}) by {w} sort. How does it stand after pass {p}|{who} sorts {l} by {w} sort, in {o} order, and stops after {p} passes. What is the list then]?",
        w=way,
        o=order,
        l=_row(items),
        p=passes,
        who=v.rng.choice(NAMES),
    )
    rule = {
        "insertion": "[In pass k|In each pass of insertion sort], the item in [position k + 1|the next position] moves left past all larger ones.",
        "selection": "[In pass k of selection sort|In each pass], the smallest item of the unsorted rest is exchanged with the first item of that rest.",
        "bubble": "[A pass of bubble sort|Each pass] walks from left to right and exchanges neighbours that stand in the wrong order.",
    }[way]
    steps, work = [v.say(rule)], list(items)
    for k in range(passes):
        if way == "insertion":
            item, at = work[k + 1], k + 1
            while at and work[at - 1] > item:
                work[at] = work[at - 1]
                at -= 1
            work[at] = item
            move = v.phrase(
                "{i} [stays where it is|is already in place|need not move]"
                if at == k + 1
                else "{i} [moves to the left of|slides in before|goes in front of] {x}",
                i=item,
                x=work[min(at + 1, len(work) - 1)],
            )
        elif way == "selection":
            low = k
            for at in range(k + 1, len(work)):
                if work[at] < work[low]:
                    low = at
            move = v.phrase(
                "{i} [is the smallest of the rest and stays|already stands in front of the rest]"
                if low == k
                else "{i} [is the smallest left and changes places with {x}|is smallest; exchange it with {x}|trades places with {x}]",
                i=work[low],
                x=work[k],
            )
            work[k], work[low] = work[low], work[k]
        else:
            swaps = []
            for at in range(len(work) - 1):
                if work[at] > work[at + 1]:
                    swaps.append(f"{work[at]}/{work[at + 1]}")
                    work[at], work[at + 1] = work[at + 1], work[at]
            move = v.phrase(
                "[the exchanges are|we exchange|these neighbours swap:] {s}"
                if swaps
                else "[nothing has to be exchanged|no neighbours are out of order]",
                s=", ".join(swaps),
            )
        steps.append(
            v.say(
                "[Pass {k}|In pass {k}|Number {k}]: {m}[. Now the list is|, which gives|; we have] {l}.",
                k=k + 1,
                m=move,
                l=_row(work),
            )
        )
    return Problem(question, steps, _row(work), "sort_passes", {"items": items, "way": way, "passes": passes})


def inversions(v: Voice, d: int) -> Problem:
    """How many exchanges bubble sort makes, counted while it runs."""
    items: list[Any] = list(_items(v, 4 + (d + 1) // 2))
    question = v.say(
        "[How many exchanges does bubble sort make on the list {l}|Bubble sort is run on {l} until nothing changes. How many times does it exchange neighbours|{who} sorts {l} only by exchanging neighbours, as bubble sort does. How many exchanges does that take]?",
        l=_row(items),
        who=v.rng.choice(NAMES),
    )
    work, count, steps = (
        list(items),
        0,
        [
            v.say(
                "[Go through the list again and again|We walk along the list repeatedly], exchange [two neighbours whenever the first is larger|neighbours in the wrong order], and count."
            )
        ],
    )
    changed = True
    while changed:
        changed = False
        for at in range(len(work) - 1):
            if work[at] > work[at + 1]:
                work[at], work[at + 1] = work[at + 1], work[at]
                count += 1
                changed = True
                steps.append(
                    v.say(
                        "[Exchange|Swap|Out of order:] {a} and {b}[. Exchange number {n}| ({n} so far)|, number {n}]: {l}.",
                        a=work[at + 1],
                        b=work[at],
                        n=count,
                        l=_row(work),
                    )
                )
    steps.append(
        v.say(
            "[Another walk finds nothing to do|Now every neighbour is in order|The list is sorted], so the count is {n}.",
            n=count,
        )
    )
    return Problem(question, steps, str(count), "inversions", {"items": items})


def binary_search(v: Voice, d: int) -> Problem:
    """Which positions a binary search looks at."""
    items: list[Any] = sorted(_items(v, 9 + 4 * d), key=lambda item: item)
    present = v.number(0, 3) > 0
    wanted: object = v.rng.choice(items)
    if not present:
        items.remove(wanted)
    question = v.say(
        "[Binary search looks for {x} in the sorted list {l}|The list {l} is in order, and {who} searches it for {x} by halving]. [Positions are counted from 0, and of two middle positions the left one is taken|Count positions from 0; the middle of low and high is (low + high) // 2]. Which positions [are looked at|does it look at], in order?",
        x=wanted,
        l=_row(items),
        who=v.rng.choice(NAMES),
    )
    low, high, seen = 0, len(items) - 1, []
    steps = [v.say("[At first the whole list is open|Start with the whole list]: low = 0, high = {h}.", h=high)]
    while low <= high:
        middle = (low + high) // 2
        seen.append(middle)
        line = v.say(
            "[The middle of {a} and {b} is|Look at position|From {a} to {b}: position] {m}[, which holds| with|:] {i}",
            a=low,
            b=high,
            m=middle,
            i=items[middle],
        )
        if items[middle] == wanted:
            steps.append(line + v.phrase("[, and that is it|, found|, the item we want]."))
            break
        if items[middle] < wanted:
            low = middle + 1
            steps.append(
                line
                + v.phrase(
                    "[, which comes before {x}|, too small]; [go on to the right|keep the right part|continue after it]: low = {l}.",
                    x=wanted,
                    l=low,
                )
            )
        else:
            high = middle - 1
            steps.append(
                line
                + v.phrase(
                    "[, which comes after {x}|, too large]; [go on to the left|keep the left part|continue before it]: high = {h}.",
                    x=wanted,
                    h=high,
                )
            )
    if not present:
        steps.append(v.say("[Now low is above high|Nothing is left to look at]: {x} is not in the list.", x=wanted))
    return Problem(question, steps, _row(seen), "binary_search", {"items": items, "wanted": wanted})


def best_window(v: Voice, d: int) -> Problem:
    """The largest sum of k neighbours, by sliding a window."""
    values, width = [v.number(-9, 30) for _ in range(7 + d)], v.number(2, 4)
    thing = v.rng.choice(THINGS)
    question = v.say(
        "[A stall sells these numbers of {t} on successive days (negative means returned)|The changes in a stock of {t} are recorded day by day|Given is a list of numbers]: {l}. [What is the largest sum of {w} neighbouring entries|Find the largest total over {w} days in a row|Which total is the largest among all runs of {w} successive entries]?",
        t=thing,
        l=_row(values),
        w=width,
    )
    total = best = sum(values[:width])
    steps = [
        v.say("[The first {w} add up to|Begin with the first {w}:|The opening window is worth] {t}.", w=width, t=total)
    ]
    for at in range(width, len(values)):
        new, old = values[at], values[at - width]
        total += new - old
        line = v.say(
            "[Slide on|Next window|One to the right|Move along]: [add {n}, drop {o}|{n} comes in and {o} goes out]: {t}",
            n=new,
            o=old,
            t=total,
        )
        if total > best:
            best = total
            line += v.phrase("[, the best so far|, a new maximum|, which beats what we had]")
        steps.append(line + ".")
    steps.append(v.say("[The window has reached the end|No window is left]; the largest sum is {b}.", b=best))
    return Problem(question, steps, str(best), "best_window", {"values": values, "width": width})


def run_lengths(v: Voice, d: int) -> Problem:
    """Run-length encoding of a string."""
    letters = v.some("abcdefghkmnprstuvxyz", 3)
    text = "".join(v.rng.choice(letters) * v.rng.choice((1, 1, 2, 3, 4, 5)) for _ in range(4 + d))
    question = v.say(
        "[Run-length encode the string {t}.|Write {t} in run-length form.|What is the run-length code of {t}?|{who} compresses {t} by run lengths. What comes out?] [Each run becomes its letter followed by its length|Write every run as letter and length, also for length 1].",
        t=text,
        who=v.rng.choice(NAMES),
    )
    steps, code, at = (
        [v.say("[Read from the left and note each run of equal letters|A run ends where the letter changes].")],
        "",
        0,
    )
    while at < len(text):
        end = at
        while end < len(text) and text[end] == text[at]:
            end += 1
        code += f"{text[at]}{end - at}"
        steps.append(
            v.say(
                "[At position {p} begins|From position {p} on there is|Then comes|Next comes] [a run of {n} times {c}|a stretch of {n} {c}|{c}, {n} times][, written {c}{n}|, that is {c}{n}][; so far {code}|; the code grows to {code}|].",
                p=at + 1,
                n=end - at,
                c=text[at],
                code=code,
            )
        )
        at = end
    return Problem(question, steps, code, "run_lengths", {"text": text})


def caesar(v: Voice, d: int) -> Problem:
    """Shifting letters, forwards or back."""
    words, shift, back = " ".join(v.some(WORDS, 1 + d // 2)), v.number(2, 23), v.number(0, 1) == 1
    code = "".join(c if c == " " else chr((ord(c) - 97 + shift) % 26 + 97) for c in words)
    shown, answer = (code, words) if back else (words, code)
    question = v.say(
        '[{who} receives|A note reads|Here is a secret line:] "{t}"[.|; each letter was moved {k} places on in the alphabet, with a following z.] [It was made by moving each letter {k} places forward (after z comes a)|The shift was {k}]. [What did it say|Decode it: what is the plain text]?'
        if back
        else '[{who} writes "{t}" in secret|"{t}" is to be enciphered] by moving each letter {k} places forward in the alphabet[, and after z comes a again|, going round from z to a]. [What is written|What is the cipher text|What does the secret line look like]?',
        who=v.rng.choice(NAMES),
        t=shown,
        k=shift,
    )
    steps = [
        v.say(
            "[We go {way} {k} places for each letter|Every letter moves {k} places {way}][; a is 0 and z is 25|, counting a as 0].",
            way="back" if back else "forward",
            k=shift,
        )
    ]
    for a, b in zip(shown, answer, strict=True):
        if a == " ":
            steps.append(v.say("[The space stays|A space is kept|Here a new word begins]."))
            continue
        n = ord(a) - 97
        m = n - shift if back else n + shift
        turn = v.phrase("[, which is|, that is|, going round:] {r}", r=m % 26) if not 0 <= m < 26 else ""
        steps.append(
            v.say(
                "[The letter|Letter|Next,] {a} [is number {n}|({n})|has number {n}]; {n} {s} {k} = {m}{turn}[, the letter|, so we write|:] {b}.",
                a=a,
                n=n,
                s="-" if back else "+",
                k=shift,
                m=m,
                turn=turn,
                b=b,
            )
        )
    return Problem(question, steps, answer, "caesar", {"text": shown, "shift": -shift if back else shift})


def brackets(v: Voice, d: int) -> Problem:
    """Whether brackets match, with a stack; else the position of the first one that is wrong."""
    pairs = {"(": ")", "[": "]", "{": "}"}
    text = ""
    stack: list[str] = []
    for _ in range(8 + 2 * d):
        if stack and v.number(0, 99) < 48:
            text += stack.pop()
        else:
            opening = v.rng.choice("([{")
            text += opening
            stack.append(pairs[opening])
    text += "".join(reversed(stack))
    if v.number(0, 2) == 0:
        at = v.number(1, len(text) - 1)
        text = text[:at] + v.rng.choice(")]}([{") + text[at + 1 :]
    question = v.say(
        '[Are the brackets in|Do all brackets match in|{who} checks the brackets of|A parser reads] {t}[?|. Do they match?] [Answer "balanced"|If all match, answer "balanced"], or [else the position (from 1) of the first bracket that closes nothing or closes the wrong one|otherwise the position, counted from 1, of the first closing bracket that does not fit]; [if only closing ones are missing at the end, answer|when some are never closed, answer] "unclosed".',
        who=v.rng.choice(NAMES),
        t="{t}",
    ).replace("{t}", text)
    steps, waiting, answer = (
        [v.say("[Keep a stack of the brackets that are still open|Read from the left and remember what is open].")],
        "",
        "",
    )
    for k, c in enumerate(text, 1):
        if c in pairs:
            waiting += c
            steps.append(
                v.say(
                    "[Position {k}|At {k}|Number {k}]: {c} opens[; the stack is|, and open are|:] {w}[.|, the last one on top.]",
                    k=k,
                    c=c,
                    w=waiting,
                )
            )
        elif waiting and pairs[waiting[-1]] == c:
            waiting = waiting[:-1]
            steps.append(
                v.say(
                    "[Position {k}|At {k}|Number {k}]: {c} closes [the last one|the top of the stack|what was opened last][; left:|, leaving|, and there remain] {w}.",
                    k=k,
                    c=c,
                    w=waiting or v.phrase("[nothing|an empty stack|none]"),
                )
            )
        else:
            answer = str(k)
            steps.append(
                v.say(
                    "[Position {k}|At {k}]: {c} [does not fit|is wrong], since {why}.",
                    k=k,
                    c=c,
                    why=v.phrase("the last open one is {o}", o=waiting[-1]) if waiting else "nothing is open",
                )
            )
            break
    if not answer:
        answer = "unclosed" if waiting else "balanced"
        steps.append(
            v.say(
                "[At the end|After the last one] {what}.",
                what=f"{waiting} still waits to be closed" if waiting else "the stack is empty, so everything matches",
            )
        )
    return Problem(question, steps, answer, "brackets", {"text": text})


def edit_distance(v: Voice, d: int) -> Problem:
    """Edit distance of two words by the table, row by row."""
    first, second = v.some([w for w in WORDS if len(w) <= 4 + d // 3 + 1], 2)
    if v.number(0, 1):  # a mangled copy of the first, for smaller distances
        second = first
        for _ in range(1 + d // 2):
            at = v.number(0, len(second) - 1) if second else 0
            second = second[:at] + v.rng.choice(("e", "ra", "")) + second[at + 1 :]
        second = second or "a"
    question = v.say(
        '[How many single-letter insertions, deletions and replacements turn "{a}" into "{b}", at least|What is the edit distance (Levenshtein distance) between "{a}" and "{b}"|{who} types "{a}" but means "{b}". What is the smallest number of letters to insert, delete or replace]?',
        a=first,
        b=second,
        who=v.rng.choice(NAMES),
    )
    steps = [
        v.say(
            '[Fill a table: the entry for two prefixes is the distance between them|We compare all prefixes; each row belongs to a prefix of "{a}"]. [An entry is the smallest of: left + 1, above + 1, and the diagonal (+ 1 if the letters differ)|It comes from its neighbours: left and above cost 1 more, the diagonal only if the letters differ].',
            a=first,
        )
    ]
    above = list(range(len(second) + 1))
    steps.append(
        v.say("[The empty prefix gives|Row 0, for the empty word:|Begin with] {r}.", r=" ".join(map(str, above)))
    )
    for k, c in enumerate(first, 1):
        row = [k]
        for j, e in enumerate(second, 1):
            row.append(min(row[j - 1] + 1, above[j] + 1, above[j - 1] + (c != e)))
        equal = [str(j) for j, e in enumerate(second, 1) if e == c]
        note = (
            v.phrase(
                "[the letter {c} matches at|{c} is equal in column|equal letters in column] {w}",
                c=c,
                w=" and ".join(equal),
            )
            if equal
            else v.phrase("[{c} occurs nowhere in the other word|no letter equals {c}]", c=c)
        )
        steps.append(
            v.say(
                '[Row for|Up to|Prefix] "{p}": {n}[; the row is|, which gives|:] {r}.',
                p=first[:k],
                n=note,
                r=" ".join(map(str, row)),
            )
        )
        above = row
    steps.append(
        v.say(
            "[The last entry of the last row is the distance|The corner of the table holds the answer]: {a}.",
            a=above[-1],
        )
    )
    return Problem(question, steps, str(above[-1]), "edit_distance", {"first": first, "second": second})


def string_steps(v: Voice, d: int) -> Problem:
    """A word put through several operations, character by character."""
    text = v.rng.choice(WORDS) + v.rng.choice(WORDS)
    start = text
    operations: list[list[Any]] = []
    told, steps = [], [v.say("[We start with|The string at first:|Begin with] {t}.", t=text)]
    for _ in range(2 + d):
        kind = v.rng.choice(("reverse", "rotate", "drop_vowels", "double", "every_other", "swap_ends", "append"))
        if len(text) < 5:
            kind = "append"
        if kind == "reverse":
            operations.append(["reverse"])
            told.append(v.phrase("[reverse it|turn it around|write it backwards]"))
            new = ""
            for c in text:
                new = c + new
        elif kind == "rotate":
            k = v.number(1, 4)
            operations.append(["rotate", k])
            told.append(v.phrase("[move its first {k} letters to the end|rotate it left by {k}]", k=k))
            new = text
            for _ in range(k):
                new = new[1:] + new[0]
        elif kind == "drop_vowels" and sum(c in "aeiou" for c in text) in range(1, len(text) - 2):
            operations.append(["drop_vowels"])
            told.append(v.phrase("[remove all vowels (a, e, i, o, u)|strike out every a, e, i, o and u]"))
            new = ""
            for c in text:
                new += "" if c in "aeiou" else c
        elif kind == "double" and len(text) < 18:
            letter = v.rng.choice(sorted(set(text)))
            operations.append(["double", letter])
            told.append(v.phrase("[double each {c}|write every {c} twice]", c=letter))
            new = ""
            for c in text:
                new += c * 2 if c == letter else c
        elif kind == "every_other" and len(text) > 8:
            operations.append(["every_other"])
            told.append(
                v.phrase(
                    "[keep only every second letter, beginning with the first|keep the letters in odd places (1st, 3rd, ...)]"
                )
            )
            new, keep = "", True
            for c in text:
                new += c if keep else ""
                keep = not keep
        elif kind == "swap_ends":
            operations.append(["swap_ends"])
            told.append(v.phrase("[exchange its first and last letter|swap the letters at both ends]"))
            new = text[-1] + text[1:-1] + text[0]
        else:
            word = v.rng.choice(WORDS)[:3]
            operations.append(["append", word])
            told.append(v.phrase('[append "{w}"|put "{w}" at its end|write "{w}" behind it]', w=word))
            new = text + word
        steps.append(
            v.say(
                "[Now|Then|Next|We] {t}[:| and get|, which makes] {a} [becomes|turns into|->] {b}[|, {n} letters|, of length {n}].",
                t=told[-1],
                a=text,
                b=new,
                n=len(new),
            )
            .replace(" and get " + text + " ", ": " + text + " ")
            .replace(", which makes " + text + " ", ": " + text + " ")
        )
        text = new
    question = v.say(
        "[Take the string|Start with|{who} writes down] {s}. [In this order|One after the other|Step by step]: {told}. [What is the result|Which string comes out|What is left in the end]?",
        who=v.rng.choice(NAMES),
        s=start,
        told="; ".join(told),
    )
    return Problem(question, steps, text, "string_steps", {"text": start, "operations": operations})


TOPICS: tuple[Topic, ...] = (
    sort_passes,
    inversions,
    binary_search,
    best_window,
    run_lengths,
    caesar,
    brackets,
    edit_distance,
    string_steps,
)
