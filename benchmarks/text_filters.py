"""How fast the text stages are: MB/s on one core, one thread, median of several runs.

    python benchmarks/text_filters.py            a minute
    python benchmarks/text_filters.py --smoke    a few seconds, to see that it runs

Text comes from `shared/data` beside the repository where it is there (novels cut into pages, Chinese books, real web
pages), else from this Python's standard library. Time is processor time of this thread, so that a busy machine matters less.
"""

from __future__ import annotations

import argparse
import gzip
import statistics
import sysconfig
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa

from pipeline.schema import CONTENT_TYPE, HTML, TEXT
from pipeline.text.extraction import ExtractHtmlText
from pipeline.text.gopher import GopherQuality, GopherRepetition
from pipeline.text.language import DetectLanguage

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
PAGE_CHARS = 5000


def read(paths: list[Path], most: int) -> list[str]:
    """Texts of the files, up to `most` bytes in all."""
    texts, size = [], 0
    for path in paths:
        texts.append(path.read_text("utf-8", "replace"))
        size += path.stat().st_size
        if size >= most:
            break
    return texts


def pages_of(texts: list[str]) -> list[str]:
    return [text[at : at + PAGE_CHARS] for text in texts for at in range(0, len(text), PAGE_CHARS)]


def corpora(most: int) -> Iterator[tuple[str, list[str]]]:
    """(name, texts), each of at most about `most` bytes."""
    library = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))
    yield "python sources", read(library, most)
    if SHARED.exists():
        novels = read(sorted((SHARED / "books" / "eltec-eng").glob("*.txt")), most)
        yield "english pages", pages_of(novels)
        yield "english books", novels
        yield "chinese pages", pages_of(read(sorted((SHARED / "books" / "zh-classics").glob("*.txt")), most))


def html_pages(most: int) -> list[bytes]:
    """Real web pages, else the library's sources as one page of paragraphs each."""
    files = sorted(SHARED.glob("web/wcxb-dev-sample/html/*.gz"))
    found, size = [], 0
    for path in files:
        found.append(gzip.decompress(path.read_bytes()))
        size += len(found[-1])
        if size >= most:
            return found
    if found:
        return found
    sources = next(corpora(most))[1]
    escaped = (text.replace("&", "&amp;").replace("<", "&lt;").replace("\n\n", "</p><p>") for text in sources)
    return [f"<html><body><main><p>{text}</p></main></body></html>".encode() for text in escaped]


def seconds(work: Callable[[], object], runs: int) -> list[float]:
    """Processor seconds of each run, after one that warms up."""
    work()
    times = []
    for _ in range(runs):
        begin = time.thread_time()
        work()
        times.append(time.thread_time() - begin)
    return times


def row(corpus: str, stage: str, megabytes: float, documents: int, times: list[float]) -> None:
    middle = statistics.median(times)
    spread = f"{megabytes / max(times):.1f} - {megabytes / min(times):.1f}"
    print(f"{corpus:15} {stage:28} {megabytes:7.1f} {megabytes / middle:8.1f} {spread:>17} {documents / middle:12,.0f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="little text, one run")
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--megabytes", type=float, default=8, help="of each corpus")
    wanted = parser.parse_args()
    runs = 1 if wanted.smoke else wanted.runs
    most = int((0.3 if wanted.smoke else wanted.megabytes) * 1e6)

    print(f"{'corpus':15} {'stage':28} {'MB':>7} {'MB/s':>8} {'slowest - fastest':>17} {'documents/s':>12}")
    for corpus, texts in corpora(most):
        docs = pa.record_batch([pa.array(texts, TEXT.type)], pa.schema([TEXT]))
        megabytes = sum(len(text.encode()) for text in texts) / 1e6
        quality, repetition, language = GopherQuality(), GopherRepetition(), DetectLanguage()
        one = seconds(lambda stage=quality, docs=docs: stage.reasons(docs), runs)  # type: ignore[misc]
        other = seconds(lambda stage=repetition, docs=docs: stage.reasons(docs), runs)  # type: ignore[misc]
        row(corpus, "gopher_quality", megabytes, len(texts), one)
        row(corpus, "gopher_repetition", megabytes, len(texts), other)
        row(corpus, "both", megabytes, len(texts), [a + b for a, b in zip(one, other, strict=True)])
        times = seconds(lambda stage=language, docs=docs: stage.columns(docs), runs)  # type: ignore[misc]
        row(corpus, "language (first 4,000 bytes)", megabytes, len(texts), times)

    pages = html_pages(most)
    columns = [pa.array(pages, HTML.type), pa.array(["text/html"] * len(pages), CONTENT_TYPE.type)]
    docs = pa.record_batch(columns, pa.schema([HTML, CONTENT_TYPE]))
    times = seconds(lambda: ExtractHtmlText().columns(docs), min(runs, 3))
    row("web pages", "extract_html (MB of HTML)", sum(map(len, pages)) / 1e6, len(pages), times)


if __name__ == "__main__":
    main()
