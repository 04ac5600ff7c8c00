"""Algorithms on graphs, tables and trees: shortest paths, components, coins, knapsacks, heaps, search trees, stacks."""

from __future__ import annotations

from typing import Any

from pipeline.synth.procedural.wording import NAMES, PLACES, THINGS, WORDS, Problem, Topic, Voice


def _roads(v: Voice, d: int, weighted: bool = True) -> tuple[list[str], list[tuple[str, str, int]]]:
    towns = v.some(PLACES, 4 + (d + 1) // 2)
    roads = [(towns[v.number(0, k - 1)], towns[k], v.number(2, 20) if weighted else 1) for k in range(1, len(towns))]
    known = {frozenset(road[:2]) for road in roads}
    for _ in range(2 + d):
        a, b = v.some(towns, 2)
        if frozenset((a, b)) not in known:
            known.add(frozenset((a, b)))
            roads.append((a, b, v.number(2, 30) if weighted else 1))
    v.rng.shuffle(roads)
    return towns, roads


def shortest_path(v: Voice, d: int) -> Problem:
    """Dijkstra's algorithm between towns."""
    towns, roads = _roads(v, d)
    start, goal = towns[0], towns[-1]
    unit = v.rng.choice(("km", "minutes", "coins", "miles"))
    told = "; ".join(
        v.phrase("[{a} to {b}: {w}|between {a} and {b} {w}|{a} and {b}, {w}] {u}", a=a, b=b, w=w, u=unit)
        for a, b, w in roads
    )
    question = v.say(
        "[These roads can be used in both directions|A map shows these two-way roads|Roads (both ways)]: {told}. [What is the least total from {s} to {g}|How many {u} does the best way from {s} to {g} take|{who} wants to get from {s} to {g} as cheaply as possible: what is the total]?",
        told=told,
        s=start,
        g=goal,
        u=unit,
        who=v.rng.choice(NAMES),
    )
    steps = [
        v.say(
            "[Dijkstra's algorithm|We settle towns in order of distance, as Dijkstra's algorithm does]: [the nearest open town is final, and its roads may improve others|always take the nearest town that is not settled and try its roads]."
        )
    ]
    best: dict[str, int] = {start: 0}
    settled: list[str] = []
    before: dict[str, str] = {}
    while True:
        here = min((t for t in towns if t in best and t not in settled), key=lambda t: (best[t], towns.index(t)))
        settled.append(here)
        if here == goal:
            steps.append(
                v.say(
                    "{t} [is next, at|comes up with] {n}[; it is the goal, so we stop|, and that is where we want to go].",
                    t=here,
                    n=best[here],
                )
            )
            break
        found = []
        for a, b, w in roads:
            if here in (a, b):
                there = b if here == a else a
                if there not in settled and best[here] + w < best.get(there, 10**9):
                    best[there] = best[here] + w
                    before[there] = here
                    found.append(v.phrase("{t} [by|in|at] {a} + {w} = {n}", t=there, a=best[here], w=w, n=best[there]))
        steps.append(
            v.say(
                "[Settle|Take|Nearest is] {t} (at {n})[. From here|; it leads to|. Its roads give]: {f}.",
                t=here,
                n=best[here],
                f="; ".join(found) or v.phrase("[nothing better|no improvement]"),
            )
        )
    way = [goal]
    while way[-1] != start:
        way.append(before[way[-1]])
    steps.append(
        v.say(
            "[The way is|Going back along the improvements, the route is|So the route runs] {w}, {n} {u} [in all|altogether].",
            w=" - ".join(reversed(way)),
            n=best[goal],
            u=unit,
        )
    )
    return Problem(
        question,
        steps,
        str(best[goal]),
        "shortest_path",
        {"roads": [list(r) for r in roads], "start": start, "goal": goal},
    )


def components(v: Voice, d: int) -> Problem:
    """Connected groups by union-find."""
    people = v.some(NAMES, 6 + d)
    pairs = [tuple(v.some(people, 2)) for _ in range(4 + d)]
    question = v.say(
        "[In a group there are|At a meeting are|At a party meet] {n} people ({all}), and [these pairs know each other|the following pairs have met|these shook hands before]: {p}. [News passes along acquaintances. Into how many separate circles does the group fall|People belong to one circle if a chain of such pairs joins them. How many circles are there]?",
        n=len(people),
        all=", ".join(people),
        p="; ".join(v.phrase("{a} [and|with] {b}", a=a, b=b) for a, b in pairs),
    )
    group = {p: {p} for p in people}
    count = len(people)
    steps = [
        v.say(
            "[At first everyone is a circle of one: {n} circles|Start with {n} circles of one person each][. Each pair may join two|; every new link between two circles removes one].",
            n=count,
        )
    ]
    for a, b in pairs:
        if group[a] is group[b]:
            steps.append(
                v.say(
                    "{a} and {b} [already belong together|are in the same circle by now], [nothing changes|so the number stays {n}].",
                    a=a,
                    b=b,
                    n=count,
                )
            )
            continue
        joined = group[a] | group[b]
        for p in joined:
            group[p] = joined
        count -= 1
        steps.append(
            v.say(
                "{a} and {b} [join their circles|bring two circles together|link up]: [now {g} form one circle|{g} are one circle now|from here on {g} belong together]; {n} [circles are left|remain].",
                a=a,
                b=b,
                g=", ".join(p for p in people if p in joined),
                n=count,
            )
        )
    return Problem(question, steps, str(count), "components", {"people": people, "pairs": [list(p) for p in pairs]})


def task_order(v: Voice, d: int) -> Problem:
    """The alphabetically first order of tasks that respects what must come before what."""
    tasks = v.some(WORDS, 5 + (d + 1) // 2)
    hidden = v.rng.sample(tasks, len(tasks))
    rules = sorted({tuple(sorted(v.some(hidden, 2), key=hidden.index)) for _ in range(4 + d)})
    v.rng.shuffle(rules)
    question = v.say(
        "[Modules have to be built in an order that respects their dependencies|Tasks, each with a code word, have to be done one at a time|{who} schedules jobs named by code words]. {r}. [Whenever several are possible, the alphabetically first is taken|Ties are broken alphabetically]. [In which order are they done|What is the order]?",
        who=v.rng.choice(NAMES),
        r="; ".join(v.phrase("{a} [before|must precede|comes before|goes ahead of] {b}", a=a, b=b) for a, b in rules)
        + v.phrase("[. The whole list is|; all names:|. Names:] {t}", t=", ".join(sorted(tasks))),
    )
    waiting = {t: {a for a, b in rules if b == t} for t in tasks}
    order: list[str] = []
    steps = [
        v.say(
            "[At each moment only those can go whose predecessors are all done|We repeat: list what is free, take the first in the alphabet]."
        )
    ]
    while waiting:
        free = sorted(t for t, needs in waiting.items() if not needs)
        steps.append(
            v.say(
                "[Free are|Possible now:|Nothing holds back] {f}[. Take|; we take|; choose] {t}.",
                f=", ".join(free),
                t=free[0],
            )
        )
        order.append(free[0])
        del waiting[free[0]]
        for needs in waiting.values():
            needs.discard(free[0])
    return Problem(question, steps, ", ".join(order), "task_order", {"tasks": tasks, "rules": [list(r) for r in rules]})


def coins(v: Voice, d: int) -> Problem:
    """The fewest coins for an amount, by a table of all smaller amounts."""
    kinds = sorted({1, *v.rng.sample(range(2, 10), 2)})
    amount = v.number(9, 12 + 3 * d)
    question = v.say(
        "[In a country|On an island|In a game|At a fair in {p}] coins are worth {k}. [What is the smallest number of coins that makes {n} exactly|{who} pays exactly {n} with as few coins as possible. How many are needed]?",
        p=v.rng.choice(PLACES),
        k=v.listing(kinds),
        n=amount,
        who=v.rng.choice(NAMES),
    )
    best = [0]
    steps = [
        v.say(
            "[Taking the largest coin first may fail, so find the best number for every amount up to {n}|Let f(a) be the least number for the amount a; f(0) = 0, and f(a) is one more than the best f(a - coin)].",
            n=amount,
        )
    ]
    for a in range(1, amount + 1):
        options = [(best[a - k], k) for k in kinds if k <= a]
        few, coin = min(options)
        best.append(few + 1)
        steps.append(
            v.say(
                "[For|Amount] {a}: {o}[; the best is|, so we get|, hence] {f}[ with a {c}|, using {c}|].",
                a=a,
                o=v.phrase("[look at|compare|from] ") + " " + ", ".join(f"f({a - k}) = {n}" for n, k in options),
                f=few + 1,
                c=coin,
            )
        )
    steps.append(
        v.say("[So {n} needs|The table ends with|For {n} we read off] {f}[ coins|].", n=amount, f=best[amount])
    )
    return Problem(question, steps, str(best[amount]), "coins", {"kinds": kinds, "amount": amount})


def knapsack(v: Voice, d: int) -> Problem:
    """The most valuable choice within a weight limit, item by item."""
    things = v.some(THINGS, 3 + (d + 1) // 2)
    weights = [v.number(1, 6) for _ in things]
    values = [v.number(2, 25) for _ in things]
    limit = max(max(weights), sum(weights) // 2)
    told = "; ".join(
        v.phrase("[the {t}: weight {w}, worth {x}|{t} ({w} kg) worth {x}|{w} kg of {t} with value {x}]", t=t, w=w, x=x)
        for t, w, x in zip(things, weights, values, strict=True)
    )
    question = v.say(
        "[{who} may carry {l} kg|A rucksack holds {l} kg|A parcel may weigh {l} kg]. [To choose from|On offer]: {told}. [Each lot can be taken once, whole or not at all|Nothing can be split, and each lot exists once]. [What is the largest total value|How much can the load be worth at most]?",
        who=v.rng.choice(NAMES),
        l=limit,
        told=told,
    )
    best = [0] * (limit + 1)
    steps = [
        v.say(
            "[Keep the best value for every limit from 0 to {l} and allow the lots one by one|We build a row of best values for the limits 0 to {l}, adding one lot at a time].",
            l=limit,
        )
    ]
    for t, w, x in zip(things, weights, values, strict=True):
        new = list(best)
        for room in range(w, limit + 1):
            new[room] = max(best[room], best[room - w] + x)
        changed = sum(a != b for a, b in zip(new, best, strict=True))
        best = new
        steps.append(
            v.say(
                "[Allow|With|Now also] the {t} ({w} kg, {x}): [{c} entries get better|it improves {c} places|{c} values rise]; [the row is|we have|row:] {r}.",
                t=t,
                w=w,
                x=x,
                c=changed,
                r=" ".join(map(str, best)),
            )
        )
    steps.append(
        v.say(
            "[The last entry belongs to the full limit|At {l} kg stands the answer|For the limit {l} we read]: {a}.",
            l=limit,
            a=best[-1],
        )
    )
    return Problem(question, steps, str(best[-1]), "knapsack", {"weights": weights, "values": values, "limit": limit})


def rising(v: Voice, d: int) -> Problem:
    """The length of the longest increasing subsequence."""
    values = v.rng.sample(range(1, 60), 6 + d)
    question = v.say(
        "[What is the length of the longest increasing subsequence of|How many numbers can be kept at most so that what is kept increases, in] {l}?",
        l=", ".join(map(str, values)),
    )
    lengths: list[int] = []
    steps = [
        v.say(
            "[For each number, find the longest rising choice that ends there|Let the score of a number be the length of the longest increasing subsequence ending in it]."
        )
    ]
    for k, x in enumerate(values):
        smaller = [(lengths[j], values[j]) for j in range(k) if values[j] < x]
        if smaller:
            length, last = max(smaller)
            lengths.append(length + 1)
            steps.append(
                v.say(
                    "{x} [can follow|may come after|extends] {y} (score {s})[, so it scores|: its score is|, which makes] {n}.",
                    x=x,
                    y=last,
                    s=length,
                    n=length + 1,
                )
            )
        else:
            lengths.append(1)
            steps.append(
                v.say(
                    "{x} [has nothing smaller before it|can only start|follows no smaller number], [score 1|so its score is 1].",
                    x=x,
                )
            )
    steps.append(
        v.say("[The largest score is|The best of all scores is|So the longest has length] {n}.", n=max(lengths))
    )
    return Problem(question, steps, str(max(lengths)), "rising", {"values": values})


def search_tree(v: Voice, d: int) -> Problem:
    """Keys put into a binary search tree, then read out in a given order."""
    keys: list[Any] = list(v.some(WORDS, 5 + d) if v.number(0, 1) else v.rng.sample(range(1, 99), 5 + d))
    way = v.rng.choice(("preorder", "postorder", "level order"))
    question = v.say(
        "[{who} inserts {k} one by one into an empty binary search tree|An empty binary search tree receives, in this order, {k}|A binary search tree grows by the keys {k}, in that order]. [In which order does a {w} walk visit the keys|What is the {w} sequence of the tree|Which sequence does a {w} traversal give]?",
        who=v.rng.choice(NAMES),
        k=", ".join(map(str, keys)),
        w=way,
    )
    left: dict[Any, Any] = {}
    right: dict[Any, Any] = {}
    root = keys[0]
    steps = [v.say("{k} [becomes the root|is the root|stands at the top].", k=root)]
    for key in keys[1:]:
        here, path = root, []
        while True:
            smaller = key < here
            side = left if smaller else right
            path.append(v.phrase("[{s} of|go {s} at|{s} at] {h}", s="left" if smaller else "right", h=here))
            if here not in side:
                side[here] = key
                break
            here = side[here]
        steps.append(
            v.say(
                "{k}: {p}[; it becomes the {s} child of {h}|, and there it hangs below {h}|; free place, below {h}].",
                k=key,
                p=", ".join(path),
                s="left" if smaller else "right",
                h=here,
            )
        )
    if way == "level order":
        visited, level = [], [root]
        while level:
            visited += level
            level = [side[k] for k in level for side in (left, right) if k in side]
        rule = "[Go down level by level, each from the left|Read each level from left to right]"
    else:
        visited, stack = [], [root]
        while stack:  # root, right, left reversed is left, right, root
            key = stack.pop()
            visited.append(key)
            first, second = (right, left) if way == "preorder" else (left, right)
            stack += [side[key] for side in (first, second) if key in side]
        if way == "postorder":
            visited.reverse()
        rule = (
            "[Visit a key, then its left part, then its right part|Every key comes before the parts below it, left part first]"
            if way == "preorder"
            else "[Visit the left part, then the right part, then the key|Every key comes after both parts below it]"
        )
    answer = ", ".join(map(str, visited))
    steps.append(v.say(rule + ": {a}.", a=answer))
    return Problem(question, steps, answer, "search_tree", {"keys": keys, "way": way})


def heap(v: Voice, d: int) -> Problem:
    """Insertions into a binary min-heap kept in an array."""
    values = v.rng.sample(range(1, 99), 5 + d)
    question = v.say(
        "[{who} inserts {l} one by one into an empty binary min-heap|Into an empty binary min-heap go, one by one, {l}|A priority queue (binary min-heap in an array) receives {l}]. [What does its array look like afterwards|Which order do the numbers have in its array]?",
        who=v.rng.choice(NAMES),
        l=", ".join(map(str, values)),
    )
    array: list[int] = []
    steps = [
        v.say(
            "[A new number goes to the end and rises while it is smaller than its parent|Put each number at the end, then exchange it with its parent as long as the parent is larger]. [The parent of place i is (i - 1) // 2|Place i has its parent at (i - 1) // 2, from 0]."
        )
    ]
    for x in values:
        array.append(x)
        at, passed = len(array) - 1, []
        while at and array[(at - 1) // 2] > x:
            parent = (at - 1) // 2
            passed.append(str(array[parent]))
            array[at], array[parent] = array[parent], array[at]
            at = parent
        move = (
            v.phrase("[it rises past|exchanged with|goes above] {p}", p=" and ".join(passed))
            if passed
            else v.phrase("[it stays at the end|no exchange is needed|its parent is smaller]")
        )
        steps.append(
            v.say(
                "[Insert|Add|Next,] {x}: {m}[; array|. The array is|, giving] {a}.",
                x=x,
                m=move,
                a=", ".join(map(str, array)),
            )
        )
    return Problem(question, steps, ", ".join(map(str, array)), "heap", {"values": values})


def postfix(v: Voice, d: int) -> Problem:
    """An expression in postfix order, evaluated with a stack."""
    tokens, depth = [], 0
    for _ in range(2 + d):
        tokens.append(str(v.number(1, 12)))
        depth += 1
        while depth > 1 and v.number(0, 1):
            tokens.append(v.rng.choice("+-*+-"))
            depth -= 1
    tokens += [v.rng.choice("+-*+-") for _ in range(depth - 1)]
    question = v.say(
        "[Evaluate the postfix expression {t}.|A calculator in reverse Polish notation reads {t}. What does it show?|What is the value of the postfix expression {t}?|{who} types into a stack calculator: {t}. What is the result?]",
        who=v.rng.choice(NAMES),
        t=" ".join(tokens),
    )
    stack: list[int] = []
    steps = [
        v.say(
            "[Numbers are pushed on a stack; a sign takes the top two and pushes the result|Use a stack: push numbers, and let every sign combine the two on top]."
        )
    ]
    for part in tokens:
        if part.isdigit():
            stack.append(int(part))
            if len(stack) > 1 or v.number(0, 1):
                steps.append(
                    v.say(
                        "[Push|Read|Put down] {t}[; stack|: the stack is|, so we have] {s}.",
                        t=part,
                        s=" ".join(map(str, stack)),
                    )
                )
            continue
        b, a = stack.pop(), stack.pop()
        stack.append(a + b if part == "+" else a - b if part == "-" else a * b)
        steps.append(
            v.say(
                "[The sign|Now|Then] {t} [combines|takes] {a} and {b}[: {a} {t} {b} =|, which makes|, giving] {r}[; stack|. Stack:|; left is] {s}.",
                t=part,
                a=a,
                b=b if b >= 0 else f"({b})",
                r=stack[-1],
                s=" ".join(map(str, stack)),
            )
        )
    return Problem(question, steps, str(stack[0]), "postfix", {"tokens": tokens})


def josephus(v: Voice, d: int) -> Problem:
    """Who is left when every k-th person of a circle drops out."""
    people, skip = v.some(NAMES, 5 + d), v.number(2, 5)
    question = v.say(
        "{p} [stand in a circle, in this order|sit around a table in this order|play a counting game, standing in a circle in this order]. [Counting begins with {f}; every time, person number {k} leaves and counting goes on with the next|Starting with {f} they count to {k}; whoever says {k} is out, and the next one begins again with 1]. [Who is left|Who remains at the end|Who wins]?",
        p=v.listing(people),
        f=people[0],
        k=skip,
    )
    steps, circle, at = (
        [
            v.say(
                "[Follow the circle|Play it through|Go round], always [counting {k} places|moving on to number {k}].",
                k=skip,
            )
        ],
        list(people),
        0,
    )
    while len(circle) > 1:
        at = (at + skip - 1) % len(circle)
        gone = circle.pop(at)
        at %= len(circle)
        steps.append(
            v.say(
                "[The count ends at|Out goes|Number {k} is] {g}[; there remain|. Left:|, which leaves] {c}[, and {n} begins the next count|; {n} is next|].",
                k=skip,
                g=gone,
                c=", ".join(circle),
                n=circle[at],
            )
        )
    steps.append(v.say("{w} [is the last one|alone is left|has won].", w=circle[0]))
    return Problem(question, steps, circle[0], "josephus", {"people": people, "skip": skip})


def schedule(v: Voice, d: int) -> Problem:
    """The most talks that fit into one room, by earliest end."""
    talks = []
    for word in v.some(WORDS, 5 + d):
        begin = v.number(8, 19)
        talks.append((word, begin, begin + v.number(1, 5)))
    question = v.say(
        "[A room is wanted for these events|These talks ask for the same hall|Requests for one boat]: {t}. [One may begin when another ends|An end and a beginning may coincide]. [How many can take place at most|What is the largest number without overlap]?",
        t="; ".join(
            v.phrase("[{w} from {a} to {b}|{w} ({a}-{b})|{w}, {a} until {b}]", w=w, a=a, b=b) for w, a, b in talks
        ),
    )
    steps = [
        v.say(
            "[Choose by earliest end|Greedy by end time is optimal here]: [sort by the end and take whatever begins after the last one taken has ended|go through them by end time and take each that still fits]."
        )
    ]
    free, count = 0, 0
    for word, begin, end in sorted(talks, key=lambda talk: (talk[2], talk[1], talk[0])):
        if begin >= free:
            count += 1
            steps.append(
                v.say(
                    "{w} ({a} to {b}) [fits|can be taken|begins in time][, number {n}|; that makes {n}|: {n} so far].",
                    w=word,
                    a=begin,
                    b=end,
                    n=count,
                )
            )
            free = end
        else:
            steps.append(
                v.say(
                    "{w} [begins at {a}, before|starts at {a}, but the room is taken until|would begin at {a}, too early before] {f}[: skip it|, so no|; left out].",
                    w=word,
                    a=begin,
                    f=free,
                )
            )
    steps.append(v.say("[All have been looked at|That was the last]: {n} [events|of them] [fit|take place].", n=count))
    return Problem(question, steps, str(count), "schedule", {"talks": [[a, b] for _, a, b in talks]})


TOPICS: tuple[Topic, ...] = (
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
