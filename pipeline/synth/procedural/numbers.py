"""Mathematics, whole numbers and equations: linear and quadratic equations, systems, remainders, divisors, sequences."""

from __future__ import annotations

from fractions import Fraction

from pipeline.synth.procedural.wording import NAMES, PLACES, SHOPS, THINGS, Problem, Topic, Voice


def _term(coefficient: int | Fraction, name: str) -> str:
    """`3x`, `x`, `-x`, or the number itself for an empty name."""
    if not name:
        return str(coefficient)
    return {1: name, -1: f"-{name}"}.get(
        int(coefficient) if Fraction(coefficient).denominator == 1 else 0, f"{coefficient}{name}"
    )


def _sum(terms: list[tuple[int, str]]) -> str:
    """Terms with their signs, zeros left out."""
    shown = ""
    for coefficient, name in terms:
        if coefficient == 0:
            continue
        if not shown:
            shown = _term(coefficient, name)
        else:
            shown += f" {'+' if coefficient > 0 else '-'} {_term(abs(coefficient), name)}"
    return shown or "0"


def linear_equation(v: Voice, d: int) -> Problem:
    """a(x + b) + c = ex + f, solved by collecting terms."""
    x = v.rng.choice("xyztnkmpw")
    outer, inner, add = v.number(2, 5 + d), v.number(-9, 9) or 4, v.number(-20, 20)
    right, more = v.number(-6, 6), v.number(-30, 30)
    if outer == right:
        right += 1
    left_shown = f"{outer}({_sum([(1, x), (inner, '')])})" + (f" {'+' if add > 0 else '-'} {abs(add)}" if add else "")
    right_shown = _sum([(right, x), (more, "")])
    constant = outer * inner + add
    steps = [
        v.say(
            "[Multiply out the bracket|First open the bracket|The bracket expands]: {o} × {x} = {ox} and {o} × ({i}) = {p}.",
            o=outer,
            x=x,
            ox=_term(outer, x),
            i=inner,
            p=outer * inner,
        ),
        v.say(
            "[So the left side is|The equation now reads|This turns the equation into] {l} = {r}.",
            l=_sum([(outer, x), (constant, "")]),
            r=right_shown,
        ),
    ]
    scale = outer - right
    if right:
        steps.append(
            v.say(
                "[Subtract|Take] {t} [on both sides|from either side][ to gather the unknown on the left|, so that {x} stands on one side only]: {l} = {more}.",
                t=_term(right, x) if right > 0 else f"({_term(right, x)})",
                x=x,
                l=_sum([(scale, x), (constant, "")]),
                more=more,
            )
        )
    rest = more - constant
    if constant:
        steps.append(
            v.say(
                "[Now move|Then bring over|Next shift] {c} [to the right|to the other side]: {t} = {more} - ({c}) = {rest}.",
                c=constant,
                t=_term(scale, x),
                more=more,
                rest=rest,
            )
        )
    answer = Fraction(rest, scale)
    steps.append(
        v.say(
            "[Divide both sides by {s}:|Dividing both sides by {s} leaves|Division by {s} gives] {x} = {rest}/({s}) = {a}.",
            s=scale,
            x=x,
            rest=rest,
            a=answer,
        )
    )
    value = outer * (answer + inner) + add
    steps.append(
        v.say(
            "[Check|As a test|To be sure]: [with this value the left side is|the left side comes to] {value} [and the right side is|, the right side to] {other}[, as it must be|, so they agree|].",
            value=value,
            other=right * answer + more,
        )
    )
    question = v.say(
        "[Solve: {l} = {r}.|Solve for {x}: {l} = {r}.|Find {x} if {l} = {r}.|Which {x} satisfies {l} = {r}?|Determine the number {x} with {l} = {r}.|For which {x} are {l} and {r} equal?] [Give an exact value.|An exact fraction is wanted if it is not whole.|]",
        x=x,
        l=left_shown,
        r=right_shown,
    )
    data = {"unknown": x, "left": f"{outer}*({x}+({inner}))+({add})", "right": f"({right})*{x}+({more})"}
    return Problem(question, steps, str(answer), "linear_equation", data)


def linear_system(v: Voice, d: int) -> Problem:
    """Two or three unknown prices from receipts, by elimination."""
    size = 3 if d >= 4 else 2
    things = v.some(THINGS, size)
    names = v.some(("x", "y", "z", "a", "b", "c", "p", "q", "r"), size)
    prices = [v.number(1, 12 + d) for _ in things]
    while True:
        rows = [[v.number(1, 9) for _ in things] for _ in things]
        if _determinant(rows):
            break
    totals = [sum(c * p for c, p in zip(row, prices, strict=True)) for row in rows]
    buyers, shop, place = v.some(NAMES, size), v.rng.choice(SHOPS), v.rng.choice(PLACES)
    told = ". ".join(
        v.say(
            "{w} [pays {t} for {what}|buys {what} and pays {t}|takes {what}, which costs {t} altogether]",
            w=w,
            t=t,
            what=v.listing([f"{c} {thing}" for c, thing in zip(row, things, strict=True)]),
        )
        for w, t, row in zip(buyers, totals, rows, strict=True)
    )
    letters = v.listing([f"{n} for one of the {thing}" for n, thing in zip(names, things, strict=True)])
    question = v.say(
        "At a {shop} in {place}, {told}. [What does one of each cost|Find the price of each|What is the price of a single piece of each kind]? [Give the prices in the order|List them as] {order}.",
        shop=shop,
        place=place,
        told=told,
        order=", ".join(things),
    )
    steps = [v.say("[Write|Let us write|We use the letters] {letters}.", letters=letters)]
    work = [[Fraction(c) for c in row] + [Fraction(t)] for row, t in zip(rows, totals, strict=True)]
    for row in work:
        steps.append(  # noqa: PERF401
            v.say(
                "[One receipt says|From a purchase we get|A purchase gives the equation|This purchase means] {e}.",
                e=_equation(row, names),
            )
        )
    for k in range(size):
        pivot = next(r for r in range(k, size) if work[r][k] != 0)
        work[k], work[pivot] = work[pivot], work[k]
        for r in range(k + 1, size):
            if work[r][k] == 0:
                continue
            factor = work[r][k] / work[k][k]
            work[r] = [a - factor * b for a, b in zip(work[r], work[k], strict=True)]
            steps.append(
                v.say(
                    "[Subtract|Take] {f} times [equation {k}|the equation that begins {e}] from [equation {r}|the one in row {r}][; {x} disappears|, which removes {x}|, so that {x} drops out]: {new}.",
                    f=factor,
                    k=k + 1,
                    e=_equation(work[k], names).split(" ")[0],
                    r=r + 1,
                    x=names[k],
                    new=_equation(work[r], names),
                )
            )
    found: list[Fraction] = [Fraction(0)] * size
    for k in reversed(range(size)):
        rest = work[k][size] - sum((work[k][j] * found[j] for j in range(k + 1, size)), Fraction(0))
        found[k] = rest / work[k][k]
        if k == size - 1:
            steps.append(
                v.say(
                    "[The last equation holds only {x}|Only {x} is left in the last equation]: {x} = ({t})/({c}) = {a}.",
                    x=names[k],
                    t=work[k][size],
                    c=work[k][k],
                    a=found[k],
                )
            )
        else:
            steps.append(
                v.say(
                    "[Put what is known into {e}:|Go back to {e}, which becomes|Then {e} turns into] {c} × {x} = {rest}[, so| and] {x} = {a}.",
                    e=_equation(work[k], names),
                    c=work[k][k],
                    x=names[k],
                    rest=rest,
                    a=found[k],
                )
            )
    answer = ", ".join(str(f) for f in found)
    return Problem(question, steps, answer, "linear_system", {"rows": rows, "totals": totals})


def _equation(row: list[Fraction], names: list[str]) -> str:
    shown = ""
    for c, name in zip(row, names, strict=False):
        if c == 0:
            continue
        size = "" if abs(c) == 1 else str(abs(c)) if c.denominator == 1 else f"({abs(c)})"
        shown += f"{'-' if c < 0 else ''}{size}{name}" if not shown else f" {'-' if c < 0 else '+'} {size}{name}"
    return f"{shown} = {row[-1]}"


def _determinant(rows: list[list[int]]) -> int:
    if len(rows) == 2:
        return rows[0][0] * rows[1][1] - rows[0][1] * rows[1][0]
    a, b, c = rows
    return a[0] * (b[1] * c[2] - b[2] * c[1]) - a[1] * (b[0] * c[2] - b[2] * c[0]) + a[2] * (b[0] * c[1] - b[1] * c[0])


def quadratic(v: Voice, d: int) -> Problem:
    """A quadratic with whole roots, through its discriminant."""
    x = v.rng.choice("xyztun")
    low, high = sorted(v.rng.sample(range(-8 - 2 * d, 9 + 2 * d), 2))
    a = v.rng.choice((1, 1, 1, 2, 3, -1, -2)[: 3 + d])
    b, c = -a * (low + high), a * low * high
    shown = _sum([(a, f"{x}²"), (b, x), (c, "")])
    steps = [
        v.say(
            "[Compare with|This has the form|Match it with] a{x}² + b{x} + c = 0: [here|so] a = {a}, b = {b}[,| and] c = {c}.",
            x=x,
            a=a,
            b=b,
            c=c,
        )
    ]
    under = b * b - 4 * a * c
    steps.append(
        v.say(
            "[The discriminant is|First the discriminant:|Under the root stands] b² - 4ac = ({b})² - 4 × ({a}) × ({c}) = {b2} - ({p}) = {u}.",
            a=a,
            b=b,
            c=c,
            b2=b * b,
            p=4 * a * c,
            u=under,
        )
    )
    root = abs(a) * (high - low)
    steps.append(
        v.say(
            "[Its square root is|Since {r} × {r} = {u}, the root is|{u} is a square, with root] {r}[, so there are two solutions|].",
            r=root,
            u=under,
        )
    )
    for sign in ("+", "-"):
        top = -b + root if sign == "+" else -b - root
        steps.append(
            v.say(
                "[With the {w} sign|Taking {w}|For {w}]: {x} = ({m} {s} {r}) / ({t}) = {top}/({t}) = {v}.",
                w="plus" if sign == "+" else "minus",
                s=sign,
                x=x,
                m=-b,
                r=root,
                t=2 * a,
                top=top,
                v=Fraction(top, 2 * a),
            )
        )
    steps.append(
        v.say(
            "[As a check|Vieta's rule agrees|Test]: [the roots add up to|their sum is] {s} = -b/a and [multiply to|their product is] {p} = c/a.",
            s=low + high,
            p=low * high,
        )
    )
    question = v.say(
        "[Find all solutions of {shown} = 0.|Solve {shown} = 0.|Which numbers {x} satisfy {shown} = 0?|Find both roots of {shown} = 0.] [Write|List] the [smaller|lesser] one first.",
        x=x,
        shown=shown,
    )
    return Problem(question, steps, f"{low}, {high}", "quadratic", {"a": a, "b": b, "c": c})


def greatest_divisor(v: Voice, d: int) -> Problem:
    """Greatest common divisor (or least common multiple) by Euclid's algorithm."""
    common = v.number(2, 12 + 6 * d)
    a, b = common * v.number(3, 20 + 15 * d), common * v.number(3, 20 + 15 * d)
    if a == b:
        a += common
    lcm_wanted = v.number(0, 2) == 0
    thing, place = v.rng.choice(THINGS), v.rng.choice(PLACES)
    if lcm_wanted:
        question = v.say(
            "[Two lights flash every {a} and every {b} seconds; they just flashed together. After how many seconds do they do so again|In {place} one tram comes every {a} seconds and another every {b} seconds. If both come now, after how many seconds do they next come together|What is the least common multiple of {a} and {b}]?",
            a=a,
            b=b,
            place=place,
        )
    else:
        question = v.say(
            "[{a} {t} and {b} bags are to be put into equal groups with none left over. What is the largest possible number of groups|A hall of {a} by {b} cm is to be covered with equal square tiles. What is the longest possible side of a tile in cm|What is the greatest common divisor of {a} and {b}]?",
            a=a,
            b=b,
            t=thing,
        )
    steps = [
        v.say(
            "[Euclid's algorithm|We use Euclid's algorithm, which] [replaces the pair by the smaller number and the remainder|divides again and again until nothing remains].[| The last divisor is the greatest common divisor.]"
        )
    ]
    big, small = max(a, b), min(a, b)
    while small:
        q, r = divmod(big, small)
        steps.append(
            v.say(
                "{big} = {q} × {small} + {r}[, remainder {r}|, so {r} is left|; keep {small} and {r}|].",
                big=big,
                q=q,
                small=small,
                r=r,
            )
        )
        big, small = small, r
    steps.append(
        v.say(
            "[The remainder is zero|Nothing is left|The division comes out even], so the greatest common divisor is {g}.",
            g=big,
        )
    )
    answer = big
    if lcm_wanted:
        answer = a * b // big
        steps.append(
            v.say(
                "[The least common multiple is the product divided by it|Product over common divisor gives the least common multiple]: {a} × {b} / {g} = {a} × {q} = {l}.",
                a=a,
                b=b,
                g=big,
                q=b // big,
                l=answer,
            )
        )
    return Problem(question, steps, str(answer), "lcm" if lcm_wanted else "gcd", {"a": a, "b": b})


def power_remainder(v: Voice, d: int) -> Problem:
    """A large power modulo m by repeated squaring."""
    base, exponent, modulus = v.number(2, 20 + 10 * d), v.number(9, 30 + 80 * d), v.number(7, 40 + 30 * d)
    question = v.say(
        "[What remainder does {b}^{e} leave when divided by {m}?|Compute {b}^{e} mod {m}.|Find the remainder of {b} to the power {e} on division by {m}.|A counter with {m} positions is moved on {b}^{e} times from 0. Where does it stop?]",
        b=base,
        e=exponent,
        m=modulus,
    )
    bits = bin(exponent)[2:]
    steps = [
        v.say(
            "[Write the exponent in binary|In binary the exponent is|The binary form of the exponent steers the squaring]: {e} = {bits}.",
            e=exponent,
            bits=bits,
        )
    ]
    steps.append(
        v.say(
            "[Read its digits from the left: square at each digit, and multiply by {b} where the digit is 1|For each digit from the left we square, and at a 1 also multiply by {b}], always [modulo|reducing modulo] {m}.",
            b=base,
            m=modulus,
        )
    )
    value = base % modulus
    steps.append(v.say("[The first digit gives|Start with|We begin at] {v}.", v=value))
    for bit in bits[1:]:
        square = value * value
        line = v.say("[Square|Squaring]: {v}² = {s} ≡ {r}", v=value, s=square, r=square % modulus)
        value = square % modulus
        if bit == "1":
            product = value * base
            line += v.phrase(
                "[; the digit is 1, so times {b}:|, then multiply by {b} because of the 1:|; digit 1:] {v} × {b} = {p} ≡ {r}",
                b=base,
                v=value,
                p=product,
                r=product % modulus,
            )
            value = product % modulus
        else:
            line += v.phrase("[; digit 0, nothing more|, and the 0 asks for nothing else|]")
        steps.append(line + ".")
    steps.append(v.say("[All digits are used|The digits are done|No digit is left]: the remainder is {v}.", v=value))
    return Problem(
        question, steps, str(value), "power_remainder", {"base": base, "exponent": exponent, "modulus": modulus}
    )


def congruence(v: Voice, d: int) -> Problem:
    """a x = b modulo a number prime to a, by the extended Euclidean algorithm."""
    modulus = v.number(11, 40 + 40 * d)
    a = v.number(3, modulus - 1)
    while _gcd(a, modulus) != 1:
        a += 1
    b = v.number(1, modulus - 1)
    question = v.say(
        "[Find the smallest non-negative x with {e}.|Solve, for x from 0 to {top}, {e}.|Which x between 0 and {top} satisfies {e}?]",
        e=f"{a}x ≡ {b} (mod {modulus})",
        a=a,
        b=b,
        m=modulus,
        top=modulus - 1,
    )
    steps = [
        v.say(
            "[We need the inverse of {a} modulo {m}|To undo the multiplication by {a} we look for its inverse modulo {m}][, and find it with Euclid's algorithm|; Euclid's algorithm, run with a record, gives it].",
            a=a,
            m=modulus,
        )
    ]
    r0, r1, s0, s1 = modulus, a % modulus, 0, 1
    while r1:
        q = r0 // r1
        r0, r1, s0, s1 = r1, r0 - q * r1, s1, s0 - q * s1
        if r1:
            steps.append(
                v.say(
                    "[The quotient is {q}|Quotient {q}|Dividing gives {q}], [remainder|and the remainder is] {r}[, and|;] {r} ≡ {s} × {a}.",
                    q=q,
                    r=r1,
                    s=s1,
                    a=a,
                )
            )
    inverse = s0 % modulus
    steps.append(
        v.say(
            "[So|Therefore|Hence] {i} × {a} = {p} ≡ 1 (mod {m})[, and the inverse is {i}|: {i} is the inverse].",
            i=inverse,
            a=a,
            p=inverse * a,
            m=modulus,
        )
    )
    answer = inverse * b % modulus
    steps.append(
        v.say(
            "[Multiply both sides by it|Apply it to the right side]: x ≡ {i} × {b} = {p} ≡ {x} (mod {m}).",
            i=inverse,
            b=b,
            p=inverse * b,
            x=answer,
            m=modulus,
        )
    )
    steps.append(
        v.say(
            "[Check|Test|Indeed]: {a} × {x} = {p}, [which leaves|and that leaves] {b} on division by {m}.",
            a=a,
            x=answer,
            p=a * answer,
            b=b,
            m=modulus,
        )
    )
    return Problem(question, steps, str(answer), "congruence", {"a": a, "b": b, "modulus": modulus})


def _gcd(a: int, b: int) -> int:
    while b:
        a, b = b, a % b
    return a


def factorisation(v: Voice, d: int) -> Problem:
    """Prime factors by trial division; sometimes the number of divisors is asked for."""
    number = 1
    for _ in range(3 + d):
        number *= v.rng.choice((2, 2, 2, 3, 3, 5, 7, 11, 13, 17, 19, 23))
        if number > 40_000 * d:
            break
    count_wanted = v.number(0, 1) == 1
    question = v.say(
        "[How many positive divisors does {n} have|In how many ways can {n} chairs be set out in equal rows (row lengths from 1 to {n})|What is the number of divisors of {n}]?"
        if count_wanted
        else "[Write {n} as a product of primes|Find the prime factorisation of {n}|Split {n} into prime factors] in ascending order, [repeated factors written out|each as often as it occurs][.|, with × between them.]",
        n=number,
    )
    steps = [
        v.say(
            "[Divide by the smallest prime as long as that works, then go on to the next|Try the primes one after the other, from 2 upwards]."
        )
    ]
    rest, factors, prime = number, [], 2
    while rest > 1:
        if prime * prime > rest:
            prime = rest
            steps.append(
                v.say(
                    "[No prime up to the square root of {r} divides it|{r} has no smaller factor], so {r} [is itself|must be] prime.",
                    r=rest,
                )
            )
        if rest % prime == 0:
            rest //= prime
            factors.append(prime)
            steps.append(
                v.say(
                    "{p} [divides it|goes in|is a factor]: {a} = {p} × {r}[, leaving {r}|].",
                    p=prime,
                    a=rest * prime,
                    r=rest,
                )
            )
        else:
            prime += 1
            while any(prime % k == 0 for k in range(2, prime)):
                prime += 1
    product = " × ".join(map(str, factors))
    steps.append(v.say("[Altogether|Collecting the factors|So] {n} = {p}.", n=number, p=product))
    answer = product
    if count_wanted:
        kinds = sorted(set(factors))
        count = 1
        for p in kinds:
            count *= factors.count(p) + 1
            steps.append(
                v.say(
                    "{p} [occurs {k} times|has exponent {k}|appears to the power {k}], [so a divisor may contain it in {m} ways|which leaves {m} choices (0 to {k})].",
                    p=p,
                    k=factors.count(p),
                    m=factors.count(p) + 1,
                )
            )
        steps.append(
            v.say(
                "[The choices multiply|Multiply the choices]: {e} = {c}.",
                e=" × ".join(str(factors.count(p) + 1) for p in kinds),
                c=count,
            )
        )
        answer = str(count)
    return Problem(question, steps, answer, "divisor_count" if count_wanted else "prime_factors", {"number": number})


def base_change(v: Voice, d: int) -> Problem:
    """A number from one base to another."""
    source, target = v.rng.sample((2, 3, 4, 5, 6, 7, 8, 9, 12, 16), 2)
    number = v.number(30, 200 * d * d + 100)
    digits = _in_base(number, source)
    question = v.say(
        "[Write the base {s} number {x} in base {t}.|Convert {x} from base {s} to base {t}.|{x} is written in base {s}. How is it written in base {t}?] [Use A for ten, B for eleven and so on.|Digits beyond 9 are letters, A for ten onwards.]",
        s=source,
        t=target,
        x=digits,
    )
    steps = [
        v.say(
            "[Go through ordinary numbers|First find its value|We pass through base ten]: [take the digits from the left, each time multiplying by {s} and adding|multiply by {s} and add the next digit, from the left].",
            s=source,
        )
    ]
    value = 0
    for digit in digits:
        new = value * source + int(digit, 36)
        if value:
            steps.append(
                v.say(
                    "[Digit|Next digit|With digit] {g}: {a} × {s} + {k} = {n}.",
                    g=digit,
                    a=value,
                    s=source,
                    k=int(digit, 36),
                    n=new,
                )
            )
        else:
            steps.append(v.say("[The leading digit is worth|Begin with] {n}.", n=new))
        value = new
    steps.append(
        v.say(
            "[The value is {n}|So it stands for {n}]. [Now divide by {t} and keep the remainders|For base {t}, divide again and again and write down what is left over].",
            n=value,
            t=target,
        )
    )
    rest, written = value, ""
    while rest:
        rest, last = divmod(rest, target)
        digit = "0123456789ABCDEF"[last]
        written = digit + written
        steps.append(
            v.say(
                "{a} ÷ {t} = {q}, remainder {k}[|, digit {g}][, so far {w}|; read upwards: {w}|].",
                a=rest * target + last,
                t=target,
                q=rest,
                k=last,
                g=digit,
                w=written,
            )
        )
    return Problem(question, steps, written, "base_change", {"digits": digits, "source": source, "target": target})


def _in_base(number: int, base: int) -> str:
    shown = ""
    while number:
        number, last = divmod(number, base)
        shown = "0123456789ABCDEF"[last] + shown
    return shown


def sequence_sum(v: Voice, d: int) -> Problem:
    """The sum of the first terms of an arithmetic or geometric sequence."""
    who, thing = v.rng.choice(NAMES), v.rng.choice(THINGS)
    if v.number(0, 1):
        first, step, count = v.number(2, 30), v.number(2, 9 + d), v.number(8, 12 + 9 * d)
        question = v.say(
            "[{who} puts {a} {t} into the first box and {s} more into each next box. How many {t} are in the first {n} boxes together|A hall has {a} seats in its first row, and each row has {s} more than the one before. How many seats have the first {n} rows in all|A sequence starts at {a} and grows by {s} each time. What is the sum of its first {n} terms]?",
            who=who,
            a=first,
            t=thing,
            s=step,
            n=count,
        )
        last = first + (count - 1) * step
        total = count * (first + last) // 2
        steps = [
            v.say(
                "[Each term is {s} above the one before, an arithmetic sequence|The steps are equal, so the sequence is arithmetic].",
                s=step,
            ),
            v.say(
                "[From the first term to term {n} there are {m} steps|Term number {n} lies {m} steps further on][, so it is|:] {a} + {m} × {s} = {l}.",
                n=count,
                m=count - 1,
                a=first,
                s=step,
                l=last,
            ),
            v.say(
                "[Pair the first with the last, the second with the last but one|Written forwards and backwards, the terms pair up]: [every pair makes|each pair adds up to] {a} + {l} = {p}.",
                a=first,
                l=last,
                p=first + last,
            ),
            v.say(
                "[There are {n} terms, that is {n}/2 pairs|{n} terms make {n}/2 pairs]: {n} × {p} / 2 = {x} / 2 = {t}.",
                n=count,
                p=first + last,
                x=count * (first + last),
                t=total,
            ),
        ]
        return Problem(
            question, steps, str(total), "sequence_sum", {"first": first, "add": step, "times": 1, "count": count}
        )
    first, ratio, count = v.number(1, 9), v.number(2, 3 + d // 2), v.number(4, 5 + d)
    question = v.say(
        "[{who} gets {a} {t} on the first day and each day {r} times as many as the day before. How many is that in {n} days|A sequence starts with {a}, and every term is {r} times the previous one. What do its first {n} terms add up to|A rumour reaches {a} people in the first hour and {r} times as many new ones in each next hour. How many hear it within {n} hours]?",
        who=who,
        a=first,
        t=thing,
        r=ratio,
        n=count,
    )
    term, total, steps = first, first, [v.say("[The first term is|We start at|Begin with] {a}.", a=first)]
    for k in range(2, count + 1):
        term *= ratio
        total += term
        steps.append(
            v.say(
                "[Term|Number] {k}: {p} × {r} = {x}[, and|;] [the sum is now|so far the sum is|adding it brings us to] {t}.",
                k=k,
                p=term // ratio,
                r=ratio,
                x=term,
                t=total,
            )
        )
    steps.append(
        v.say(
            "[The formula agrees|As a check]: {a} × ({r}^{n} - 1) / ({r} - 1) = {a} × {x} / {q} = {t}.",
            a=first,
            r=ratio,
            n=count,
            x=ratio**count - 1,
            q=ratio - 1,
            t=total,
        )
    )
    return Problem(
        question, steps, str(total), "sequence_sum", {"first": first, "add": 0, "times": ratio, "count": count}
    )


TOPICS: tuple[Topic, ...] = (
    linear_equation,
    linear_system,
    quadratic,
    greatest_divisor,
    power_remainder,
    congruence,
    factorisation,
    base_change,
    sequence_sum,
)
