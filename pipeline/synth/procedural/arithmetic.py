"""Mathematics, arithmetic and everyday quantities: expressions, fractions, percentages, stories, rates, averages."""

from __future__ import annotations

import datetime
import itertools
from fractions import Fraction
from math import lcm

from pipeline.synth.procedural.wording import NAMES, PLACES, SHOPS, THINGS, Problem, Topic, Voice

_SIGNS = {"+": "+", "-": "-", "*": "×"}
Tree = int | tuple["Tree", str, "Tree"]


def _tree(v: Voice, leaves: int) -> Tree:
    if leaves == 1:
        return v.number(2, 40)
    left = v.number(1, leaves - 1)
    sign = v.rng.choice("++--*" if leaves > 2 else "+-**")
    return (_tree(v, left), sign, _tree(v, leaves - left))


def _shown(tree: Tree, top: bool = True) -> str:
    if isinstance(tree, int):
        return str(tree) if tree >= 0 else f"({tree})"
    inner = f"{_shown(tree[0], False)} {_SIGNS[tree[1]]} {_shown(tree[2], False)}"
    return inner if top else f"({inner})"


def _reduced(tree: Tree) -> tuple[Tree, int, str, int, int]:
    """The tree with its leftmost innermost operation carried out, and that operation with its value."""
    assert not isinstance(tree, int)
    left, sign, right = tree
    if isinstance(left, int) and isinstance(right, int):
        value = left + right if sign == "+" else left - right if sign == "-" else left * right
        return value, left, sign, right, value
    if not isinstance(left, int):
        smaller, a, did, b, value = _reduced(left)
        return (smaller, sign, right), a, did, b, value
    smaller, a, did, b, value = _reduced(right)
    return (left, sign, smaller), a, did, b, value


def expression(v: Voice, d: int) -> Problem:
    """A nested expression, reduced one operation at a time."""
    tree = _tree(v, 3 + d)
    text = _shown(tree)
    steps = [
        v.say(
            "[The brackets decide the order|Brackets come first|We go from the inside out|Work from the innermost bracket], "
            "[so we carry out one operation at a time|and each step replaces one operation by its value|"
            "doing one operation per step and rewriting what is left]."
        )
    ]
    while not isinstance(tree, int):
        tree, a, sign, b, value = _reduced(tree)
        lead = {"+": "[Adding|The sum of|Addition of]", "-": "[Subtraction, first minus second, of|The difference of]"}
        lead["*"] = "[Multiplying|The product of|Multiplication of]"
        line = v.say(lead[sign] + " {a} and {b} [gives|makes|comes to|is] {value}", a=a, b=b, value=value)
        if isinstance(tree, int):
            steps.append(
                line + v.phrase("[, and nothing is left to do|, which ends the computation|, the final value].")
            )
        else:
            rest = _shown(tree)
            steps.append(
                line
                + v.phrase(
                    "[; this leaves|, so the expression becomes|. What remains is|, and now we have] {r}.", r=rest
                )
            )
    question = v.say(
        "[Evaluate|Compute|Find the value of|Work out|Calculate|Simplify] {text}[.| step by step.|, showing each operation.|.]",
        text=text,
    )
    return Problem(question, steps, str(tree), "expression", {"expression": text.replace("×", "*")})


def fractions(v: Voice, d: int) -> Problem:
    """A sum of fractions over the least common denominator."""
    count = 2 + d // 2
    terms: list[tuple[int, int, int]] = []
    while len(terms) < count:
        below = v.number(2, 9 + 3 * d)
        above = v.number(1, below - 1)
        terms.append((above, below, 1 if not terms else v.rng.choice((1, 1, -1))))
    who, thing = (
        v.rng.choice(NAMES),
        v.rng.choice(("rope", "ribbon", "water", "flour", "paint", "wire", "sand", "milk")),
    )
    unit = v.rng.choice(("metre", "kilogram", "litre")) if thing not in ("rope", "ribbon", "wire") else "metre"
    common = lcm(*(below for _, below, _ in terms))
    if v.number(0, 1) and all(sign > 0 for _, _, sign in terms):
        parts = v.listing([f"{a}/{b} of a {unit}" for a, b, _ in terms])
        question = v.say(
            "{who} [collects|needs|joins together|buys|measures out] {parts} of {thing}. [How many {unit}s is that altogether|"
            "What is the total, in {unit}s|Find the total number of {unit}s]? [Give|Write] the [answer|result] in lowest terms.",
            who=who,
            parts=parts,
            thing=thing,
            unit=unit,
        )
    else:
        shown = " ".join(f"{'+' if s > 0 else '-'} {a}/{b}" for a, b, s in terms)[2:]
        question = v.say(
            "[Compute|Work out|Simplify|Find] {shown}[ and give the result in lowest terms.| as a reduced fraction.]",
            shown=shown,
        )
    below_list = v.listing([b for _, b, _ in terms])
    steps = [
        v.say(
            "[To add fractions|Before adding|For fractions to be added], [they must share a denominator|we bring them to a common "
            "denominator]. [The least common multiple of|For] {below} [is|we get] {common}.",
            below=below_list,
            common=common,
        )
    ]
    total = 0
    for a, b, sign in terms:
        widened = a * (common // b)
        total += sign * widened
        steps.append(
            v.say(
                "[Since|Because] {common} = {b} × {k}, [the fraction|] {a}/{b} [equals|becomes|turns into|is the same as] {w}/{common}[.|"
                ", obtained by multiplying above and below by {k}.]",
                common=common,
                b=b,
                k=common // b,
                a=a,
                w=widened,
            )
        )
    answer = Fraction(total, common)
    signed = " ".join(f"{'+' if s > 0 else '-'} {a * (common // b)}" for a, b, s in terms)[2:]
    steps.append(
        v.say(
            "[The numerators give|Adding up above the line:|Now combine the numerators:] {signed} = {total}, [so we have|that is] {total}/{common}.",
            signed=signed,
            total=total,
            common=common,
        )
    )
    if answer.denominator != common:
        k = common // answer.denominator
        steps.append(
            v.say(
                "[Both|Numerator and denominator] [can be divided|are divisible] by {k}[, which leaves|, giving|; reduced, this is] {answer}.",
                k=k,
                answer=answer,
            )
        )
    else:
        steps.append(
            v.say(
                "[Nothing cancels|The two share no factor|This is already in lowest terms], so [the result is|we are left with] {answer}.",
                answer=answer,
            )
        )
    return Problem(question, steps, str(answer), "fraction_sum", {"terms": [[a * s, b] for a, b, s in terms]})


def decimal(value: Fraction) -> str:
    """An exact decimal without trailing zeros; only for fractions whose decimals end."""
    scale = 0
    while (value * 10**scale).denominator != 1:
        scale += 1
    digits = str(abs(value.numerator * 10**scale // value.denominator)).rjust(scale + 1, "0")
    text = digits if scale == 0 else f"{digits[:-scale]}.{digits[-scale:]}"
    return f"-{text}" if value < 0 else text


def percent(v: Voice, d: int) -> Problem:
    """A price that changes by several percentages in a row, forwards or backwards."""
    who, shop, place = v.rng.choice(NAMES), v.rng.choice(SHOPS), v.rng.choice(PLACES)
    changes = [
        v.rng.choice((-50, -40, -30, -25, -20, -15, -10, -5, 5, 10, 15, 20, 25, 30, 40, 50, 60))
        for _ in range(1 + (d + 1) // 2)
    ]
    start = Fraction(v.number(4, 90) * 20)
    end = start
    for change in changes:
        end *= Fraction(100 + change, 100)
    events = []
    for change in changes:
        up = (
            "[goes up by|is raised by|increases by|climbs by]"
            if change > 0
            else "[drops by|is cut by|falls by|is lowered by]"
        )
        events.append(
            v.phrase(
                "[then|next|after that|later|a month later|in spring|before the holidays] it " + up + " {p} percent",
                p=abs(change),
            )
        )
    told = "; ".join(events)
    thing = v.rng.choice(
        (
            "a coat",
            "a guitar",
            "a tent",
            "a desk",
            "a lamp",
            "a kettle",
            "a rug",
            "a bicycle",
            "a telescope",
            "a sofa",
            "a drill",
            "a watch",
        )
    )
    backwards = v.number(0, 2) == 0
    data = {"changes": changes, "given": decimal(end if backwards else start), "backwards": backwards}
    scene = v.say(
        "[At a {shop} in {place}|In {place}, at a {shop}|{who} watches {thing} at a {shop} in {place}:|In the window of a {shop} in {place}]",
        shop=shop,
        place=place,
        who=who,
        thing=thing,
    )
    if backwards:
        question = v.say(
            "{scene} the price of {thing} changes [like this|as follows]: {told}. [In the end|Finally] {who} pays {end} for it. "
            "[What did it cost at first|What was the original price|How much was it before all this]?",
            scene=scene,
            thing=thing,
            told=told,
            who=who,
            end=decimal(end),
        )
    else:
        question = v.say(
            "{scene} [the price of {thing} starts at {start}|{thing} first costs {start}|someone asks {start} for {thing}]. [What happens to the price:|The price moves:] {told}. "
            "[What does {who} pay at the end|What is the final price|How much is it then]?",
            scene=scene,
            thing=thing,
            start=start,
            told=told,
            who=who,
        )
    price = end if backwards else start
    steps = [
        v.say(
            "[A change by p percent multiplies the price by 1 + p/100|Each percentage acts on the price of that moment, as a factor].[| So we take the changes one at a time.]"
        )
    ]
    if backwards:
        steps.append(
            v.say(
                "[We know the end and want the beginning, so we undo the changes, last one first|Going backwards means dividing by each factor, starting with the last change]."
            )
        )
    for change in changes[::-1] if backwards else changes:
        factor = Fraction(100 + change, 100)
        new = price / factor if backwards else price * factor
        kind = v.phrase("[rise|increase]" if change > 0 else "[cut|reduction|discount]")
        if backwards:
            line = "[Undo the|Before the|Take back the] {kind} of {p} percent: {price} ÷ {factor} = {new}[.|, the price before it.]"
        else:
            line = "[With the|After the|Through the] {kind} of {p} percent [the price is|we are at|we get] {price} × {factor} = {new}[.|, a difference of {gap}.]"
        steps.append(
            v.say(
                line,
                kind=kind,
                p=abs(change),
                price=decimal(price),
                factor=decimal(factor),
                new=decimal(new),
                gap=decimal(abs(new - price)),
            )
        )
        price = new
    steps.append(v.say("[So the price asked for is|This gives|The amount is] {price}.", price=decimal(price)))
    return Problem(question, steps, decimal(price), "percent_chain", data)


def story(v: Voice, d: int) -> Problem:
    """Someone's pile of things, through several events."""
    who, other, thing = *v.some(NAMES, 2), v.rng.choice(THINGS)
    start = have = v.number(8, 60)
    events: list[list[object]] = []
    told, steps = [], []
    for _ in range(2 + d):
        choice = v.rng.choice(("add", "subtract", "times", "share", "packs"))
        before = have
        if choice == "add" or (choice == "times" and have > 400):
            n = v.number(3, 45)
            have += n
            events.append(["add", n])
            told.append(
                v.phrase(
                    "[finds|buys|is given|picks up|receives] {n} more [|on the way home|at the market|from a neighbour|the next day]",
                    n=n,
                )
            )
            steps.append(
                v.say(
                    "[With|Counting|Together with] the {n} new ones, [{who} has|there are|the pile grows to] {before} + {n} = {have}.",
                    n=n,
                    who=who,
                    before=before,
                    have=have,
                )
            )
        elif choice == "subtract" and have > 12:
            n = v.number(2, have // 2)
            have -= n
            events.append(["add", -n])
            told.append(
                v.phrase(
                    "[gives {n} to {other}|loses {n} of them|sells {n}|uses up {n}|leaves {n} behind at {other}'s place]",
                    n=n,
                    other=other,
                )
            )
            steps.append(
                v.say(
                    "[Those {n} are gone|Take away the {n}|Without these {n}]: {before} - {n} = {have} [remain|are left|{thing}].",
                    n=n,
                    before=before,
                    have=have,
                    thing=thing,
                )
            )
        elif choice == "times":
            k = v.number(2, 3)
            have *= k
            events.append(["scale", k, 1])
            told.append(
                v.phrase(
                    "[ends up with {k} times as many|multiplies the collection by {k}|trades so well that there are {k} times as many]",
                    k=k,
                )
            )
            steps.append(
                v.say(
                    "{k} times {before} [is|makes] {have}, [the new number of {thing}|so now there are {have}|which {who} holds now].",
                    k=k,
                    before=before,
                    have=have,
                    thing=thing,
                    who=who,
                )
            )
        elif choice == "share" and have > 3 and (parts := [p for p in range(2, 8) if have % p == 0]):
            p = v.rng.choice(parts)
            have -= have // p
            events.append(["scale", p - 1, p])
            told.append(
                v.phrase(
                    "[gives one part in {p}|hands over 1/{p}|donates 1/{p}] of what is there [to {other}|to a school|away]",
                    p=p,
                    other=other,
                )
            )
            steps.append(
                v.say(
                    "1/{p} of {before} is {gone}, [so|and] {before} - {gone} = {have} [stay|are kept|remain with {who}].",
                    p=p,
                    before=before,
                    gone=before // p,
                    have=have,
                    who=who,
                )
            )
        else:
            packs, each = v.number(2, 9), v.number(3, 12)
            have += packs * each
            events.append(["add", packs * each])
            told.append(
                v.phrase("[opens|buys|unpacks] {packs} [boxes|bags|packets|crates] of {each}", packs=packs, each=each)
            )
            steps.append(
                v.say(
                    "{packs} times {each} [makes|is] {n}, [and with those|so] {before} + {n} = {have}.",
                    packs=packs,
                    each=each,
                    n=packs * each,
                    before=before,
                    have=have,
                )
            )
    chain = ". ".join(v.say("[Then|Next|Later|After that|Now|] {who} {t}", who=who, t=t) for t in told)
    question = v.say(
        "{who} [has|starts with|owns|keeps] {start} {thing}[| in a drawer| on a shelf| in the shed]. {chain}. "
        "[How many {thing} does {who} have now|How many {thing} are there in the end|What is the final number of {thing}]?",
        who=who,
        start=start,
        thing=thing,
        chain=chain,
    )
    steps.insert(
        0,
        v.say(
            "[At the start there are|We begin with|The story opens with] {start} {thing}[, and we follow the events in order|; take each event in turn].",
            start=start,
            thing=thing,
        ),
    )
    steps.append(
        v.say(
            "[No more events follow|That was the last event|The story ends here], so [the count is|{who} has] {have}.",
            who=who,
            have=have,
        )
    )
    return Problem(question, steps, str(have), "story", {"start": start, "events": events})


def work_rate(v: Voice, d: int) -> Problem:
    """Several workers share a job: the time they need together."""
    team = v.some(NAMES, 2 + d // 3)
    hours = [v.number(2, 6 + 3 * d) for _ in team]
    job = v.rng.choice(
        (
            "paint the fence",
            "fill the tank",
            "sort the archive",
            "weed the garden",
            "translate the booklet",
            "build the wall",
            "pick the cherries",
            "clean the hall",
        )
    )
    facts = ". ".join(
        v.say(
            "[Alone, |By hand |Without help ]{who} [can {job}|would {job}|is able to {job}] in {h} hours",
            who=w,
            job=job,
            h=h,
        )
        for w, h in zip(team, hours, strict=True)
    )
    question = v.say(
        "{facts}. [How long do they take together|They start at the same time and share the work: how many hours do they need|Working side by side, after how many hours are they done]? [Give an exact fraction of hours|Answer as an exact number of hours].",
        facts=facts,
    )
    common = lcm(*hours)
    steps = [
        v.say(
            "[Rates can be added, times cannot|Think of how much of the job each does in one hour|In one hour each does a fixed part of the job]."
        )
    ]
    steps += [
        v.say(
            "{who} [does|finishes|manages] 1/{h} of it [per hour|each hour|in an hour][, that is {k}/{common}|].",
            who=w,
            h=h,
            k=common // h,
            common=common,
        )
        for w, h in zip(team, hours, strict=True)
    ]
    above = sum(common // h for h in hours)
    rate = Fraction(above, common)
    steps.append(
        v.say(
            "[Together|All in all|As a team] [they do|that is] {parts} = {above}/{common} of the job [per hour|every hour].",
            parts=" + ".join(f"{common // h}/{common}" for h in hours),
            above=above,
            common=common,
        )
    )
    steps.append(
        v.say(
            "[The time is the reciprocal of the rate|One whole job divided by this rate gives the time|Turning the fraction over gives the hours]: {answer}.",
            answer=1 / rate,
        )
    )
    return Problem(question, steps, str(1 / rate), "work_rate", {"hours": hours})


def trip(v: Voice, d: int) -> Problem:
    """Average speed over legs of a journey."""
    stops = v.some(PLACES, 3 + d // 2)
    who = v.rng.choice(NAMES)
    legs = [(v.rng.choice((20, 30, 40, 45, 50, 60, 75, 80, 90)), v.number(1, 4 + d)) for _ in stops[1:]]
    means = v.rng.choice(("by bus", "by train", "on a scooter", "in an old van", "by car", "on a motorbike"))
    told = ". ".join(
        v.say(
            "[From {a} to {b} the way|The leg from {a} to {b}|The stretch between {a} and {b}] [takes {h} h at|lasts {h} h, at a steady|goes on for {h} h with] {s} km/h",
            a=a,
            b=b,
            h=h,
            s=s,
        )
        for a, b, (s, h) in zip(stops, stops[1:], legs, strict=False)
    )
    question = v.say(
        "{who} travels {means}. {told}. [What is the average speed of the whole trip|At what average speed does {who} travel over the whole way], in km/h? [Give it exactly|An exact fraction is wanted].",
        who=who,
        means=means,
        told=told,
    )
    steps = [
        v.say(
            "[Average speed is total distance over total time, not the mean of the speeds|The mean of the speeds would be wrong: we need all kilometres and all hours]."
        )
    ]
    way = 0
    for (a, b), (s, h) in zip(itertools.pairwise(stops), legs, strict=True):
        way += s * h
        steps.append(
            v.say(
                "[{a} to {b}|The leg that ends in {b}|Leaving {a}]: {s} × {h} = {km} km[, which makes {way} km so far|; running total {way} km|].",
                a=a,
                b=b,
                s=s,
                h=h,
                km=s * h,
                way=way,
            )
        )
    time = sum(h for _, h in legs)
    answer = Fraction(way, time)
    steps.append(
        v.say(
            "[The hours add up to|Altogether the trip takes|Total time:] {sum} = {time} [hours|h].",
            sum=" + ".join(str(h) for _, h in legs),
            time=time,
        )
    )
    steps.append(
        v.say(
            "{way} km [divided by|in|over] {time} hours [is|gives|comes to] {answer} km/h.",
            way=way,
            time=time,
            answer=answer,
        )
    )
    return Problem(question, steps, str(answer), "average_speed", {"legs": legs})


def statistic(v: Voice, d: int) -> Problem:
    """Mean, median or range of a small list."""
    what = v.rng.choice(("mean", "median", "range"))
    values = [v.number(3, 30 + 20 * d) for _ in range(5 + d)]
    who, place, thing = v.rng.choice(NAMES), v.rng.choice(PLACES), v.rng.choice(THINGS)
    scene = v.say(
        "[{who} counts the {thing} sold each day in {place}|On {n} days {who} notes how many {thing} arrive in {place}|A survey in {place} asks {n} people how many {thing} they own|{who} writes down the number of {thing} in each of {n} boxes]",
        who=who,
        thing=thing,
        place=place,
        n=len(values),
    )
    question = v.say(
        "{scene}: {values}. [What is the {what}|Find the {what}|Determine the {what} of these numbers]?",
        scene=scene,
        values=", ".join(map(str, values)),
        what=what,
    )
    ordered = sorted(values)
    if what == "mean":
        steps = [
            v.say(
                "[The mean is the sum divided by the count|For the mean, add everything and divide by how many there are]."
            )
        ]
        total = 0
        for k, value in enumerate(values):
            total += value
            if k:
                steps.append(
                    v.say(
                        "[Adding {x}|With {x}|Then {x}|Next comes {x}] [makes|gives|:|brings us to] {t}.",
                        x=value,
                        t=total,
                    )
                )
        answer = Fraction(total, len(values))
        steps.append(
            v.say(
                "[There are {n} values|We have {n} numbers|The count is {n}], so the mean is {t}/{n} = {a}.",
                n=len(values),
                t=total,
                a=answer,
            )
        )
    elif what == "median":
        steps = [
            v.say(
                "[For the median the numbers must stand in order|The median is the middle of the sorted list|Sort first]: {o}.",
                o=", ".join(map(str, ordered)),
            )
        ]
        half = len(ordered) // 2
        if len(ordered) % 2:
            answer = Fraction(ordered[half])
            steps.append(
                v.say(
                    "[There are {n} of them, an odd number|{n} is odd], so [number {k} in this order|the one with {h} on each side] [is the median|counts]: {a}.",
                    n=len(ordered),
                    k=half + 1,
                    h=half,
                    a=answer,
                )
            )
        else:
            answer = Fraction(ordered[half - 1] + ordered[half], 2)
            steps.append(
                v.say(
                    "[With {n} numbers there are two middle ones|{n} is even, so two numbers share the middle]: {a} and {b}.",
                    n=len(ordered),
                    a=ordered[half - 1],
                    b=ordered[half],
                )
            )
            steps.append(
                v.say(
                    "[Their mean|Half of their sum|The point halfway between them] is ({a} + {b})/2 = {m}.",
                    a=ordered[half - 1],
                    b=ordered[half],
                    m=answer,
                )
            )
    else:
        answer = Fraction(ordered[-1] - ordered[0])
        steps = [
            v.say(
                "[The range is the distance from the smallest to the largest|Only two numbers matter here, the extremes]."
            )
        ]
        best = worst = values[0]
        for value in values[1:]:
            if value > best:
                best = value
                steps.append(
                    v.say("{x} [is larger than all before it|beats the largest so far|sets a new maximum].", x=value)
                )
            elif value < worst:
                worst = value
                steps.append(
                    v.say(
                        "{x} [is smaller than all before it|is the new minimum|goes below the smallest so far].",
                        x=value,
                    )
                )
        steps.append(
            v.say(
                "[Largest|The maximum is] {b}, [smallest|the minimum is] {w}[;|, so] the range is {b} - {w} = {a}.",
                b=best,
                w=worst,
                a=answer,
            )
        )
    return Problem(question, steps, str(answer), "statistic", {"what": what, "values": values})


_DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
_MONTHS = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
]


def weekday(v: Voice, d: int) -> Problem:
    """Which day of the week a later date is, by counting days modulo 7."""
    first = datetime.date(v.number(1990, 2040), v.number(1, 12), v.number(1, 28))
    later = first + datetime.timedelta(days=v.number(20, 60 + 120 * d))
    event = v.phrase(
        "[a ship leaves {p}|the school in {p} opens|{w} plants a tree|a bakery in {p} lights its oven|{w} begins a diary|a comet is first seen from {p}]",
        p=v.rng.choice(PLACES),
        w=v.rng.choice(NAMES),
    )
    day = _DAYS[first.weekday()]
    question = v.say(
        "[On {day}, {first}, {event}|{first} is a {day}, and on that day {event}]. [Which day of the week is|On what weekday falls|What day of the week will be] {later}?",
        day=day,
        first=f"{first.day} {_MONTHS[first.month - 1]} {first.year}",
        event=event,
        later=f"{later.day} {_MONTHS[later.month - 1]} {later.year}",
    )
    steps = [
        v.say(
            "[Weekdays repeat every 7 days, so we count the days between the two dates|Only the number of days modulo 7 matters]."
        )
    ]
    total, year, month, day_of = 0, first.year, first.month, first.day
    while (year, month) != (later.year, later.month):
        leap = year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)
        length = 29 if month == 2 and leap else (31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)[month - 1]
        total += length
        why = v.phrase("[, a leap year|, since {y} is a leap year]" if month == 2 and leap else "", y=year)
        year, month = (year + 1, 1) if month == 12 else (year, month + 1)
        name = _MONTHS[month - 1]
        steps.append(
            v.say(
                "[To the {d} of {m} {y}|Moving on to {d} {m}|Up to {m} {d}]: {l} [more days|days]{why}[, {t} in all|, so {t} by now|; sum {t}].",
                d=day_of,
                m=name,
                y=year,
                l=length,
                why=why,
                t=total,
            )
        )
    rest = later.day - day_of
    total += rest
    if rest:
        steps.append(
            v.say(
                "[From the {a} to the {b} of that month|Within the month, from day {a} to day {b},] [it is|there are] {r} days[,|:] total {t}.",
                a=day_of,
                b=later.day,
                r=rest,
                t=total,
            )
        )
    answer = _DAYS[(first.weekday() + total) % 7]
    steps.append(
        v.say(
            "{t} = 7 × {q} + {r}[, so we move on by {r} weekdays|; whole weeks change nothing, {r} days remain].",
            t=total,
            q=total // 7,
            r=total % 7,
        )
    )
    steps.append(
        v.say(
            "[{r} days after {day}|Starting at {day} and going {r} forward] [is|we reach|comes] {a}.",
            r=total % 7,
            day=day,
            a=answer,
        )
    )
    return Problem(question, steps, answer, "weekday", {"date": later.isoformat()})


TOPICS: tuple[Topic, ...] = (expression, fractions, percent, story, work_rate, trip, statistic, weekday)
