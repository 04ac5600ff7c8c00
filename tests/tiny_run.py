"""A complete small run through the real recipe, engine and stages: what the tests of the run's readers look at."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from pathlib import Path

from pipeline.engine.account import PartAccount
from pipeline.engine.executors import opened
from pipeline.engine.plan import PhysicalStep, Plan, Status, make_plan
from pipeline.engine.printed import plan_json
from pipeline.engine.run import Driver, Manifest
from pipeline.engine.storage import Storage
from pipeline.engine.task import read_table, table_path
from pipeline.ingest.paths import input_file
from pipeline.recipe import Recipe, load_recipe

PAGES, FILES = 120, 40
WORDS = [
    a + b for a in ("ka", "lo", "mir", "ten", "sab", "ru", "vel", "dor", "ni", "pra") for b in ("n", "sta", "rek", "lum", "ti", "gor")
]  # fmt: skip

RECIPE = """
name: tiny
seed: 7
tokenizer: {{train: {{vocabulary: 600, from: [web, code]}}}}
datasets:
  books:
    from: {{kind: jsonl, paths: "{folder}/books.jsonl", columns: {{text: text, origin: url}}}}
  web:
    from: {{kind: jsonl, paths: "{folder}/web.jsonl", columns: {{text: text, origin: url}}, language: en}}
    steps:
      - {{kind: exact_dedup, partitions: 2}}
      - {{kind: minhash_dedup, partitions: 2}}
      - {{kind: score, scorer: edu, train: {{positive: [books], sample_documents: 60, hash_buckets: 2000, epochs: 2}}}}
      - {{kind: quality_ranks, scores: [edu], min_documents: 20}}
      - {{kind: quality_levels, levels: {{low: 0-9, high: 10-19}}}}
  code:
    from: {{kind: jsonl, paths: "{folder}/code.jsonl", columns: {{text: text, origin: url, repository: repo, path: path}}}}
    steps:
      - {{kind: code_language}}
      - {{kind: fim, rate: 0.5}}
  repos:
    from: code@code_language
    steps:
      - {{kind: repository_documents, max_chars: 6000}}
curriculum:
  epochs:
    web: {{pin: {{high: 3}}, over: [general], max: 4}}
    repos: {{max: 6}}
  phases:
    - {{name: general, tokens: {general}, sequence_length: 64, packing: concatenate, mix: {{web: 0.7, code: 0.3}}}}
    - {{name: repo_code, tokens: {repos}, sequence_length: 256, packing: best_fit, mix: {{repos: 1.0}}}}
outputs: {{arrow: {arrow}, megatron: {{global_batch_size: 4}}, shards: 2}}
"""


class Silent:
    """Nobody watches."""

    def plan(self, plan: Plan, statuses: Mapping[str, Status]) -> None: ...

    def step_started(self, step: PhysicalStep, parts: int, parts_done: int) -> None: ...

    def part_done(self, step: PhysicalStep, account: PartAccount) -> None: ...

    def step_done(self, step: PhysicalStep, manifest: Manifest, reused: bool) -> None: ...


def sentence(rng: random.Random, words: int) -> str:
    return " ".join(rng.choice(WORDS) for _ in range(words)) + "."


def write_corpus(folder: Path) -> None:
    """Pages (one twice word for word, one nearly twice, one line broken), books, and two repositories."""
    rng = random.Random(3)
    folder.mkdir(parents=True, exist_ok=True)
    texts = [" ".join(sentence(rng, 12) for _ in range(8)) for _ in range(PAGES)]
    pages = [{"url": f"http://pages.test/{n}.html", "text": text} for n, text in enumerate(texts)]
    pages.append({"url": "http://pages.test/copy-of-5.html", "text": texts[5]})
    pages.append({"url": "http://pages.test/nearly-9.html", "text": texts[9] + " " + WORDS[0]})
    lines = [json.dumps(page) for page in pages]
    (folder / "web.jsonl").write_text("\n".join([*lines, "{broken"]) + "\n")
    books = [{"url": f"book-{n}", "text": " ".join(sentence(rng, 30) for _ in range(4))} for n in range(30)]
    (folder / "books.jsonl").write_text("\n".join(map(json.dumps, books)) + "\n")
    files = [
        {
            "repo": f"r{n % 2}", "path": f"pkg/m{n:02d}.py", "url": f"r{n % 2}@1:pkg/m{n:02d}.py",
            "text": f"# module {n}\n" + "".join(f"def f{k}():\n    return '{sentence(rng, 4)}'\n" for k in range(6)),
        }
        for n in range(FILES)
    ]  # fmt: skip
    (folder / "code.jsonl").write_text("\n".join(map(json.dumps, files)) + "\n")


def recipe(folder: Path, *, arrow: bool = True, general: int = 36_000, repos: int = 6_000) -> Recipe:
    """The recipe over the corpus in `folder`, which is written where it is absent."""
    if not (folder / "web.jsonl").exists():
        write_corpus(folder)
    path = folder / "tiny.yaml"
    path.write_text(RECIPE.format(folder=folder, arrow=str(arrow).lower(), general=general, repos=repos))
    return load_recipe(path)


def planned(loaded: Recipe, address: str) -> tuple[Plan, Storage]:
    """The plan, with `plan.json` written as the command line writes it."""
    plan = make_plan(loaded.chains(), loaded.seed, input_file, lambda column: [])
    storage = Storage(address)
    described = plan_json(plan)
    described["name"], described["datasets"], described["mixed"] = loaded.name, list(loaded.datasets), loaded.mixed()
    storage.write_json("plan.json", described)
    return plan, storage


def make(loaded: Recipe, address: str) -> tuple[Plan, dict[str, Manifest]]:
    """Run it in this process."""
    plan, storage = planned(loaded, address)
    with opened("local", storage.address, workers=1, cluster=None) as executor:
        done = Driver(plan, storage, executor, Silent()).run()
    trained = read_table(storage, table_path(plan.step("tokenizer/train").folder))
    storage.write("tokenizer.json", trained["tokenizer_json"][0].as_py())
    return plan, done
