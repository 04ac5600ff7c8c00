"""Which language a document is in, by the classifier that ships inside py3langid: no download, 140 languages.

py3langid reads 265 documents a second in Python; the same model as a kernel over Arrow buffers reads the first 4,000 bytes
of thousands, and gives the same answers. The trade-off: fastText's lid.176 is better on long pages of rare
languages (.94 against .92 over 64 languages) but has to be downloaded; English and Chinese are recognised alike.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Annotated, ClassVar, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field, field_validator

from pipeline.kernels import bytes_langid
from pipeline.kernels.spans import ends_of, gather, strings
from pipeline.kernels.words import CODE_POINTS, character_classes, documents
from pipeline.schema import LANGUAGE, LANGUAGE_CONFIDENCE, TEXT
from pipeline.stage import Annotate, Compound, Filter, Step

# The labels of py3langid 0.4 are ISO 639 codes, and each is a BCP-47 tag as it stands; `zxx` is text in no language.
LANGUAGES = (
    *("af", "am", "ar", "as", "az", "be", "bg", "bn", "br", "bs", "ca", "cs", "cy", "da", "de", "el", "en", "eo", "es"),
    *("et", "eu", "fa", "fi", "fr", "fy", "ga", "gd", "gl", "gu", "ha", "he", "hi", "hr", "ht", "hu", "hy", "id", "ig"),
    *("is", "it", "ja", "jv", "ka", "kk", "km", "kn", "ko", "ku", "ky", "la", "lg", "ln", "lo", "lt", "lv", "mg", "mk"),
    *("ml", "mn", "mr", "ms", "my", "ne", "nl", "no", "om", "or", "pa", "pl", "ps", "pt", "qu", "ro", "ru", "sa", "si"),
    *("sk", "sl", "so", "sq", "sr", "sv", "sw", "ta", "te", "th", "tl", "tr", "ug", "uk", "ur", "uz", "vi", "xh", "yo"),
    *("zh", "zu", "zxx", "ace", "bcl", "dz", "ext", "gcf", "gom", "grc", "gug", "hbo", "kik", "nso", "pcm", "rw", "se"),
    *("sn", "st", "an", "ary", "crh", "fo", "fuv", "gcr", "guw", "kab", "lb", "lij", "ltg", "uzs", "wa", "sdh", "arz"),
    *("ba", "mt", "nn", "oc", "tg", "tk", "tt", "vec", "vo", "wuu", "yue"),
)

UNKNOWN, OTHER, UNSURE = "unknown_language", "other_language", "low_language_confidence"


@dataclass(frozen=True)
class ByteModel:
    """The arrays of `kernels/bytes_langid.py`, and the label of each class (some labels have two classes)."""

    moves: npt.NDArray[np.uint32]
    states: npt.NDArray[np.int32]
    weights: npt.NDArray[np.float32]
    priors: npt.NDArray[np.float32]
    label_of: npt.NDArray[np.int64]
    labels: tuple[str, ...]


@cache
def py3langid_model() -> ByteModel:
    """The model inside py3langid (numpy arrays, no pickle): 1.5 s to load, 100 MB, once per process."""
    from py3langid.langid import MODEL_DIR, MODEL_FILE
    from py3langid.modelio import load_model

    weights, priors, classes, moves, row_of, feature = load_model(MODEL_DIR / MODEL_FILE)
    labels = tuple(dict.fromkeys(classes))
    return ByteModel(
        moves=np.array(moves, np.uint32),
        states=np.column_stack([np.array(row_of, np.int32), np.array(feature, np.int32)]),
        weights=np.ascontiguousarray(weights, np.float32),
        priors=np.ascontiguousarray(priors, np.float32),
        label_of=np.array([labels.index(one) for one in classes], np.int64),
        labels=labels,
    )


@cache
def composing_characters() -> npt.NDArray[np.uint8]:
    """uint8[code points]: 1 for what NFC may change or join with what stands before it. 0.1 s, once per process."""
    composes = np.zeros(CODE_POINTS, np.uint8)
    # Left out: Chinese, Korean syllables, surrogates, private use and unassigned planes, which NFC never touches.
    for first, last in ((0, 0x3400), (0xA000, 0xAC00), (0xD7B0, 0xD800), (0xF900, 0x20000), (0x2F800, 0x2FA20)):
        for point in range(first, last):
            one = chr(point)
            if unicodedata.combining(one) or not unicodedata.is_normalized("NFC", one):
                composes[point] = 1
            pieces = unicodedata.decomposition(one).split()
            if len(pieces) == 2 and not pieces[0].startswith("<"):
                composes[int(pieces[1], 16)] = 1
    composes[0x1161:0x1200] = 1  # Hangul vowels and final consonants, which the algorithm joins without a table
    composes.setflags(write=False)
    return composes


def as_trained(text: pa.Array, max_bytes: int) -> pa.Array:
    """The first `max_bytes` bytes of each document as the model was trained on them: NFC, and never all capitals."""
    data, starts, stops = documents(text, max_bytes)
    cut = strings(gather(data, starts, stops), ends_of(stops - starts))
    flags = bytes_langid.spelling(*documents(cut), character_classes(), composing_characters())
    if not flags.any():
        return cut
    upper = flags & bytes_langid.ALL_UPPER > 0
    if upper.any():
        # str.lower and not Arrow's: they differ for Greek and Turkish, and a document all in capitals is rare.
        small = pa.array([one.lower() for one in cut.filter(pa.array(upper)).to_pylist()], pa.large_string())
        cut = pc.replace_with_mask(cut, pa.array(upper), small)
    composing = pa.array(flags & bytes_langid.MAYBE_COMPOSES > 0)
    return pc.replace_with_mask(cut, composing, pc.utf8_normalize(cut.filter(composing), form="NFC"))


class DetectLanguage(Annotate):
    """Adds the most probable language and its probability; both null where nothing in the text tells (empty, digits).

    Memory: 100 MB for the model, and `max_bytes` plus 700 bytes per document of the batch.
    Source: Lui and Baldwin, ACL 2012; model and normalisation of py3langid.
    """

    kind: ClassVar[str] = "detect_language"

    model: Literal["py3langid"] = "py3langid"
    max_bytes: Annotated[int, Field(ge=1)] = 4000
    """UTF-8 bytes of a document that are looked at, from its beginning."""

    def packages(self) -> tuple[str, ...]:
        return ("py3langid",)

    def needs(self) -> tuple[pa.Field, ...]:
        return (TEXT,)

    def adds(self) -> tuple[pa.Field, ...]:
        return (LANGUAGE, LANGUAGE_CONFIDENCE)

    def columns(self, docs: pa.RecordBatch) -> Mapping[str, pa.Array]:
        model = py3langid_model()
        spans = documents(as_trained(docs.column(TEXT.name), self.max_bytes))
        by_class = bytes_langid.probabilities(*spans, model.moves, model.states, model.weights, model.priors)
        by_label = np.zeros((len(by_class), len(model.labels)), np.float32)
        for number, label in enumerate(model.label_of):
            by_label[:, label] += by_class[:, number]
        best = by_label.argmax(axis=1) if len(by_label) else np.empty(0, np.int64)
        confidence = by_label[np.arange(len(best)), best]
        unknown = confidence == 0
        return {
            LANGUAGE.name: pa.array(model.labels, pa.string()).take(pa.array(best, pa.int64(), mask=unknown)),
            LANGUAGE_CONFIDENCE.name: pa.array(confidence, pa.float32(), mask=unknown),
        }


class KeepLanguages(Filter):
    """Drops documents in other languages than `keep`, and those whose language is not sure enough.

    Memory: the batch. Source of 0.65: FineWeb (arXiv:2406.17557) and DCLM (arXiv:2406.11794), with another classifier.
    """

    kind: ClassVar[str] = "keep_languages"

    keep: tuple[str, ...] | None = None
    """Codes as `language` holds them; null keeps all."""
    min_confidence: Annotated[float, Field(ge=0, le=1)] | None = 0.65
    """Least probability; null switches the rule off, and then documents of unknown language stay if `keep` is null."""

    @field_validator("keep")
    @classmethod
    def _known(cls, keep: tuple[str, ...] | None) -> tuple[str, ...] | None:
        return check_languages(keep)

    def needs(self) -> tuple[pa.Field, ...]:
        return (LANGUAGE, LANGUAGE_CONFIDENCE)

    def reasons(self, docs: pa.RecordBatch) -> pa.StringArray:
        language, confidence = docs.column(LANGUAGE.name), docs.column(LANGUAGE_CONFIDENCE.name)
        nothing = pa.scalar(None, pa.string())
        reasons = pa.nulls(len(language), pa.string())
        if self.min_confidence is not None:
            unsure = pc.less(confidence.cast(pa.float64()), self.min_confidence)
            reasons = pc.if_else(pc.fill_null(unsure, False), UNSURE, reasons)
        if self.keep is not None:
            other = pc.invert(pc.is_in(language, value_set=pa.array(self.keep, pa.string())))
            reasons = pc.if_else(other, OTHER, reasons)
        if self.keep is not None or self.min_confidence is not None:
            reasons = pc.if_else(language.is_null(), UNKNOWN, reasons)
        return pc.if_else(reasons.is_null(), nothing, reasons)


def check_languages(keep: tuple[str, ...] | None) -> tuple[str, ...] | None:
    """`keep`, if the model can give each of its codes; an error that lists the legal ones otherwise."""
    unknown = sorted(set(keep or ()) - set(LANGUAGES))
    if unknown:
        msg = f"keep: no such language {', '.join(map(repr, unknown))}; the model knows {', '.join(sorted(LANGUAGES))}"
        raise ValueError(msg)
    if keep is not None and not keep:
        msg = "keep: an empty list would drop every document; null keeps all languages"
        raise ValueError(msg)
    return keep


class Language(Compound):
    """Detect each document's language, then keep the wanted ones that are sure enough."""

    kind: ClassVar[str] = "language"

    keep: tuple[str, ...] | None = None
    """Codes such as `en`, `zh`; null keeps all."""
    min_confidence: Annotated[float, Field(ge=0, le=1)] | None = 0.65
    """Least probability; null switches the rule off."""
    model: Literal["py3langid"] = "py3langid"
    max_bytes: Annotated[int, Field(ge=1)] = 4000
    """UTF-8 bytes of a document that are looked at."""

    @field_validator("keep")
    @classmethod
    def _known(cls, keep: tuple[str, ...] | None) -> tuple[str, ...] | None:
        return check_languages(keep)

    def needs(self) -> tuple[pa.Field, ...]:
        return (TEXT,)

    def adds(self) -> tuple[pa.Field, ...]:
        return (LANGUAGE, LANGUAGE_CONFIDENCE)

    def steps(self) -> list[Step]:
        return [
            Step("detect", DetectLanguage(model=self.model, max_bytes=self.max_bytes)),
            Step("keep", KeepLanguages(keep=self.keep, min_confidence=self.min_confidence)),
        ]
