"""Mathematics, counting and chance: arrangements, committees, grid paths, divisibility, draws, matrices, areas."""

from __future__ import annotations

from fractions import Fraction

from pipeline.synth.procedural.wording import NAMES, PLACES, THINGS, WORDS, Problem, Topic, Voice


def _factorial(n: int) -> int:
    return 1 if n < 2 else n * _factorial(n - 1)


def _choose(n: int, k: int) -> int:
    return 0 if k < 0 or k > n else _factorial(n) // (_factorial(k) * _factorial(n - k))


def arrangements(v: Voice, d: int) -> Problem:
    """Different orders of the letters of a word."""
    word = v.rng.choice([w for w in WORDS if len(w) <= 5 + d // 2] or WORDS)[:7].upper()
    question = v.say(
        "[In how many different orders can the letters of {w} be written|How many different strings use exactly the letters of {w}|{who} has letter tiles that spell {w}. How many different rows can be laid with all of them]?",
        w=word,
        who=v.rng.choice(NAMES),
    )
    n = len(word)
    steps = [
        v.say(
            "{w} has {n} letters[|, some of which may repeat][; if all were different|. Treat them as different at first:] there [would be|are] {n}! = {f} orders.",
            w=word,
            n=n,
            f=_factorial(n),
        )
    ]
    answer = _factorial(n)
    for letter in sorted(set(word)):
        count = word.count(letter)
        if count > 1:
            answer //= _factorial(count)
            steps.append(
                v.say(
                    "{l} [occurs {c} times|stands there {c} times], [and swapping equal letters changes nothing|so each order was counted {c}! times]: divide by {f}[, which leaves {a}|, now {a}].",
                    l=letter,
                    c=count,
                    f=_factorial(count),
                    a=answer,
                )
            )
    if answer == _factorial(n):
        steps.append(
            v.say(
                "[No letter occurs twice|All letters differ], so [nothing has to be divided out|this is the number already]: {a}.",
                a=answer,
            )
        )
    else:
        steps.append(
            v.say(
                "[The other letters occur once|All other letters are single], so {a} [different orders remain|is the number].",
                a=answer,
            )
        )
    return Problem(question, steps, str(answer), "arrangements", {"word": word})


def committee(v: Voice, d: int) -> Problem:
    """Committees with at least so many members of one group."""
    first, second = v.number(3, 5 + d // 2), v.number(3, 5 + d // 2)
    size = v.number(3, min(5, first + second - 2))
    least = v.number(1, min(size, first) - 1 or 1)
    kinds = v.rng.choice(
        (
            ("teachers", "parents"),
            ("pianists", "singers"),
            ("engineers", "designers"),
            ("farmers", "millers"),
            ("doctors", "nurses"),
            ("painters", "sculptors"),
            ("sailors", "divers"),
        )
    )
    question = v.say(
        "[From {a} {x} and {b} {y} a group of {k} is chosen|A club in {place} of {a} {x} and {b} {y} sends {k} people|{a} {x} and {b} {y} elect a board of {k} from among them]. [How many choices contain at least {m} {x}|In how many ways can this be done with {m} or more {x}]?",
        a=first,
        b=second,
        x=kinds[0],
        y=kinds[1],
        k=size,
        m=least,
        place=v.rng.choice(PLACES),
    )
    steps = [
        v.say(
            "[Split by the exact number of {x}|Sort the groups by how many {x} they hold], [from {m} to {top}|which runs from {m} to {top}].",
            x=kinds[0],
            m=least,
            top=min(size, first),
        )
    ]
    answer = 0
    for k in range(least, min(size, first) + 1):
        ways = _choose(first, k) * _choose(second, size - k)
        answer += ways
        steps.append(
            v.say(
                "[With {k} {x} and {r} {y}|{x}: {k}, {y}: {r}|Exactly {k} {x}]: C({a},{k}) × C({b},{r}) = {p} × {q} = {w}[, sum {t}|; so far {t}|].",
                k=k,
                r=size - k,
                x=kinds[0],
                y=kinds[1],
                a=first,
                b=second,
                p=_choose(first, k),
                q=_choose(second, size - k),
                w=ways,
                t=answer,
            )
        )
    steps.append(
        v.say("[The cases do not overlap, so they add up to|Adding all cases gives|In total there are] {t}.", t=answer)
    )
    return Problem(
        question, steps, str(answer), "committee", {"first": first, "second": second, "size": size, "least": least}
    )


def grid_paths(v: Voice, d: int) -> Problem:
    """Shortest paths on a grid that avoid one blocked crossing, by subtraction."""
    width, height = v.number(3, 4 + d), v.number(3, 4 + d)
    x, y = v.number(1, width - 1), v.number(1, height - 1)
    total, through, onward = (
        _choose(width + height, width),
        _choose(x + y, x),
        _choose(width - x + height - y, width - x),
    )
    question = v.say(
        "[{who} walks from the corner (0, 0) of a street grid to ({w}, {h}), only east or north, one block at a time|A robot goes from (0, 0) to ({w}, {h}) by unit steps right or up|In {place} a courier rides from (0, 0) to ({w}, {h}), each block either east or north]. The crossing ({x}, {y}) is [closed|blocked|under repair]. [How many routes are possible|How many different ways remain]?",
        who=v.rng.choice(NAMES),
        place=v.rng.choice(PLACES),
        w=width,
        h=height,
        x=x,
        y=y,
    )
    steps = [
        v.say(
            "[Count all routes first, then remove those through the closed crossing|All routes minus the forbidden ones is what we want]."
        ),
        v.say(
            "[A route consists of|Every route has] {w} steps one way and {h} the other[, in any order|]: C({n},{w}) = {t} routes[ without the closure|].",
            w=width,
            h=height,
            n=width + height,
            t=total,
        ),
        v.say("[To reach|Up to] ({x}, {y}) there are C({n},{x}) = {k} ways.", x=x, y=y, n=x + y, k=through),
        v.say(
            "[From there to the end|Onward from it], {a} and {b} steps remain: C({n},{a}) = {k} ways.",
            a=width - x,
            b=height - y,
            n=width - x + height - y,
            k=onward,
        ),
        v.say(
            "[So|Hence|There are] {p} × {q} = {b} routes [that use the closed crossing|through the closed crossing|that are forbidden].",
            p=through,
            q=onward,
            b=through * onward,
        ),
        v.say(
            "[What remains is|The rest are allowed:|Subtract:] {t} - {b} = {a}.",
            t=total,
            b=through * onward,
            a=total - through * onward,
        ),
    ]
    return Problem(
        question, steps, str(total - through * onward), "grid_paths", {"width": width, "height": height, "x": x, "y": y}
    )


def divisible(v: Voice, d: int) -> Problem:
    """Numbers up to a limit that are divisible by one of two or three numbers."""
    limit = v.number(50, 200 * d)
    divisors = v.rng.sample(range(2, 14), 2 + (d > 2))
    neither = v.number(0, 2) == 0
    wanted = v.phrase(
        "[divisible by none of|not multiples of any of]"
        if neither
        else "[divisible by at least one of|multiples of at least one of]"
    )
    question = v.say(
        "[How many of the numbers from 1 to {l} are {w} {ds}|Lockers are numbered 1 to {l}. How many numbers are {w} {ds}|{who} writes down all numbers from 1 to {l} that are {w} {ds}. How many are that]?",
        l=limit,
        w=wanted,
        ds=v.listing(divisors),
        who=v.rng.choice(NAMES),
    )
    steps = [
        v.say(
            "[Count the multiples of each, then correct for what was counted twice|We use inclusion and exclusion: single counts, minus pairs, plus triples]."
        )
    ]
    total = 0
    for a in divisors:
        total += limit // a
        steps.append(
            v.say(
                "[Multiples of {a}|Divisible by {a}]: {l} ÷ {a} [gives {c}|rounded down is {c}][, sum {t}|; together {t} so far|].",
                a=a,
                l=limit,
                c=limit // a,
                t=total,
            )
        )
    for i, a in enumerate(divisors):
        for b in divisors[i + 1 :]:
            both = a * b // _gcd(a, b)
            total -= limit // both
            steps.append(
                v.say(
                    "[Multiples of both {a} and {b}|Counted under {a} and again under {b}] are the multiples of {m}: {c} of them, [so subtract|take away] {c}[, leaving {t}|; now {t}|].",
                    a=a,
                    b=b,
                    m=both,
                    c=limit // both,
                    t=total,
                )
            )
    if len(divisors) == 3:
        a, b, c = divisors
        both = a * b // _gcd(a, b)
        three = both * c // _gcd(both, c)
        total += limit // three
        steps.append(
            v.say(
                "[Multiples of all three|The multiples of {m}, common to all three,] were [added three times and removed three times|lost on the way], so [add back|put back] {k}: {t}.",
                m=three,
                k=limit // three,
                t=total,
            )
        )
    else:
        steps.append(v.say("[So|That makes] {t} numbers [are divisible by one or the other|in the union].", t=total))
    answer = limit - total if neither else total
    if neither:
        steps.append(
            v.say("[The others are what we want|We want those outside]: {l} - {t} = {a}.", l=limit, t=total, a=answer)
        )
    return Problem(
        question, steps, str(answer), "divisible", {"limit": limit, "divisors": divisors, "neither": neither}
    )


def _gcd(a: int, b: int) -> int:
    return a if b == 0 else _gcd(b, a % b)


def draw(v: Voice, d: int) -> Problem:
    """The chance that two things drawn without putting back are of the same colour."""
    colours = v.some(
        ("red", "blue", "green", "white", "black", "yellow", "purple", "grey", "brown", "pink"), 2 + d // 2
    )
    counts = [v.number(2, 6 + d) for _ in colours]
    thing, who, same = v.rng.choice(THINGS), v.rng.choice(NAMES), v.number(0, 1) == 1
    total = sum(counts)
    question = v.say(
        "[A bag holds|In a box there are|{who} mixes] {stock} {t}. [Two are drawn at random without putting the first back|{who} takes two at once without looking]. [What is the probability that they have {k}|How likely is it that the two have {k}]? [Give|Write] a reduced fraction.",
        who=who,
        stock=v.listing([f"{c} {colour}" for c, colour in zip(counts, colours, strict=True)]),
        t=thing,
        k="the same colour" if same else "different colours",
    )
    pairs = total * (total - 1)
    steps = [
        v.say(
            "[There are|Altogether there are|The total is] {n} {t}, so [ordered draws of two number|there are] {n} × {m} = {p} [equally likely ordered pairs|ordered pairs].",
            n=total,
            t=thing,
            m=total - 1,
            p=pairs,
        )
    ]
    good = 0
    for c, colour in zip(counts, colours, strict=True):
        good += c * (c - 1)
        steps.append(
            v.say(
                "[Both {k}|Two {k} ones|{k} and again {k}]: {c} × {m} = {w}[, sum {t}|; so far {t}|].",
                k=colour,
                c=c,
                m=c - 1,
                w=c * (c - 1),
                t=good,
            )
        )
    answer = Fraction(good, pairs)
    steps.append(
        v.say(
            "[So equal colours have probability|The chance of equal colours is] {g}/{p} = {a}.",
            g=good,
            p=pairs,
            a=answer,
        )
    )
    if not same:
        answer = 1 - answer
        steps.append(
            v.say(
                "[Different colours are the opposite event|The question is about the opposite]: 1 - {b} = {a}.",
                b=1 - answer,
                a=answer,
            )
        )
    return Problem(question, steps, str(answer), "draw", {"counts": counts, "same": same})


def matrix_product(v: Voice, d: int) -> Problem:
    """The product of two small matrices."""
    n, m, k = v.number(2, 2 + d // 4), v.number(2, 2 + d // 2), v.number(1, 2)
    a = [[v.number(-5, 9) for _ in range(m)] for _ in range(n)]
    b = [[v.number(-5, 9) for _ in range(k)] for _ in range(m)]
    p, q = v.some(("A", "B", "M", "N", "P", "Q", "S", "T"), 2)
    question = v.say(
        "[Multiply the matrices {p} = {a} and {q} = {b}.|Let {p} = {a} and {q} = {b}. What is {p}{q}?|Given {p} = {a} and {q} = {b}, find the product {p}{q}.] [Write|Give] it as a list of rows.",
        p=p,
        q=q,
        a=a,
        b=b,
    )
    steps = [
        v.say(
            "[The entry in row i and column j is row i of {p} times column j of {q}|Rows of {p} meet columns of {q}]; {p} is {n} × {m} and {q} is {m} × {k}, so the product is {n} × {k}.",
            p=p,
            q=q,
            n=n,
            m=m,
            k=k,
        )
    ]
    result = []
    for i in range(n):
        line = []
        for j in range(k):
            total = 0
            for x in range(m):
                total += a[i][x] * b[x][j]
            line.append(total)
            sums = " + ".join(f"({a[i][x]})({b[x][j]})" for x in range(m))
            steps.append(
                v.say(
                    "[Row {i}, column {j}|Entry ({i}, {j})|For place ({i}, {j})]: {s} = {t}.",
                    i=i + 1,
                    j=j + 1,
                    s=sums,
                    t=total,
                )
            )
        result.append(line)
        if k > 1:
            steps.append(v.say("[That completes row|So we have row|Row] {i}: {l}.", i=i + 1, l=line))
    steps.append(v.say("[All entries together|The product is|Put together]: {r}.", r=result))
    return Problem(question, steps, str(result), "matrix_product", {"a": a, "b": b})


def triangle_area(v: Voice, d: int) -> Problem:
    """The area of a lattice triangle by the cross product of two sides."""
    reach = 5 + 2 * d
    while True:
        points = [(v.number(-reach, reach), v.number(-reach, reach)) for _ in range(3)]
        (ax, ay), (bx, by), (cx, cy) = points
        twice = (bx - ax) * (cy - ay) - (cx - ax) * (by - ay)
        if twice:
            break
    p, q, r = v.some("ABCDEFGHKLMPQRSTUVW", 3)
    question = v.say(
        "[What is the area of the triangle with corners {c}?|Find the area of the triangle {c}.|A field has its three corners (in a grid of units) at {c}. How large is it?|{who} stakes out a triangle with pegs at {c}. What area does it enclose?] [Give an exact value|Answer exactly].",
        who=v.rng.choice(NAMES),
        c=f"{p}({ax}, {ay}), {q}({bx}, {by}) and {r}({cx}, {cy})",
    )
    steps = [
        v.say("[Two sides start at {p}|Take the two sides from {p}|Look from {p} to the other corners].", p=p),
        v.say(
            "[The side {p}{q} is|From {p} to {q} we go] ({bx} - ({ax}), {by} - ({ay})) = ({x}, {y}).",
            p=p,
            q=q,
            ax=ax,
            ay=ay,
            bx=bx,
            by=by,
            x=bx - ax,
            y=by - ay,
        ),
        v.say(
            "[The side {p}{r} is|From {p} to {r} it is] ({cx} - ({ax}), {cy} - ({ay})) = ({x}, {y}).",
            p=p,
            r=r,
            ax=ax,
            ay=ay,
            cx=cx,
            cy=cy,
            x=cx - ax,
            y=cy - ay,
        ),
        v.say(
            "[Their cross product|Twice the signed area] is ({a})({b}) - ({c})({e}) = {f} - ({g}) = {t}.",
            a=bx - ax,
            b=cy - ay,
            c=cx - ax,
            e=by - ay,
            f=(bx - ax) * (cy - ay),
            g=(cx - ax) * (by - ay),
            t=twice,
        ),
        v.say(
            "[The sign tells only the direction of turning; half the absolute value is the area|Half of its absolute value is the area]: {t}/2 = {a}.",
            t=abs(twice),
            a=Fraction(abs(twice), 2),
        ),
    ]
    return Problem(
        question, steps, str(Fraction(abs(twice), 2)), "triangle_area", {"points": [list(point) for point in points]}
    )


TOPICS: tuple[Topic, ...] = (arrangements, committee, grid_paths, divisible, draw, matrix_product, triangle_area)
