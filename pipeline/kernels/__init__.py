"""Pure compiled functions over Arrow buffers and arrays: no I/O, no settings.

Compiled once per machine and cached beside the sources (10 to 30 s the first time). Where neither this folder nor the
user's cache folder can be written, a folder of this process's own takes the cache.
"""

import os
import tempfile
from pathlib import Path


def _writable_cache() -> None:
    """Numba refuses to compile cached functions when it finds no folder for them."""
    home = Path.home() if os.environ.get("HOME") or os.name == "nt" else Path("/")
    places = (Path(__file__).parent, home)
    if "NUMBA_CACHE_DIR" not in os.environ and not any(os.access(place, os.W_OK) for place in places):
        os.environ["NUMBA_CACHE_DIR"] = tempfile.mkdtemp(prefix="tokenmill-kernels-")


_writable_cache()
