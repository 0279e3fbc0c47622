"""A model trained by floret, made into one that every fastText reads.

floret (the one maintained descendant of fastText that trains on NumPy 2) writes fastText's own format, version 12, with
two settings more: after `maxn` its header has `mode` and `hashCount` (int32 each, `Args::save` in its args.cc). A model
trained with mode `fasttext` is otherwise the same bytes, so that leaving the two out gives fastText's file.
"""

from __future__ import annotations

import struct

MAGIC, VERSION = 793712314, 12
# After magic and version, int32 each: dim, ws, epoch, minCount, neg, wordNgrams, loss, model, bucket, minn, maxn.
_BEFORE = struct.Struct("<2i11i")
_EXTRA = struct.Struct("<2i")
_SUPERVISED, _MODE_FASTTEXT = 3, 1


def to_fasttext(data: bytes) -> bytes:
    """floret's .bin (a supervised model of mode fasttext) without floret's two settings. Raises ValueError."""
    if len(data) < _BEFORE.size + _EXTRA.size:
        raise ValueError("not a floret model: too short")
    magic, version, *settings = _BEFORE.unpack_from(data)
    mode, _ = _EXTRA.unpack_from(data, _BEFORE.size)
    if (magic, version, settings[7], mode) != (MAGIC, VERSION, _SUPERVISED, _MODE_FASTTEXT):
        raise ValueError(
            f"not a supervised floret model of mode fasttext: magic {magic}, version {version}, "
            f"model {settings[7]}, mode {mode}"
        )
    return data[: _BEFORE.size] + data[_BEFORE.size + _EXTRA.size :]
