"""Trains one fastText classifier in a process of its own: `python fasttext_train.py LINES MODEL SETTINGS_JSON`.

Why not in the caller's process: with one thread fastText fills only the first tenth of its input matrix with random
numbers and leaves the rest as malloc gave it. In a process that has lived a while that is other people's bytes: two
trainings on the same lines differ, or end in "Encountered NaN" (both seen with fasttext-numpy2-wheel 0.9.2).
Here the matrix comes zeroed from the kernel, and equal lines give equal bytes. More threads would fill it all, but their
updates race, so that no two models agree.
"""

from __future__ import annotations

import json
import sys

import fasttext


def main() -> None:
    """Read the arguments, train, save."""
    lines, model, settings = sys.argv[1:]
    fasttext.train_supervised(lines, thread=1, verbose=0, **json.loads(settings)).save_model(model)


if __name__ == "__main__":
    main()
