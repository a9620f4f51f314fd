"""Large parts of the page, compressed: the page's script unpacks them with the browser's own ``DecompressionStream``.

The chart library alone is 4.8 MB of text, and numbers with their intervals repeat each other; packed, a page is a third of its size and
can be sent by mail. Base64 has no character that could end a script element, whatever names the data hold.
"""

from __future__ import annotations

import base64
import gzip
import json
from functools import cache
from typing import Any


def packed(text: str, level: int = 6) -> str:
    """Return text as base64 of gzip; the same text always gives the same."""
    return base64.b64encode(gzip.compress(text.encode("utf-8", "backslashreplace"), level, mtime=0)).decode("ascii")


def packed_json(value: Any) -> str:
    """Return a value as packed JSON, without NaN, which no browser reads."""
    return packed(json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")))


def unpacked(text: str) -> str:
    """Return what `packed` was given."""
    return gzip.decompress(base64.b64decode(text)).decode()


@cache
def packed_plotly() -> str:
    """Return plotly.js, packed."""
    from plotly.offline import get_plotlyjs

    return packed(get_plotlyjs(), 9)
