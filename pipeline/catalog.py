"""Every stage that a recipe may name: one import and one line each."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import ValidationError

from pipeline.code.fim import Fim
from pipeline.code.languages import CodeLanguage
from pipeline.code.repository import RepositoryDocuments
from pipeline.code.rules import CodeRules
from pipeline.dedup.exact import ExactDedup
from pipeline.dedup.minhash import MinhashDedup
from pipeline.ingest.html_files import HtmlFiles
from pipeline.ingest.jsonl import Jsonl
from pipeline.ingest.parquet import Parquet
from pipeline.ingest.quickstart.books import QuickstartBooks
from pipeline.ingest.quickstart.code import QuickstartCode
from pipeline.ingest.quickstart.web import QuickstartWeb
from pipeline.ingest.source_trees import SourceTrees
from pipeline.ingest.text_files import TextFiles
from pipeline.ingest.warc import Warc
from pipeline.ingest.wet import Wet
from pipeline.longctx.select import SelectLong
from pipeline.quality.levels import QualityLevels, Tiers
from pipeline.quality.ranks import QualityRanks
from pipeline.quality.score import Score
from pipeline.quality.threshold import Threshold
from pipeline.stage import AsItIs, Compound, Stage, check_kind
from pipeline.synth.chat import RenderChat
from pipeline.synth.procedural.source import ProceduralQuestions
from pipeline.synth.simulate import SimulateAgents
from pipeline.synth.trajectories import SuccessfulTrajectories, Trajectories
from pipeline.synth.verify import VerifyAnswers
from pipeline.text.extraction import ExtractHtml
from pipeline.text.gopher import GopherQuality, GopherRepetition
from pipeline.text.language import Language

_STAGES: tuple[type[Stage], ...] = (
    # sources
    Warc,
    Wet,
    HtmlFiles,
    Jsonl,
    Parquet,
    TextFiles,
    SourceTrees,
    QuickstartWeb,
    QuickstartCode,
    QuickstartBooks,
    ProceduralQuestions,
    SimulateAgents,
    Trajectories,
    # text
    ExtractHtml,
    Language,
    GopherQuality,
    GopherRepetition,
    # dedup
    ExactDedup,
    MinhashDedup,
    # quality
    Score,
    QualityRanks,
    QualityLevels,
    Tiers,
    Threshold,
    # code
    CodeLanguage,
    CodeRules,
    RepositoryDocuments,
    Fim,
    # synthesis
    VerifyAnswers,
    SuccessfulTrajectories,
    RenderChat,
    # long context
    SelectLong,
    AsItIs,
)

STAGES: dict[str, type[Stage]] = {stage.kind: stage for stage in _STAGES}


def _added(stage: Stage) -> set[str]:
    if isinstance(stage, Compound):
        return set().union(*(_added(step.stage) for step in stage.steps()))
    return {field.name for field in stage.adds()}


def producers(column: str) -> Sequence[str]:
    """Kinds that add `column` under their default settings, for error messages."""
    found = []
    for kind, cls in STAGES.items():
        try:
            stage = cls()
        except ValidationError:
            continue  # has required settings: cannot be asked without them
        if column in _added(stage):
            found.append(kind)
    return sorted(found)


for _stage in _STAGES:
    check_kind(_stage)
