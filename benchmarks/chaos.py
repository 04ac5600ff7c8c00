"""Kills a run again and again, and counts how often it ended in the bytes and rows of an undisturbed one.

    python benchmarks/chaos.py --kills 50                                       the quickstart: half an hour to an hour
    python benchmarks/chaos.py --kills 50 --recipe tests/recipes/larger.yaml
    python benchmarks/chaos.py --kills 10 --recipe tests/recipes/mini.yaml --s3 0.05    on S3, 5 % of requests spoiled
    python benchmarks/chaos.py --smoke                                          two kills over the small recipe

Rounds of `--per-run` kills alternate between a pool of processes (workers and drivers are killed) and a Ray cluster of two nodes on
this machine (nodes, workers and drivers); see tests/faults/chaos.py for what is killed when, and what is compared. On S3 the
rounds run on the pool, against a real S3 server on loopback behind a proxy that answers some requests with errors, slowly, or by half.
"""

from __future__ import annotations

import argparse
import contextlib
import shutil
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tests.faults.chaos import LOCAL_KINDS, RAY_KINDS, Kill, Round, Undisturbed, disturbed, planned, table, undisturbed  # noqa: E402
from tests.faults.ray_nodes import ray_nodes  # noqa: E402


def campaign(recipe: Path, kills: int, per_run: int, seed: int, folder: Path, ray: bool) -> list[Round]:
    """Rounds until `kills` kills were delivered."""
    peace = _peace(recipe, folder)
    rounds: list[Round] = []
    while (left := kills - sum(len(one.kills) for one in rounds)) > 0:
        number = len(rounds)
        on_ray = ray and number % 2 == 1
        plan = _turned(
            planned(seed + number, RAY_KINDS if on_ray else LOCAL_KINDS, min(per_run, left), peace.parts), number // 2
        )
        with ray_nodes() if on_ray else contextlib.nullcontext() as nodes:
            run = folder / f"round-{number}"
            rounds.append(disturbed(recipe, str(run), plan, peace, nodes, log=folder / "log.txt"))
        _say(rounds[-1], number, "ray" if on_ray else "pool")
        if rounds[-1].right:
            shutil.rmtree(run)
        if not rounds[-1].kills:
            sys.exit("a round went by without a kill: the recipe is too small for this plan")
    return rounds


def campaign_on_s3(recipe: Path, kills: int, per_run: int, seed: int, folder: Path, rate: float) -> list[Round]:
    """The same on a faulty object store, with the pool."""
    from tests.faults.s3_proxy import FaultyProxy  # servers for development only
    from tests.s3_server import moto

    peace = _peace(recipe, folder)
    rounds: list[Round] = []
    with moto("chaos") as url:
        while (left := kills - sum(len(one.kills) for one in rounds)) > 0:
            number = len(rounds)
            plan = _turned(planned(seed + number, LOCAL_KINDS, min(per_run, left), peace.parts), number)
            proxy = FaultyProxy(url, share=rate, seed=seed + number).start()
            through = {"AWS_ENDPOINT_URL": proxy.url}  # for the run alone: the comparison reads past the proxy
            run = f"s3://chaos/round-{number}"
            rounds.append(disturbed(recipe, run, plan, peace, environment=through, log=folder / "log.txt"))
            proxy.stop()
            spoiled = f"{proxy.faulty_share():.1%} of {proxy.counts.total()} requests spoiled"
            _say(rounds[-1], number, f"pool, s3, {spoiled}")
            if not rounds[-1].kills:
                sys.exit("a round went by without a kill: the recipe is too small for this plan")
    return rounds


def _turned(plan: list[Kill], by: int) -> list[Kill]:
    """The kinds in turn over rounds too: the first kill of a round is not always of the same kind."""
    kinds = [kill.kind for kill in plan]
    by %= len(kinds)
    return [Kill(kind, k.after_parts, k.delay, k.choice) for kind, k in zip(kinds[by:] + kinds[:by], plan, strict=True)]


def _peace(recipe: Path, folder: Path) -> Undisturbed:
    peace = undisturbed(recipe, folder)
    print(f"undisturbed: {peace.parts} parts in {peace.seconds:.0f} s, digest {peace.digest}", flush=True)
    return peace


def _say(done: Round, number: int, where: str) -> None:
    kinds = ", ".join(f"{kill.kind} after {kill.after_parts}" for kill in done.kills)
    end = (
        "right"
        if done.right
        else f"WRONG: ended {done.ended}, same digest {done.same_digest}, lost {done.lost}, doubled {done.doubled}"
    )
    print(f"round {number} ({where}): {kinds}: {end}", flush=True)
    for error in done.errors:
        print(f"  ended by itself: {error.strip().splitlines()[-1] if error.strip() else '?'}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--per-run", type=int, default=5)
    parser.add_argument("--recipe", type=Path, default=ROOT / "recipes" / "quickstart.yaml")
    parser.add_argument("--seed", type=int, default=45)
    parser.add_argument(
        "--s3", type=float, metavar="RATE", default=0.0, help="on S3, with this share of requests spoiled"
    )
    parser.add_argument("--no-ray", action="store_true", help="the pool of processes only")
    parser.add_argument("--folder", type=Path, default=None, help="where to work; a temporary folder by default")
    parser.add_argument("--smoke", action="store_true")
    options = parser.parse_args()
    recipe = options.recipe.resolve()
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="tokenmill-chaos-", dir=options.folder) as name:
        folder = Path(name)
        if options.smoke:
            rounds = campaign(ROOT / "tests" / "recipes" / "mini.yaml", 2, 2, options.seed, folder, ray=False)
        elif options.s3:
            rounds = campaign_on_s3(recipe, options.kills, options.per_run, options.seed, folder, options.s3)
        else:
            rounds = campaign(recipe, options.kills, options.per_run, options.seed, folder, not options.no_ray)
    print(table(rounds))
    print(f"in {time.monotonic() - started:.0f} s")
    if not all(one.right for one in rounds):
        sys.exit(1)


if __name__ == "__main__":
    main()
