"""Documents long enough to teach a long context: whole books, papers and repositories, by their approximate length.

Lengths are characters divided by characters per token, so that the choice can stand before tokenization; it is off by
about a tenth for prose of one language and by more for tables or numbers. Counting runs at several GB/s.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field, model_validator

from pipeline.kernels import spans
from pipeline.schema import LANGUAGE, TEXT
from pipeline.stage import Filter

# measured with the Qwen2.5 tokenizer: ten English novels 4.3; Chinese 1.1 (five classics) and 1.65 (the Declaration of
# Human Rights), Japanese 1.4, Korean 1.6
CHARS_PER_TOKEN: Mapping[str, float] = {"zh": 1.4, "ja": 1.4, "ko": 1.6}


class SelectLong(Filter):
    """Keeps documents of at least `min_tokens` (approximate) or `min_chars`, and at most the maximum where one is set.

    `language_chars_per_token` overrides `chars_per_token` for documents whose `language` (before any `-`) it names.
    Memory: a few integers per document. Source: GLM-4.5 section 2.3 up-samples long documents at 128K; GLM-5 section
    2.2 selects books, papers and repositories by length.
    """

    kind: ClassVar[str] = "select_long"

    min_tokens: int | None = Field(default=None, ge=1)
    min_chars: int | None = Field(default=None, ge=1)
    max_tokens: int | None = Field(default=None, ge=1)
    max_chars: int | None = Field(default=None, ge=1)
    chars_per_token: float = Field(default=4.0, gt=0)
    language_chars_per_token: dict[str, float] = Field(default_factory=lambda: dict(CHARS_PER_TOKEN))

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if (self.min_tokens is None) == (self.min_chars is None):
            msg = "select_long takes min_tokens or min_chars: exactly one of them"
            raise ValueError(msg)
        pairs = ((self.min_tokens, self.max_tokens), (self.min_chars, self.max_chars))
        if any(least is not None and most is not None and most < least for least, most in pairs):
            msg = "select_long: the maximum is below the minimum, nothing could pass"
            raise ValueError(msg)
        return self

    def needs(self) -> tuple[pa.Field, ...]:
        return (TEXT, LANGUAGE) if self._by_language() else (TEXT,)

    def _by_language(self) -> bool:
        return bool(self.language_chars_per_token) and (self.min_tokens is not None or self.max_tokens is not None)

    def reasons(self, docs: pa.RecordBatch) -> pa.StringArray:
        data, offsets = spans.buffers(docs[TEXT.name])
        chars = spans.code_points(data, offsets)
        tokens = chars / self._ratios(docs)
        short = (tokens < self.min_tokens) if self.min_tokens is not None else (chars < (self.min_chars or 0))
        long = np.zeros(docs.num_rows, np.bool_)
        if self.max_tokens is not None:
            long |= tokens > self.max_tokens
        if self.max_chars is not None:
            long |= chars > self.max_chars
        names = pa.array(["too_short_for_long_context", "too_long_for_long_context"], pa.string())
        return names.take(pa.array(np.where(short, 0, 1), pa.int64(), mask=~(short | long)))

    def _ratios(self, docs: pa.RecordBatch) -> np.ndarray:
        ratios = np.full(docs.num_rows, self.chars_per_token)
        if self._by_language():
            primary = pc.replace_substring_regex(docs[LANGUAGE.name], "-.*$", "")
            for language, ratio in self.language_chars_per_token.items():
                ratios[pc.fill_null(pc.equal(primary, language), False).to_numpy(zero_copy_only=False)] = ratio
        return ratios
