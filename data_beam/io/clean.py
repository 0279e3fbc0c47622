"""What came out of somebody's file, made into JSON's types that every writer, coder and reader after this one takes."""

from __future__ import annotations

import datetime
import math
import re
from typing import Any

# Python's own reader stops near 1,000, where its writer and pickle may already fail: depth costs stack.
MAX_DEPTH = 64
CREATED_KEYS = ("created", "date", "timestamp", "published")  # of web crawls and news sets, first come
_PARTIAL_DATE = re.compile(r"\d{4}(-\d{2}(-\d{2})?)?")


# Keys of metadata with a meaning here (data_beam/document.py, stages/stage.py), and what stages take them to be.
MEANING = {
    **dict.fromkeys("url path language group content_type programming_language license module".split(), str),
    **dict.fromkeys(("language_confidence",), (int, float)),
    **dict.fromkeys(("signals", "removed_characters", "scores", "pii"), dict),
}


class TooDeep(ValueError):
    pass


def plain(value: Any, depth: int = 0) -> Any:
    """JSON's types: times in ISO 8601, bytes as text, NaN and infinities as null, arrays as lists. Raises TooDeep."""
    if isinstance(value, str):
        return text(value)
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if depth >= MAX_DEPTH:
        raise TooDeep(f"nested deeper than {MAX_DEPTH} levels")
    if isinstance(value, dict):
        return {text(str(key)): plain(item, depth + 1) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item, depth + 1) for item in value]
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    if hasattr(value, "tolist"):  # NumPy's
        return plain(value.tolist(), depth + 1)
    return text(str(value))


def typed(metadata: dict[str, Any]) -> dict[str, Any]:
    """A key that has a meaning here and a value of another type is somebody else's: it becomes `original_KEY`."""
    for key, kind in MEANING.items():
        value = metadata.get(key)
        strange = value is not None and (not isinstance(value, kind) or isinstance(value, bool))
        if key == "signals" and not strange and value is not None:
            strange = not all(isinstance(each, dict) for each in value.values())
        if strange:
            metadata[f"original_{key}"] = metadata.pop(key)
    return metadata


def text(value: str) -> str:
    """Without lone surrogates, which JSON escapes and file names can hold and UTF-8 can not: `?` in their place."""
    return value if value.isascii() else value.encode("utf-8", "replace").decode("utf-8")


def time(value: Any) -> str | None:
    """ISO 8601 in UTC, which sorts as text: of ISO text (without a zone: UTC), or of seconds or milliseconds since
    1970. A year, month or day alone stays as it is. None of anything else."""
    try:
        if isinstance(value, str):
            value = value.strip()
            if _PARTIAL_DATE.fullmatch(value):
                return value
            value = datetime.datetime.fromisoformat(value)
        elif isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < 1e14:
            seconds = value if value < 1e11 else value / 1000
            value = datetime.datetime.fromtimestamp(seconds, datetime.UTC)
        if not isinstance(value, datetime.datetime):
            return value.isoformat() if isinstance(value, datetime.date) else None
        value = value if value.tzinfo else value.replace(tzinfo=datetime.UTC)
        return value.astimezone(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    except (ValueError, OverflowError):
        return None
