"""Stories of documents and tokens of a real small run, held to the bytes of its shards."""

from __future__ import annotations

import json
import math
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console
from tokenizers import Tokenizer

from pipeline.engine.plan import Plan
from pipeline.stats.catalog import connect
from pipeline.stats.story import Chapter, Story
from pipeline.stats.trace import NotFound, render, trace
from tests.tiny_run import make, recipe

Made = tuple[Path, Plan]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("tiny")
    plan, _ = make(recipe(folder / "corpus"), str(folder / "run"))
    return folder / "run", plan


@pytest.fixture(scope="module")
def megatron_only(tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("bare")
    plan, _ = make(recipe(folder / "corpus", arrow=False), str(folder / "run"))
    return folder / "run", plan


def chapter(story: Story, dataset: str) -> Chapter:
    return next(one for one in story.chapters if one.dataset == dataset)


def bin_tokens(run: Path, path: str) -> np.ndarray:
    """Tokens of a .bin by the type code of its .idx (8: uint16, 4: int32), read by no code of ours."""
    code = (run / path.replace(".bin", ".idx")).read_bytes()[17]
    return np.fromfile(run / path, {8: "<u2", 4: "<i4"}[code])


def shard_row(run: Path, path: str, row: int) -> list[int]:
    tokens: list[int] = pa.ipc.open_file(run / path).read_all()["tokens"][row].as_py()
    return tokens


def written(run: Path, form: str) -> list[dict[str, Any]]:
    rows = pq.read_table(run / "curriculum" / "shards_written.parquet").to_pylist()
    return [row for row in rows if row["format"] == form]


def shown(story: Story, width: int = 100) -> str:
    console = Console(width=width, record=True, file=open(os.devnull, "w"))  # noqa: SIM115
    console.print(render(story))
    return console.export_text()


# ---------------------------------------------------------------------------------------------------- a document


def test_a_kept_page_tells_every_step_score_and_place(made: Made) -> None:
    run, _ = made
    story = trace(str(run), "http://pages.test/9.html")
    assert [one.dataset for one in story.chapters] == ["web"]
    web = chapter(story, "web")
    steps = [one.step for passage in web.passages for one in passage.stages if one.word not in ("exchange", "fold")]
    assert steps[:2] == ["jsonl", "exact_dedup/hash"]
    assert steps[-3:] == ["tokenize", "prepare_shards", "token_shards"]
    assert len(steps) == len(set(steps))
    learned = {name: value for passage in web.passages for name, value in passage.learned.items()}
    assert learned["language"] == "en"
    final = pq.read_table(next(iter((run / made[1].step("web/quality_levels").folder).glob("part-*.parquet")))).schema
    assert {"score_edu", "quality_rank", "bucket"} <= set(final.names) & set(learned)
    assert learned["bucket"] == ("high" if int(learned["quality_rank"]) >= 10 else "low")
    assert web.dropped is None
    assert web.place is not None
    assert len(shard_row(run, web.place.path, web.place.row)) == web.place.tokens
    assert story.duplicates == 1  # nearly-9.html


def test_a_near_duplicate_names_the_step_that_dropped_it_and_its_keeper(made: Made) -> None:
    story = trace(str(made[0]), "http://pages.test/nearly-9.html")
    dropped = chapter(story, "web").dropped
    assert dropped is not None
    assert (dropped.step, dropped.reason, dropped.method, dropped.cluster_size) == (
        "minhash_dedup/keep_one",
        "near_duplicate",
        "minhash",
        2,
    )
    assert dropped.keeper_origin == "http://pages.test/9.html"
    assert dropped.keeper_id == trace(str(made[0]), "http://pages.test/9.html").id
    assert 0.9 < (dropped.similarity or 0) < 1
    passed = [one.step for passage in chapter(story, "web").passages for one in passage.stages]
    assert "exact_dedup/keep_first" in passed
    assert "minhash_dedup/keep_one" not in passed
    text = shown(story)
    assert "near_duplicate" in text
    assert "http://pages.test/9.html" in text


def test_an_unreadable_line_is_a_story_too(made: Made) -> None:
    story = trace(str(made[0]), "web.jsonl#123")
    dropped = chapter(story, "web").dropped
    assert dropped is not None
    assert dropped.step == "jsonl"
    assert dropped.reason.startswith("unreadable: not JSON")


@pytest.mark.parametrize("digits", [6, 12, 32])
def test_an_id_may_be_cut_short(made: Made, digits: int) -> None:
    whole = trace(str(made[0]), "http://pages.test/9.html")
    assert trace(str(made[0]), whole.id[:digits]).id == whole.id
    assert trace(str(made[0]), whole.id[:digits].upper()).id == whole.id


def test_a_part_of_an_origin_that_fits_several_lists_them(made: Made) -> None:
    story = trace(str(made[0]), "pages.test")
    assert len(story.matches) + story.more_matches == 122
    assert {match.datasets for match in story.matches} == {("web",)}
    assert "122 documents match" in shown(story)
    assert trace(str(made[0]), "/42.html").origin == "http://pages.test/42.html"  # the end of one origin only


@pytest.mark.parametrize(
    "what", ["http://pages.test/absent.html", "0" * 32, "abc", "nowhere.bin:5", "'; drop table documents; --"]
)
def test_what_is_not_there_is_said_to_be_absent(made: Made, what: str) -> None:
    with pytest.raises(NotFound, match="no document and no shard"):
        trace(str(made[0]), what)


def test_every_token_range_of_a_document_holds_its_tokens_in_both_forms(made: Made) -> None:
    run, _ = made
    with connect(str(run)) as con:
        pages = con.execute(
            "select id, token_shard, row from documents where kept and tokens > 0 order by id"
        ).fetchall()
    for document, path, row in pages[::17]:
        own = shard_row(run, path.removeprefix(f"{run}/"), row)
        for dataset in trace(str(run), document).chapters:
            for sighting in dataset.sightings:
                megatron, arrow = sighting.shards
                assert megatron.startswith("megatron/")
                joined = pa.ipc.open_file(run / arrow).read_all()["tokens"].combine_chunks().values.to_numpy()
                for span in sighting.spans or ():
                    assert span.document_start is not None
                    expected = own[span.document_start : span.document_start + span.end - span.start]
                    assert bin_tokens(run, megatron)[span.start : span.end].tolist() == expected
                    assert joined[span.start : span.end].tolist() == expected


def test_times_seen_are_the_floor_or_the_ceiling_of_the_buckets_epochs(made: Made) -> None:
    run, _ = made
    with connect(str(run)) as con:
        pages = con.execute(
            "select id, bucket from documents where kept and dataset = 'web' order by hash(id)"
        ).fetchall()
        weights = dict(con.execute("select bucket, epoch_weight from epochs where dataset = 'web'").fetchall())
    for document, bucket in pages[:14]:
        seen = chapter(trace(str(run), document), "web").times_seen
        assert seen in (math.floor(weights[bucket]), math.ceil(weights[bucket]))


def test_times_seen_of_packed_documents_add_up_to_the_tokens_written(made: Made) -> None:
    run, _ = made
    with connect(str(run)) as con:
        found = con.execute("select id, tokens from documents where kept and dataset = 'repos'").fetchall()
    seen = sum(tokens * chapter(trace(str(run), document), "repos").times_seen for document, tokens in found)
    shards = [row for row in written(run, "arrow") if row["dataset"] == "repos"]
    assert seen == pytest.approx(sum(row["document_tokens"] * row["reads"] for row in shards))


def test_a_token_of_padding_belongs_to_no_document(made: Made) -> None:
    run, _ = made
    row = next(row for row in written(run, "megatron") if row["tokens"] > row["document_tokens"])
    tokens = bin_tokens(run, row["path"])
    end = Tokenizer.from_file(str(run / "tokenizer.json")).token_to_id("<|endoftext|>")
    offset = next(at for at in range(1, len(tokens)) if tokens[at - 1] == tokens[at] == end)
    with pytest.raises(NotFound, match=f"token {offset:,} of {row['path']} is padding at the end of sequence"):
        trace(str(run), f"{row['path']}:{offset}")


# ---------------------------------------------------------------------------------------------------- relatives


def test_a_file_leads_to_its_repository_document_and_back(made: Made) -> None:
    story = trace(str(made[0]), "r1@1:pkg/m03.py")
    assert [one.dataset for one in story.chapters] == ["code"]
    assert [(one.dataset, one.origin) for one in story.children] == [("repos", "r1@1:pkg/m01.py (+18 files)")]
    assert "seen" in story.children[0].fate
    repository = trace(str(made[0]), story.children[0].id)
    assert repository.parents[0].origin == "r1@1:pkg/m01.py"
    assert story.id in [one.id for one in repository.parents]
    assert len(repository.parents) + repository.more_parents == 19
    passed = [one.step for passage in chapter(repository, "repos").passages for one in passage.stages]
    assert passed[0] == "repository_documents"  # its own steps begin where it was made


def test_a_token_of_a_joined_document_leads_to_file_and_line(made: Made) -> None:
    run, _ = made
    shard = next(row["path"] for row in written(run, "megatron") if row["dataset"] == "repos" and row["sequences"] > 2)
    tokens = bin_tokens(run, shard)
    corpus = [json.loads(line) for line in (run.parent / "corpus" / "code.jsonl").read_text().splitlines()]
    texts = {row["url"]: row["text"].splitlines() for row in corpus}
    tokenizer = Tokenizer.from_file(str(run / "tokenizer.json"))
    checked = 0
    for offset in range(5, 1000, 71):
        position = trace(str(run), f"{shard}:{offset}").position
        assert position is not None
        assert position.token_id == tokens[offset]
        assert position.token == tokenizer.decode([tokens[offset]], skip_special_tokens=False)
        if position.file is None or position.line is None or position.line < 2:
            continue
        line = texts[position.file.origin][position.line - 1]
        around = (position.before.rsplit("\n", 1)[-1] + position.token + position.after.split("\n", 1)[0]).strip("\n")
        if "\n" not in position.token and "\n" in position.before and "\n" in position.after:
            assert around == line
            checked += 1
    assert checked >= 3


# ---------------------------------------------------------------------------------------------------- a token


@pytest.mark.parametrize("form", ["absolute", "relative", "name", "prefix", "idx"])
def test_a_shard_may_be_named_in_any_usual_way(made: Made, form: str) -> None:
    run, _ = made
    path = next(row["path"] for row in written(run, "megatron") if row["bucket"] == "high")
    names = {
        "absolute": str(run / path),
        "relative": path,
        "name": path.rsplit("/", 1)[-1],
        "prefix": path.removesuffix(".bin"),
        "idx": path.removesuffix(".bin") + ".idx",
    }
    story = trace(str(run), f"{names[form]}:1_000")
    assert story.position is not None
    assert story.position.shard == path
    sighting = next(s for s in chapter(story, "web").sightings if path in s.shards)
    assert sighting.spans is not None
    assert sighting.spans[0].start <= 1000 < sighting.spans[0].end
    assert story.position.document_offset == 1000 - sighting.spans[0].start


def test_a_name_that_several_shards_share_asks_for_more_of_the_path(made: Made) -> None:
    with pytest.raises(NotFound, match=r"shards answer to 'part-00000.arrow:3'.*give more of the path"):
        trace(str(made[0]), "part-00000.arrow:3")
    story = trace(str(made[0]), "web/high/part-00000.arrow:3")
    assert story.position is not None
    assert story.position.shard == "tokens/web/high/part-00000.arrow"


def test_an_offset_beyond_the_end_says_how_long_the_shard_is(made: Made) -> None:
    row = written(made[0], "megatron")[0]
    with pytest.raises(
        NotFound, match=f"holds {row['tokens']:,} tokens, so offsets go from 0 to {row['tokens'] - 1:,}"
    ):
        trace(str(made[0]), f"{row['path']}:{row['tokens']}")
    assert trace(str(made[0]), f"{row['path']}:{row['tokens'] - 1}").position is not None


def test_without_arrow_shards_concatenated_places_are_the_same_and_packed_ones_are_not_guessed(
    made: Made, megatron_only: Made
) -> None:
    bare = str(megatron_only[0])
    for page in ("http://pages.test/9.html", "http://pages.test/30.html"):
        with_arrow, without = (chapter(trace(run, page), "web") for run in (str(made[0]), bare))
        assert [s.spans for s in without.sightings] == [s.spans for s in with_arrow.sightings]
        assert [len(s.shards) for s in without.sightings] == [1] * len(with_arrow.sightings)
    shard = next(row["path"] for row in written(megatron_only[0], "megatron") if row["bucket"] == "high")
    for offset in (0, 104, 105, 1234):
        assert trace(bare, f"{shard}:{offset}").id == trace(str(made[0]), f"{shard}:{offset}").id
    packed = next(row["path"] for row in written(megatron_only[0], "megatron") if row["packing"] == "best_fit")
    with pytest.raises(NotFound, match="only Arrow shards say from what"):
        trace(bare, f"{packed}:5")
    repository = trace(bare, "r1@1:pkg/m01.py (+18 files)")
    assert [s.spans for s in chapter(repository, "repos").sightings] == [None]
    assert "only Arrow shards say where" in shown(repository)


def test_a_run_without_a_tokenizer_file_yet_uses_the_one_it_trained(made: Made, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(made[0], run)
    (run / "tokenizer.json").unlink()
    what = "tokens/web/high/part-00000.arrow:7"
    assert trace(str(run), what).position == trace(str(made[0]), what).position


def test_a_run_in_progress_tells_what_is_known_so_far(made: Made, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(made[0], run)
    shutil.rmtree(run / made[1].step("web/token_shards").folder)
    shutil.rmtree(run / "datasets" / "curriculum")
    web = chapter(trace(str(run), "http://pages.test/9.html"), "web")
    assert web.place is None
    assert web.sightings == ()
    assert web.fate == "kept"
    assert "bucket" in {name for passage in web.passages for name in passage.learned}


@pytest.mark.parametrize("width", [80, 100])
def test_every_story_fits_the_terminal(made: Made, width: int) -> None:
    for what in (
        "http://pages.test/9.html",
        "nearly-9",
        "r1@1:pkg/m01.py (+18 files)",
        "pages.test",
        "web/high/part-00001.arrow:9",
    ):
        text = shown(trace(str(made[0]), what), width)
        assert max(len(line.rstrip()) for line in text.splitlines()) <= width
