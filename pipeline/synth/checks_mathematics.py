"""Checks of mathematical answers: by substitution, by counting everything, by undoing. Never the generator's way."""

from __future__ import annotations

import datetime
import itertools
import json
import math
import statistics
from fractions import Fraction

from pipeline.synth.checks import Check, Task, UnusableTask, arithmetic, fraction, integer


def expression(task: Task, answer: str) -> bool:
    """Parse the expression and evaluate its syntax tree."""
    return arithmetic(task.text("expression", 400)) == integer(answer)


def fraction_sum(task: Task, answer: str) -> bool:
    """Exact fractions, and the answer must be reduced."""
    terms = task.rows("terms", -1000, 1000, 16)
    if any(len(t) != 2 or t[1] == 0 for t in terms):
        msg = "terms"
        raise UnusableTask(msg)
    total = sum((Fraction(a, b) for a, b in terms), Fraction(0))
    return str(total) == answer


def percent_chain(task: Task, answer: str) -> bool:
    """Go the other way: from the answer back to what was given."""
    price, given = fraction(answer), fraction(task.text("given", 60))
    for change in task.integers("changes", -99, 1000, 16):
        factor = 1 + Fraction(change, 100)
        if task.flag("backwards"):
            price *= factor
        else:
            given *= factor
    return price == given


def story(task: Task, answer: str) -> bool:
    """Undo the events from last to first; what is left must be the start."""
    have = Fraction(integer(answer))
    events = task.data.get("events")
    if not isinstance(events, list) or not 0 < len(events) <= 32:
        msg = "events"
        raise UnusableTask(msg)
    for event in reversed(events):
        match event:
            case ["add", int(n)]:
                have -= n
            case ["scale", int(up), int(down)] if up and down:
                have = have * down / up
            case _:
                msg = "events"
                raise UnusableTask(msg)
    return have == task.integer("start", 0, 10**9)


def work_rate(task: Task, answer: str) -> bool:
    """In that time the shares of all workers make one whole job."""
    time = fraction(answer)
    return sum((time / h for h in task.integers("hours", 1, 10**6, 16)), Fraction(0)) == 1


def average_speed(task: Task, answer: str) -> bool:
    """At that constant speed the same hours cover the same way."""
    speed, legs = fraction(answer), task.rows("legs", 1, 10**6, 16)
    if any(len(leg) != 2 for leg in legs):
        msg = "legs"
        raise UnusableTask(msg)
    return sum((speed - s) * h for s, h in legs) == 0


def statistic(task: Task, answer: str) -> bool:
    """By the definitions, with the statistics module for the median."""
    values, found = [Fraction(x) for x in task.integers("values", -(10**9), 10**9)], fraction(answer)
    match task.text("what", 16):
        case "mean":
            return sum(x - found for x in values) == 0
        case "median":
            return statistics.median(values) == found
        case "range":
            gaps = [abs(a - b) for a, b in itertools.product(values, values)]
            return found in gaps and all(gap <= found for gap in gaps)
    msg = "what"
    raise UnusableTask(msg)


def weekday(task: Task, answer: str) -> bool:
    """By the proleptic calendar's day number: day 1 was a Monday."""
    try:
        day = datetime.date.fromisoformat(task.text("date", 10)).toordinal() % 7
    except ValueError as problem:
        msg = "date"
        raise UnusableTask(msg) from problem
    return answer == ("Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday")[day]


def linear_equation(task: Task, answer: str) -> bool:
    """Put the answer into both sides; and the sides must not be the same line."""
    name, left, right = task.text("unknown", 2), task.text("left", 100), task.text("right", 100)

    def gap(x: Fraction) -> Fraction:
        return arithmetic(left, {name: x}) - arithmetic(right, {name: x})

    return gap(fraction(answer)) == 0 and gap(fraction(answer) + 1) != 0


def linear_system(task: Task, answer: str) -> bool:
    """Put the answers into each equation; the determinant, by permutations, must not vanish."""
    rows = task.rows("rows", -(10**6), 10**6, 4)
    totals = task.integers("totals", -(10**9), 10**9, 4)
    size = len(rows)
    if len(totals) != size or any(len(row) != size for row in rows):
        msg = "rows"
        raise UnusableTask(msg)
    found = [fraction(part) for part in answer.split(", ")]
    determinant = 0
    for order in itertools.permutations(range(size)):
        turns = sum(a > b for a, b in itertools.combinations(order, 2))
        determinant += (-1) ** turns * math.prod(row[k] for row, k in zip(rows, order, strict=True))
    holds = all(sum(c * x for c, x in zip(row, found, strict=True)) == t for row, t in zip(rows, totals, strict=True))
    return holds and determinant != 0


def quadratic(task: Task, answer: str) -> bool:
    """Both numbers are roots, in order, and different."""
    a, b, c = (task.integer(name, -(10**6), 10**6) for name in "abc")
    low, high = (fraction(part) for part in answer.split(", "))
    return a != 0 and low < high and all(a * x * x + b * x + c == 0 for x in (low, high))


def gcd(task: Task, answer: str) -> bool:
    """Try every number from the smaller one down."""
    a, b = task.integer("a", 1, 10**5), task.integer("b", 1, 10**5)
    return integer(answer) == next(k for k in range(min(a, b), 0, -1) if a % k == 0 and b % k == 0)


def lcm(task: Task, answer: str) -> bool:
    """Walk the multiples of the larger number."""
    a, b = task.integer("a", 1, 10**5), task.integer("b", 1, 10**5)
    big, small = max(a, b), min(a, b)
    return integer(answer) == next(k for k in range(big, a * b + 1, big) if k % small == 0)


def power_remainder(task: Task, answer: str) -> bool:
    """Multiply one factor at a time."""
    base, modulus = task.integer("base", 0, 10**6), task.integer("modulus", 2, 10**6)
    value = 1
    for _ in range(task.integer("exponent", 1, 10**5)):
        value = value * base % modulus
    return integer(answer) == value


def congruence(task: Task, answer: str) -> bool:
    """Try every residue."""
    a, b, m = task.integer("a", 0, 10**6), task.integer("b", 0, 10**6), task.integer("modulus", 2, 10**5)
    return [x for x in range(m) if (a * x - b) % m == 0][:1] == [integer(answer)]


def _is_prime(n: int) -> bool:
    return n > 1 and all(n % k for k in range(2, math.isqrt(n) + 1))


def prime_factors(task: Task, answer: str) -> bool:
    """The factors are primes, ascending, and multiply to the number."""
    number, factors = task.integer("number", 2, 10**8), [integer(part) for part in answer.split(" × ")]
    return factors == sorted(factors) and math.prod(factors) == number and all(map(_is_prime, factors))


def divisor_count(task: Task, answer: str) -> bool:
    """Find the divisors in pairs."""
    number = task.integer("number", 1, 10**8)
    small = [k for k in range(1, math.isqrt(number) + 1) if number % k == 0]
    return integer(answer) == len({d for k in small for d in (k, number // k)})


def base_change(task: Task, answer: str) -> bool:
    """Both spellings are the same number to Python's own reader."""
    digits, source, target = task.text("digits", 40), task.integer("source", 2, 36), task.integer("target", 2, 36)
    plain = answer.isalnum() and answer.isascii() and answer == answer.upper() and not answer.startswith("0")
    return plain and len(answer) < 200 and int(digits, source) == int(answer, target)


def sequence_sum(task: Task, answer: str) -> bool:
    """Add the terms one by one."""
    term, total = task.integer("first", -(10**6), 10**6), 0
    add, times = task.integer("add", -(10**6), 10**6), task.integer("times", -100, 100)
    for _ in range(task.integer("count", 1, 200)):
        total += term
        term = term * times + add
    return integer(answer) == total


def arrangements(task: Task, answer: str) -> bool:
    """Write them all down."""
    return integer(answer) == len(set(itertools.permutations(task.text("word", 8))))


def committee(task: Task, answer: str) -> bool:
    """Go through all groups."""
    first, second = task.integer("first", 1, 9), task.integer("second", 1, 9)
    least = task.integer("least", 0, 9)
    groups = itertools.combinations(range(first + second), task.integer("size", 1, 9))
    return integer(answer) == sum(sum(p < first for p in group) >= least for group in groups)


def grid_paths(task: Task, answer: str) -> bool:
    """Add up the ways into each crossing."""
    width, height = task.integer("width", 1, 60), task.integer("height", 1, 60)
    closed = (task.integer("x", 0, 60), task.integer("y", 0, 60))
    ways = {(0, 0): 1}
    for x in range(width + 1):
        for y in range(height + 1):
            if (x, y) != (0, 0):
                ways[x, y] = 0 if (x, y) == closed else ways.get((x - 1, y), 0) + ways.get((x, y - 1), 0)
    return integer(answer) == ways[width, height]


def divisible(task: Task, answer: str) -> bool:
    """Look at every number."""
    divisors, neither = task.integers("divisors", 1, 10**6, 8), task.flag("neither")
    numbers = range(1, task.integer("limit", 1, 10**5) + 1)
    return integer(answer) == sum(any(n % d == 0 for d in divisors) != neither for n in numbers)


def draw(task: Task, answer: str) -> bool:
    """List all pairs of things."""
    things = [k for k, count in enumerate(task.integers("counts", 1, 40, 8)) for _ in range(count)]
    pairs = list(itertools.combinations(things, 2))
    good = sum((a == b) == task.flag("same") for a, b in pairs)
    return str(Fraction(good, len(pairs))) == answer


def matrix_product(task: Task, answer: str) -> bool:
    """Both sides must move every unit vector to the same place."""
    a, b = task.rows("a", -1000, 1000, 8), task.rows("b", -1000, 1000, 8)
    try:
        found = json.loads(answer) if len(answer) < 2000 else None
    except RecursionError:
        found = None
    if not isinstance(found, list) or not all(isinstance(row, list) and len(row) == len(b[0]) for row in found):
        return False

    def move(rows: list[list[int]], vector: list[int]) -> list[int]:
        return [sum(x * y for x, y in zip(row, vector, strict=True)) for row in rows]

    units = [[int(k == j) for k in range(len(b[0]))] for j in range(len(b[0]))]
    plain = all(type(x) is int for row in found for x in row)
    return plain and len(found) == len(a) and all(move(found, u) == move(a, move(b, u)) for u in units)


def triangle_area(task: Task, answer: str) -> bool:
    """Pick's theorem: inner lattice points, plus half of those on the border, minus one."""
    points = task.rows("points", -40, 40, 3)
    if len(points) != 3 or any(len(p) != 2 for p in points):
        msg = "points"
        raise UnusableTask(msg)
    sides = list(zip(points, points[1:] + points[:1], strict=True))
    border = sum(math.gcd(b[0] - a[0], b[1] - a[1]) for a, b in sides)
    inside = 0
    xs, ys = [p[0] for p in points], [p[1] for p in points]
    for x, y in itertools.product(range(min(xs), max(xs) + 1), range(min(ys), max(ys) + 1)):
        turns = [(b[0] - a[0]) * (y - a[1]) - (b[1] - a[1]) * (x - a[0]) for a, b in sides]
        inside += all(t > 0 for t in turns) or all(t < 0 for t in turns)
    return fraction(answer) == inside + Fraction(border, 2) - 1


CHECKS: dict[str, Check] = {
    check.__name__: check
    for check in (
        expression,
        fraction_sum,
        percent_chain,
        story,
        work_rate,
        average_speed,
        statistic,
        weekday,
        linear_equation,
        linear_system,
        quadratic,
        gcd,
        lcm,
        power_remainder,
        congruence,
        prime_factors,
        divisor_count,
        base_change,
        sequence_sum,
        arrangements,
        committee,
        grid_paths,
        divisible,
        draw,
        matrix_product,
        triangle_area,
    )
}
