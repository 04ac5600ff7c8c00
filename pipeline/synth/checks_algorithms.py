"""Checks of algorithm answers: by the definition, by trying everything, or by a reference of another design."""

from __future__ import annotations

import bisect
import heapq
import itertools
from functools import cache
from typing import Any

from pipeline.synth.checks import Check, Task, UnusableTask, arithmetic, integer


def _row(items: list[Any]) -> str:
    return ", ".join(map(str, items))


def sort_passes(task: Task, answer: str) -> bool:
    """What a pass means: a sorted front, the smallest moved to the front, the largest carried along."""
    items: list[Any] = list(task.items("items", 40))
    passes = task.integer("passes", 1, len(items) - 1)
    match task.text("way", 16):
        case "insertion":
            items = sorted(items[: passes + 1]) + items[passes + 1 :]
        case "selection":
            for k in range(passes):
                low = items.index(min(items[k:]), k)
                items[k], items[low] = items[low], items[k]
        case "bubble":
            for _ in range(passes):
                carried, out = items[0], []
                for item in items[1:]:
                    out.append(min(carried, item))
                    carried = max(carried, item)
                items = [*out, carried]
        case _:
            msg = "way"
            raise UnusableTask(msg)
    return answer == _row(items)


def inversions(task: Task, answer: str) -> bool:
    """Bubble sort makes as many exchanges as there are pairs in the wrong order."""
    items: list[Any] = list(task.items("items", 60))
    return integer(answer) == sum(bool(a > b) for a, b in itertools.combinations(items, 2))


def binary_search(task: Task, answer: str) -> bool:
    """The same halving as a recursion on what is left of the list."""
    items: list[Any] = list(task.items("items", 200))
    wanted: Any = task.data.get("wanted")
    if type(wanted) is not type(items[0]) or sorted(items) != items:
        msg = "wanted"
        raise UnusableTask(msg)

    def probes(part: list[Any], first: int) -> list[int]:
        if not part:
            return []
        middle = (len(part) - 1) // 2
        if part[middle] == wanted:
            return [first + middle]
        if part[middle] < wanted:
            return [first + middle, *probes(part[middle + 1 :], first + middle + 1)]
        return [first + middle, *probes(part[:middle], first)]

    return answer == _row(probes(items, 0))


def best_window(task: Task, answer: str) -> bool:
    """Add up every window anew."""
    values, width = task.integers("values", -(10**6), 10**6, 200), task.integer("width", 1, 50)
    sums = [sum(values[k : k + width]) for k in range(len(values) - width + 1)]
    return bool(sums) and integer(answer) == max(sums)


def run_lengths(task: Task, answer: str) -> bool:
    """Group equal neighbours."""
    return answer == "".join(f"{c}{len(list(run))}" for c, run in itertools.groupby(task.text("text", 400)))


def caesar(task: Task, answer: str) -> bool:
    """Translate with a rotated alphabet."""
    plain, shift = "abcdefghijklmnopqrstuvwxyz", task.integer("shift", -25, 25) % 26
    return answer == task.text("text", 400).translate(str.maketrans(plain, plain[shift:] + plain[:shift]))


def brackets(task: Task, answer: str) -> bool:
    """Strike out matching neighbours until none is left; the first prefix that keeps a closing one is at fault."""
    text = task.text("text", 200)
    if not set(text) <= set("()[]{}"):
        msg = "text"
        raise UnusableTask(msg)
    for k in range(1, len(text) + 1):
        rest = text[:k]
        while any(pair in rest for pair in ("()", "[]", "{}")):
            rest = rest.replace("()", "").replace("[]", "").replace("{}", "")
        if set(rest) & set(")]}"):
            return answer == str(k)
    return answer == ("unclosed" if rest else "balanced")


def edit_distance(task: Task, answer: str) -> bool:
    """A recursion over suffixes."""
    first, second = task.text("first", 30), task.text("second", 30)

    @cache
    def cost(i: int, j: int) -> int:
        if i == len(first) or j == len(second):
            return len(first) - i + len(second) - j
        if first[i] == second[j]:
            return cost(i + 1, j + 1)
        return 1 + min(cost(i + 1, j), cost(i, j + 1), cost(i + 1, j + 1))

    return integer(answer) == cost(0, 0)


def string_steps(task: Task, answer: str) -> bool:
    """Each operation by slices and string methods."""
    text, operations = task.text("text", 100), task.data.get("operations")
    if not isinstance(operations, list) or len(operations) > 32:
        msg = "operations"
        raise UnusableTask(msg)
    for operation in operations:
        match operation:
            case ["reverse"]:
                text = text[::-1]
            case ["rotate", int(k)] if text:
                text = text[k % len(text) :] + text[: k % len(text)]
            case ["drop_vowels"]:
                text = text.translate(dict.fromkeys(map(ord, "aeiou")))
            case ["double", str(c)] if len(c) == 1 and len(text) < 10_000:
                text = text.replace(c, c + c)
            case ["every_other"]:
                text = text[::2]
            case ["swap_ends"] if len(text) > 1:
                text = f"{text[-1]}{text[1:-1]}{text[0]}"
            case ["append", str(word)] if len(word) < 64:
                text = f"{text}{word}"
            case _:
                msg = "operations"
                raise UnusableTask(msg)
    return answer == text


def _pairs(task: Task, name: str, length: int) -> list[list[Any]]:
    pairs = task.data.get(name)
    if not isinstance(pairs, list) or len(pairs) > 200:
        raise UnusableTask(name)
    for pair in pairs:
        if not isinstance(pair, list) or len(pair) != length or not all(isinstance(x, str) for x in pair[:2]):
            raise UnusableTask(name)
    return pairs


def shortest_path(task: Task, answer: str) -> bool:
    """Relax all roads as often as there are towns (Bellman and Ford)."""
    roads = _pairs(task, "roads", 3)
    if not all(isinstance(w, int) and 0 <= w < 10**9 for _, _, w in roads):
        msg = "roads"
        raise UnusableTask(msg)
    best = {task.text("start", 64): 0}
    towns = {t for road in roads for t in road[:2]}
    for _ in towns:
        for a, b, w in roads:
            for here, there in ((a, b), (b, a)):
                if here in best:
                    best[there] = min(best.get(there, best[here] + w), best[here] + w)
    return best.get(task.text("goal", 64)) == integer(answer)


def components(task: Task, answer: str) -> bool:
    """Flood from each person who has not been reached."""
    people, pairs = set(task.texts("people")), _pairs(task, "pairs", 2)
    count = 0
    while people:
        count += 1
        reached = {min(people)}
        while more := {b for pair in pairs for a, b in (pair, pair[::-1]) if a in reached} - reached:
            reached |= more
        people -= reached
    return integer(answer) == count


def task_order(task: Task, answer: str) -> bool:
    """A permutation that keeps every rule, and no earlier name could have gone first at any moment."""
    order, rules = answer.split(", "), _pairs(task, "rules", 2)
    if sorted(order) != sorted(task.texts("tasks")):
        return False
    at = {name: k for k, name in enumerate(order)}
    if any(at[a] >= at[b] for a, b in rules):
        return False
    for k, chosen in enumerate(order):
        for other in order[k + 1 :]:
            if other < chosen and not any(b == other and at[a] >= k for a, b in rules):
                return False
    return True


def coins(task: Task, answer: str) -> bool:
    """Which sums can be made with 1 coin, 2 coins, ..."""
    kinds, amount = task.integers("kinds", 1, 1000, 8), task.integer("amount", 1, 1000)
    sums, count = {0}, 0
    while amount not in sums:
        larger = {s + k for s in sums for k in kinds if s + k <= amount}
        if larger <= sums:
            return False
        sums, count = sums | larger, count + 1
    return integer(answer) == count


def knapsack(task: Task, answer: str) -> bool:
    """Try every choice."""
    weights, values = task.integers("weights", 0, 10**6, 12), task.integers("values", 0, 10**6, 12)
    limit, best = task.integer("limit", 0, 10**8), 0
    for choice in itertools.product((0, 1), repeat=len(weights)):
        if sum(c * w for c, w in zip(choice, weights, strict=True)) <= limit:
            best = max(best, sum(c * x for c, x in zip(choice, values, strict=True)))
    return integer(answer) == best


def rising(task: Task, answer: str) -> bool:
    """Patience sorting: the number of piles."""
    piles: list[int] = []
    for value in task.integers("values", -(10**9), 10**9, 1000):
        at = bisect.bisect_left(piles, value)
        piles[at : at + 1] = [value]
    return integer(answer) == len(piles)


def search_tree(task: Task, answer: str) -> bool:
    """The first key splits the others into a left and a right list; no tree is built."""
    keys: list[Any] = list(task.items("keys", 60))
    way = task.text("way", 16)
    if way not in ("preorder", "postorder", "level order") or len(set(keys)) != len(keys):
        msg = "way"
        raise UnusableTask(msg)

    def parts(some: list[Any]) -> tuple[list[Any], list[Any]]:
        return [k for k in some if k < some[0]], [k for k in some if k > some[0]]

    def walk(some: list[Any]) -> list[Any]:
        if not some:
            return []
        low, high = parts(some)
        return [some[0], *walk(low), *walk(high)] if way == "preorder" else [*walk(low), *walk(high), some[0]]

    if way != "level order":
        return answer == _row(walk(keys))
    visited, level = [], [keys]
    while level:
        visited += [some[0] for some in level]
        level = [part for some in level for part in parts(some) if part]
    return answer == _row(visited)


def heap(task: Task, answer: str) -> bool:
    """The standard library's heap."""
    array: list[int] = []
    for value in task.integers("values", -(10**9), 10**9, 1000):
        heapq.heappush(array, value)
    return answer == _row(array)


def postfix(task: Task, answer: str) -> bool:
    """Rewrite with brackets and evaluate the syntax tree of that."""
    stack: list[str] = []
    for token in task.texts("tokens"):
        if token in ("+", "-", "*"):
            if len(stack) < 2:
                msg = "tokens"
                raise UnusableTask(msg)
            right = stack.pop()
            stack.append(f"({stack.pop()}{token}{right})")
        else:
            stack.append(str(integer(token)))
    return len(stack) == 1 and integer(answer) == arithmetic(stack[0])


def josephus(task: Task, answer: str) -> bool:
    """The recurrence for the survivor's place."""
    people, skip, place = task.texts("people"), task.integer("skip", 1, 1000), 0
    for size in range(2, len(people) + 1):
        place = (place + skip) % size
    return answer == people[place]


def schedule(task: Task, answer: str) -> bool:
    """The best that can have ended by each hour."""
    talks = task.rows("talks", 0, 1000, 200)
    if any(len(talk) != 2 or talk[0] >= talk[1] for talk in talks):
        msg = "talks"
        raise UnusableTask(msg)
    best = [0] * 1001
    for hour in range(1, 1001):
        best[hour] = max([best[hour - 1], *(best[a] + 1 for a, b in talks if b == hour)])
    return integer(answer) == best[1000]


CHECKS: dict[str, Check] = {
    check.__name__: check
    for check in (
        sort_passes,
        inversions,
        binary_search,
        best_window,
        run_lengths,
        caesar,
        brackets,
        edit_distance,
        string_steps,
        shortest_path,
        components,
        task_order,
        coins,
        knapsack,
        rising,
        search_tree,
        heap,
        postfix,
        josephus,
        schedule,
    )
}
