"""A recipe: YAML -> typed settings -> the chains of steps that the engine plans.

    recipe = load_recipe("recipes/quickstart.yaml", overrides=["curriculum.scale=1e-7"])
    chains = recipe.chains()

Every error points at the recipe's file and line, names the legal values, and suggests the nearest. `extends: other.yaml`
merges this recipe over another (mappings by key; lists, among them `steps`, as a whole). `--set a.b=c` overrides one
value; a step is named by its name, its kind or its position: `datasets.code.steps.fim.rate=0.3`.
"""

from __future__ import annotations

import difflib
import io
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast, get_args

from pydantic import BaseModel, ConfigDict, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.error import YAMLError

from pipeline.catalog import STAGES, producers
from pipeline.curriculum.collect import Collect
from pipeline.curriculum.ledger import Ledger
from pipeline.curriculum.slices import Slices
from pipeline.curriculum.solver import SolveCurriculum
from pipeline.curriculum.spec import Curriculum
from pipeline.curriculum.supply import Supply
from pipeline.stage import DATASET, NOTHING, AsItIs, Chain, Exchange, Fold, OnError, Sink, Source, Stage, Step
from pipeline.tokens.blends import Blends
from pipeline.tokens.phase_shards import PhaseShards
from pipeline.tokens.shards import TokenShards
from pipeline.tokens.tokenize import PrepareShards, Tokenize
from pipeline.tokens.training import TrainTokenizer

__all__ = ["Recipe", "RecipeError", "load_recipe", "producers"]

MAX_RECIPE_BYTES = 1 << 20
MAX_NODES = 100_000  # a recipe whose aliases multiply beyond this is an attack, not a recipe
STEP_OPTIONS = ("kind", "name", "when", "expect_drop", "checkpoint", "on_error")
RESERVED_DATASETS = ("curriculum", "tokenizer")
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")
_STEP_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_.-]*")


class RecipeError(ValueError):
    """The recipe is wrong; the message says where, what is legal, and what was found."""


class _Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class TokenizerTraining(_Settings):
    """`tokenizer: {train: ...}`: a byte-level BPE trained inside the run."""

    vocabulary: int = 32_000
    datasets: list[str]
    sample_megabytes: float = 24.0


class TokenizerSettings(_Settings):
    """`tokenizer:` a `tokenizer.json` by path, or trained in the run."""

    path: str | None = None
    train: TokenizerTraining | None = None
    end_of_document: str = "<|endoftext|>"


class MegatronOutput(_Settings):
    """`outputs: {megatron: ...}`."""

    global_batch_size: int = 1024


class Outputs(_Settings):
    """`outputs:` what is written per phase."""

    arrow: bool = True
    megatron: MegatronOutput | bool = True
    shards: int = 16
    """Token shards per dataset and bucket."""


# ---------------------------------------------------------------------------------------------------- YAML with lines


class _Source:
    """Where values stand: the line of any key path, for error messages."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.lines: dict[tuple[str | int, ...], str] = {}

    def at(self, path: Sequence[str | int]) -> str:
        """`file:line` of the nearest known ancestor of `path`."""
        path = tuple(path)
        while path and path not in self.lines:
            path = path[:-1]
        return self.lines.get(path, f"{self.name}:1")

    def note(self, value: Any, name: str, path: tuple[str | int, ...] = (), budget: list[int] | None = None) -> Any:
        """Record the lines of everything under `value`; returns it as plain dicts and lists."""
        budget = budget if budget is not None else [MAX_NODES]
        budget[0] -= 1
        if budget[0] < 0:
            msg = f"{name}: the recipe unfolds into more than {MAX_NODES} values: its aliases multiply"
            raise RecipeError(msg)
        if isinstance(value, CommentedMap):
            plain: dict[str, Any] = {}
            for key in value:
                where = (*path, str(key))
                line = value.lc.key(key)[0] if key in (value.lc.data or {}) else value.lc.line
                self.lines[where] = f"{name}:{line + 1}"
                plain[str(key)] = self.note(value[key], name, where, budget)
            return plain
        if isinstance(value, CommentedSeq):
            for number in range(len(value)):
                self.lines[(*path, number)] = f"{name}:{value.lc.item(number)[0] + 1}"
            return [self.note(one, name, (*path, number), budget) for number, one in enumerate(value)]
        if isinstance(value, (bool, int, float, str)) or value is None:
            return _plain(value)
        msg = f"{self.at(path)}: {'.'.join(map(str, path))} is a {type(value).__name__}; a recipe holds text, numbers, lists and mappings"
        raise RecipeError(msg)


def _plain(value: Any) -> Any:
    """ruamel's scalars remember how they were written; identity and pydantic want the bare value."""
    if value is None or isinstance(value, bool):
        return value
    if type(value).__name__ == "ScalarBoolean":  # an int to Python
        return bool(value)
    return next(kind(value) for kind in (int, float, str) if isinstance(value, kind))


def _parse(text: str, name: str) -> CommentedMap:
    if len(text.encode()) > MAX_RECIPE_BYTES:
        msg = f"{name}: a recipe has at most {MAX_RECIPE_BYTES} bytes; this one has {len(text.encode())}"
        raise RecipeError(msg)
    try:
        value = YAML(typ="rt").load(io.StringIO(text))
    except (YAMLError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        msg = f"{name}{line}: not valid YAML: {getattr(error, 'problem', None) or error}"
        raise RecipeError(msg) from None
    if not isinstance(value, CommentedMap):
        msg = f"{name}:1: a recipe is a mapping with the keys name, seed, tokenizer, datasets, curriculum, outputs"
        raise RecipeError(msg)
    return value


def _merged(below: Any, above: Any) -> Any:
    if isinstance(below, dict) and isinstance(above, dict):
        return {**below, **{key: _merged(below.get(key), value) for key, value in above.items()}}
    return above


def _read(path: Path, source: _Source, seen: tuple[Path, ...] = ()) -> dict[str, Any]:
    if path.resolve() in seen:
        msg = f"{path}: recipes extend each other in a circle: {' -> '.join(map(str, [*seen, path]))}"
        raise RecipeError(msg)
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        msg = f"{path}: cannot read the recipe: {error.strerror}"
        raise RecipeError(msg) from None
    except UnicodeDecodeError as error:
        msg = f"{path}: a recipe is UTF-8 text; byte {error.start} is not"
        raise RecipeError(msg) from None
    document = _parse(text, path.name)
    parents = document.get("extends", [])
    below: dict[str, Any] = {}
    for parent in [parents] if isinstance(parents, str) else parents:
        below = _merged(below, _read(path.parent / str(parent), source, (*seen, path.resolve())))
    own = source.note(document, path.name)
    own.pop("extends", None)
    merged: dict[str, Any] = _merged(below, own)
    return merged


def _override(tree: dict[str, Any], assignment: str) -> None:
    """Apply `a.b.c=value` in place."""
    keys, sign, text = assignment.partition("=")
    if not sign or not keys:
        msg = f"--set {assignment!r}: write it as path.to.key=value"
        raise RecipeError(msg)
    try:
        value = YAML(typ="safe", pure=True).load(text) if text else None
    except YAMLError:
        value = text
    if isinstance(value, str) and re.fullmatch(r"[+-]?\d+(\.\d*)?[eE][+-]?\d+", value):
        value = float(value)  # YAML 1.2 reads 1e-6 as a number, 1.1 wants 1.0e-6
    path = keys.split(".")
    at: Any = tree
    for depth, key in enumerate(path):
        last = depth == len(path) - 1
        if isinstance(at, list):
            index = _position(at, key, assignment)
            if last:
                at[index] = value
            else:
                at = at[index]
        elif isinstance(at, dict):
            if last:
                at[key] = value
            else:
                if at.get(key) is None:
                    at[key] = {}
                at = at[key]
        else:
            msg = f"--set {assignment!r}: {'.'.join(path[:depth])} is {at!r}, which has no '{key}'"
            raise RecipeError(msg)


def _position(items: list[Any], key: str, assignment: str) -> int:
    if key.isdigit() and int(key) < len(items):
        return int(key)
    names = [str(one.get("name", one.get("kind"))) if isinstance(one, dict) else str(one) for one in items]
    if key in names:
        return names.index(key)
    msg = f"--set {assignment!r}: there is no '{key}' in the list; it holds {names}"
    raise RecipeError(msg)


# ---------------------------------------------------------------------------------------------------- the recipe


class Recipe:
    """A checked recipe. `resolved` is the whole of it as plain values: what `recipe.yaml` in a run holds."""

    def __init__(self, tree: dict[str, Any], source: _Source, folder: Path) -> None:
        self.resolved, self._source, self.folder = tree, source, folder
        self._keys(
            (), tree, ("name", "seed", "on_error", "tokenizer", "datasets", "curriculum", "outputs", "description")
        )
        self.name = self._text(("name",), tree.get("name", "unnamed"))
        seed = tree.get("seed", 0)
        if not isinstance(seed, int) or isinstance(seed, bool):
            msg = f"{source.at(('seed',))}: seed is a whole number, not {seed!r}"
            raise RecipeError(msg)
        self.seed = seed
        self.on_error = self._on_error(("on_error",), tree.get("on_error"))
        self.outputs = self._settings(Outputs, ("outputs",), tree.get("outputs", {}))
        datasets = tree.get("datasets")
        if not isinstance(datasets, dict) or not datasets:
            msg = f"{source.at(('datasets',))}: datasets: a mapping of at least one dataset name to its chain"
            raise RecipeError(msg)
        self.datasets = {name: self._dataset(name, value) for name, value in datasets.items()}
        self.curriculum = self._curriculum(tree.get("curriculum"))
        self.tokenizer = self._tokenizer(tree.get("tokenizer"))

    # -------------------------------------------------------------------------------------------- reading

    def _fail(self, path: Sequence[str | int], text: str) -> RecipeError:
        return RecipeError(f"{self._source.at(path)}: {text}")

    def _text(self, path: tuple[str | int, ...], value: Any) -> str:
        if not isinstance(value, str) or not _NAME.fullmatch(value):
            raise self._fail(path, f"{'.'.join(map(str, path))}: a name of letters, digits, '_' and '-', not {value!r}")
        return value

    def _on_error(self, path: Sequence[str | int], value: Any) -> OnError | None:
        if value not in (None, *get_args(OnError)):
            raise self._fail(path, f"on_error is {' or '.join(get_args(OnError))}, not {value!r}")
        return cast(OnError | None, value)

    def _keys(self, path: tuple[str | int, ...], value: Mapping[str, Any], legal: Sequence[str]) -> None:
        for key in value:
            if key not in legal:
                what = f" of {'.'.join(map(str, path))}" if path else ""
                raise self._fail(
                    (*path, key), f"unknown key '{key}'{what}{_nearest(key, legal)}; legal keys are {', '.join(legal)}"
                )

    def _settings(self, model: type[Any], path: tuple[str | int, ...], value: Any, what: str = "") -> Any:
        """`value` as `model`; the first error becomes a RecipeError with the line of the key at fault."""
        if not isinstance(value, dict):
            raise self._fail(path, f"{'.'.join(map(str, path))}: a mapping, not {value!r}")
        try:
            return model.model_validate(value)
        except ValidationError as error:
            first = error.errors()[0]
            where = (*path, *first["loc"])
            name = what or ".".join(map(str, path))
            legal = list(model.model_fields)
            if first["type"] == "extra_forbidden":
                key = str(first["loc"][-1])
                if len(first["loc"]) == 1:
                    text = f"unknown key '{key}' of {name}{_nearest(key, legal)}; legal keys are {', '.join(legal) or 'none'}"
                else:
                    text = f"unknown key '{'.'.join(map(str, first['loc']))}' of {name}"
            elif first["type"] == "missing":
                text = f"{name} needs the key '{'.'.join(map(str, first['loc']))}'"
            else:
                given = "" if isinstance(first["input"], dict) else f", found {first['input']!r}"
                at = ".".join(map(str, first["loc"]))
                text = f"{name}: {at + ': ' if at else ''}{first['msg'].removeprefix('Value error, ')}{given}"
            raise self._fail(where, text) from None

    def _stage(self, path: tuple[str | int, ...], value: Any, *, source: bool) -> tuple[Stage, dict[str, Any]]:
        """The stage that a step or `from` names, and the step's own options."""
        if not isinstance(value, dict):
            raise self._fail(path, f"a step is a mapping with a 'kind', not {value!r}")
        kind = value.get("kind")
        sources = sorted(k for k, cls in STAGES.items() if issubclass(cls, Source))
        steps = sorted(k for k, cls in STAGES.items() if not issubclass(cls, Source) and not cls.kind.startswith("_"))
        legal = sources if source else steps
        if kind is None:
            raise self._fail(path, f"a {'source' if source else 'step'} needs a 'kind'; kinds are {', '.join(legal)}")
        if kind not in legal:
            other = steps if source else sources
            hint = (
                f"'{kind}' is a {'step' if source else 'source'}: it belongs {'into steps' if source else 'after from'}"
                if kind in other
                else f"unknown kind '{kind}'{_nearest(str(kind), legal)}"
            )
            raise self._fail((*path, "kind"), f"{hint}; {'sources' if source else 'kinds'} are {', '.join(legal)}")
        cls = STAGES[kind]
        options = {key: value[key] for key in STEP_OPTIONS if key in value and key not in cls.model_fields}
        if "name" in value and "name" in cls.model_fields:
            options.pop("name", None)
        rest = {key: one for key, one in value.items() if key not in options and key != "kind"}
        stage = self._settings(cls, path, rest, f"'{kind}'")
        return stage, options

    def _step(self, path: tuple[str | int, ...], value: Any, *, source: bool = False) -> Step:
        stage, options = self._stage(path, value, source=source)
        name = options.get("name", stage.kind)
        if not isinstance(name, str) or not _STEP_NAME.fullmatch(name):
            raise self._fail(
                (*path, "name"), f"a step's name is made of letters, digits, '_', '-' and '.', not {name!r}"
            )
        band = options.get("expect_drop")
        if band is not None and not (
            isinstance(band, list)
            and len(band) == 2
            and all(isinstance(x, (int, float)) and not isinstance(x, bool) for x in band)
            and 0 <= band[0] <= band[1] <= 1
        ):
            raise self._fail(
                (*path, "expect_drop"), f"expect_drop is [low, high] with 0 <= low <= high <= 1, not {band!r}"
            )
        when = options.get("when")
        if when is not None and not isinstance(when, str):
            raise self._fail((*path, "when"), f"when is an expression in quotes, not {when!r}")
        checkpoint = options.get("checkpoint", False)
        if not isinstance(checkpoint, bool):
            raise self._fail((*path, "checkpoint"), f"checkpoint is true or false, not {checkpoint!r}")
        if source and "on_error" in options:
            raise self._fail(
                (*path, "on_error"), "on_error belongs to a step: a source drops unreadable records by itself"
            )
        return Step(
            name=name, stage=stage, when=when, expect_drop=(float(band[0]), float(band[1])) if band else None,
            checkpoint=checkpoint, on_error=self._on_error((*path, "on_error"), options.get("on_error")),
            where=self._source.at(path),
        )  # fmt: skip

    def _dataset(self, name: str, value: Any) -> Chain:
        path: tuple[str | int, ...] = ("datasets", name)
        self._text(path, name)
        if name in RESERVED_DATASETS:
            raise self._fail(path, f"'{name}' is reserved; call the dataset something else")
        if not isinstance(value, dict):
            raise self._fail(path, f"dataset '{name}' is a mapping with the keys from, steps")
        self._keys(path, value, ("from", "steps", "description"))
        origin = value.get("from")
        steps = value.get("steps") or []
        if not isinstance(steps, list):
            raise self._fail((*path, "steps"), f"steps is a list, not {steps!r}")
        placed = [self._step((*path, "steps", n), one) for n, one in enumerate(steps)]
        if isinstance(origin, dict):
            placed.insert(0, self._step((*path, "from"), origin, source=True))
        elif isinstance(origin, (str, list)) and origin:
            references = [origin] if isinstance(origin, str) else origin
            after = tuple(DATASET + self._reference((*path, "from"), one) for one in references)
            if not placed:
                placed = [Step(name="as_it_is", stage=AsItIs(), where=self._source.at(path))]
            first = placed[0]
            placed[0] = Step(**{**vars(first), "after": after})
        else:
            raise self._fail(
                path,
                f"dataset '{name}' needs 'from': a source (kind: ...), a dataset, dataset@step, or a list of those",
            )
        return Chain(name, tuple(placed), placed[-1].name)

    def _reference(self, path: tuple[str | int, ...], value: Any) -> str:
        names = list(self.resolved["datasets"])
        if not isinstance(value, str) or value.partition("@")[0] not in names:
            raise self._fail(
                path, f"from: {value!r} is no dataset{_nearest(str(value), names)}; datasets are {', '.join(names)}"
            )
        return value

    def _curriculum(self, value: Any) -> Curriculum | None:
        if value is None:
            return None
        curriculum: Curriculum = self._settings(Curriculum, ("curriculum",), value)
        for phase in curriculum.phases:
            for name in phase.mix:
                if name not in self.datasets:
                    raise self._fail(
                        ("curriculum",),
                        f"phase '{phase.name}' mixes '{name}', which is no dataset; datasets are {', '.join(self.datasets)}",
                    )
        return curriculum

    def _tokenizer(self, value: Any) -> TokenizerSettings | None:
        if value is None:
            if self.curriculum is not None:
                raise self._fail(
                    ("curriculum",),
                    "a curriculum needs a tokenizer: {path: tokenizer.json} or {train: {vocabulary: 32000, from: [..]}}",
                )
            return None
        value = dict(value) if isinstance(value, dict) else value
        if isinstance(value, dict) and isinstance(value.get("train"), dict):
            training = dict(value["train"])
            if "from" in training:
                training["datasets"] = training.pop("from")
            value["train"] = training
        tokenizer: TokenizerSettings = self._settings(TokenizerSettings, ("tokenizer",), value)
        if (tokenizer.path is None) == (tokenizer.train is None):
            raise self._fail(("tokenizer",), "tokenizer: give either 'path' or 'train'")
        for name in tokenizer.train.datasets if tokenizer.train else ():
            if name.partition("@")[0] not in self.datasets:
                raise self._fail(
                    ("tokenizer", "train"),
                    f"tokenizer.train.from: '{name}' is no dataset; datasets are {', '.join(self.datasets)}",
                )
        return tokenizer

    # -------------------------------------------------------------------------------------------- the graph

    def bucket_order(self, name: str) -> list[str] | None:
        """Bucket names of a dataset, worst to best, from the stage that made them (followed through `from`)."""
        chain = self.datasets[name]
        for step in reversed(chain.steps):
            if hasattr(step.stage, "bucket_order"):
                order: list[str] = step.stage.bucket_order()
                return order
        above = [reference.removeprefix(DATASET).partition("@")[0] for reference in chain.steps[0].after]
        orders = [self.bucket_order(one) for one in dict.fromkeys(above)]
        return orders[0] if orders and all(order == orders[0] for order in orders) else None

    def mixed(self) -> list[str]:
        """Datasets that a phase mixes, in the recipe's order."""
        if self.curriculum is None:
            return []
        return [name for name in self.datasets if any(name in phase.mix for phase in self.curriculum.phases)]

    def chains(self) -> list[Chain]:
        """Everything that a run does, as chains of steps: the datasets, the tokenizer, the curriculum."""
        return [
            replace(chain, steps=tuple(replace(step, on_error=step.on_error or self.on_error) for step in chain.steps))
            for chain in self._chains()
        ]

    def _chains(self) -> list[Chain]:
        mixed = self.mixed()
        chains = [
            Chain(c.name, c.steps + self._token_steps(c.name), c.rows) if c.name in mixed else c
            for c in self.datasets.values()
        ]
        if self.curriculum is None or self.tokenizer is None:
            return chains
        if self.tokenizer.train:
            training = self.tokenizer.train
            stage = TrainTokenizer(vocabulary=training.vocabulary, sample_bytes=int(training.sample_megabytes * 1e6))
            after = tuple(DATASET + name for name in training.datasets)
            chains.append(
                Chain("tokenizer", (Step("train", stage, after=after, where=self._source.at(("tokenizer",))),), "train")
            )
        chains.append(self._curriculum_chain(mixed))
        return chains

    def _tokenizer_table(self) -> dict[str, str]:
        return {"tokenizer": f"{DATASET}tokenizer@train"} if self.tokenizer and self.tokenizer.train else {}

    def tokenizer_path(self) -> str | None:
        """The tokenizer's file, relative paths taken from the recipe's folder; None when it is trained in the run."""
        if self.tokenizer is None or self.tokenizer.path is None:
            return None
        path = Path(self.tokenizer.path)
        return str(path if path.is_absolute() or path.exists() else self.folder / path)

    def _token_steps(self, dataset: str) -> tuple[Step, ...]:
        assert self.tokenizer is not None
        where = self._source.at(("tokenizer",))
        tokenize = Tokenize(path=self.tokenizer_path(), end_of_document=self.tokenizer.end_of_document)
        columns = ("origin", "language", "bucket", "num_chars", "num_tokens", "score", "token_hash", "tokens")
        exchange = Exchange(by="shuffle_key", partitions=self.outputs.shards, placement="range", columns=columns)
        return (
            Step("tokenize", tokenize, tables=self._tokenizer_table(), where=where),
            Step("prepare_shards", PrepareShards(), where=where),
            Step("shuffle", exchange, where=where),
            Step("token_shards", TokenShards(dataset=dataset), where=where),
        )

    def _curriculum_chain(self, mixed: list[str]) -> Chain:
        assert self.curriculum is not None
        assert self.tokenizer is not None
        where = self._source.at(("curriculum",))
        orders = {name: order for name in mixed if (order := self.bucket_order(name)) is not None}
        megatron = self.outputs.megatron
        batch = (
            megatron.global_batch_size if isinstance(megatron, MegatronOutput) else MegatronOutput().global_batch_size
        )
        path, end = self.tokenizer_path(), self.tokenizer.end_of_document

        def fold(name: str, stage: Fold, *tables: str, after: tuple[str, ...] = (NOTHING,)) -> Step:
            return Step(name, stage, after, {t: t for t in tables}, publish=f"curriculum/{name}.parquet", where=where)

        def sink(name: str, stage: Sink, tables: Mapping[str, str], rows: str | None = None) -> Step:
            return Step(name, stage, (NOTHING,), tables, rows, where=where)

        shards = PhaseShards(arrow=self.outputs.arrow, megatron=megatron is not False, end_of_document=end, path=path)
        steps = [
            fold("supply", Supply(), after=tuple(f"{DATASET}{name}@token_shards" for name in mixed)),
            fold("solution", SolveCurriculum(curriculum=self.curriculum, bucket_order=orders), "supply"),
            fold("slices", Slices(), "supply", "solution"),
            sink("shards", shards, self._tokenizer_table(), "slices"),
            fold("shards_written", Collect(), after=("shards",)),
            fold("ledger", Ledger(), "solution", after=("shards",)),
        ]
        if megatron is not False:
            blends = Blends(global_batch_size=batch, end_of_document=end, path=path)
            steps.append(sink("blends", blends, {"prefixes": "shards_written", **self._tokenizer_table()}))
        return Chain("curriculum", tuple(steps), steps[-1].name)

    def to_json(self) -> str:
        """The resolved recipe, canonical."""
        return json.dumps(self.resolved, sort_keys=True)

    def to_yaml(self) -> str:
        """The resolved recipe as YAML."""
        out = io.StringIO()
        yaml = YAML(typ="safe", pure=True)
        yaml.default_flow_style = False
        yaml.dump(self.resolved, out)
        return out.getvalue()


def _nearest(word: str, legal: Sequence[str]) -> str:
    close = difflib.get_close_matches(word, legal, n=1)
    return f" (did you mean '{close[0]}'?)" if close else ""


def load_recipe(path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read, merge, override and check a recipe. Raises RecipeError."""
    path = Path(path)
    source = _Source(path.name)
    tree = _read(path, source)
    for assignment in overrides:
        _override(tree, assignment)
    return Recipe(tree, source, path.parent)
