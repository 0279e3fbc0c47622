"""fastText's file: a model trained by floret made into one that every fastText reads, and whether a file is whole.

floret (the one maintained descendant of fastText that trains on NumPy 2) writes fastText's own format, version 12, with
two settings more: after `maxn` its header has `mode` and `hashCount` (int32 each, `Args::save` in its args.cc). A model
trained with mode `fasttext` is otherwise the same bytes, so that leaving the two out gives fastText's file.
"""

from __future__ import annotations

import mmap
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


def check_whole(data: bytes | mmap.mmap) -> None:
    """That a .bin or .ftz is a supervised model and ends where it says it does. Raises ValueError, with the reason.

    fastText itself trusts the file: of one that was cut off it reads words until memory is gone, or divides by zero.
    """
    try:
        end = _walk(data)
    except struct.error:
        raise ValueError("it is cut off") from None
    if end != len(data):
        raise ValueError(f"it is {len(data):,} bytes long and says {end:,}")


def _walk(data: bytes | mmap.mmap) -> int:
    """Where the model ends by its own numbers. `FastText::loadModel` and the `load` of each part."""
    magic, version, *settings = _BEFORE.unpack_from(data)
    if magic != MAGIC or version not in (VERSION - 1, VERSION) or settings[7] != _SUPERVISED:
        raise ValueError("it does not begin as a supervised fastText model")
    place = _BEFORE.size + 4 + 8  # lrUpdateRate (int32), t (double)
    size, _, _, _, pruned = struct.unpack_from("<3i2q", data, place)
    place += 3 * 4 + 2 * 8
    for _ in range(size):  # word, 0, count (int64), kind (int8)
        place = data.find(b"\0", place) + 1 + 8 + 1
        if place < 1 + 8 + 1 + 1:
            raise ValueError("it is cut off")
    place += 8 * max(pruned, 0)
    (quantized,) = struct.unpack_from("<?", data, place)
    place = _matrix(data, place + 1, quantized)
    (output_quantized,) = struct.unpack_from("<?", data, place)
    return _matrix(data, place + 1, quantized and output_quantized)


def _matrix(data: bytes | mmap.mmap, place: int, quantized: bool) -> int:
    """Where the matrix that begins at `place` ends."""
    if not quantized:
        rows, columns = struct.unpack_from("<2q", data, place)
        return place + 16 + 4 * rows * columns
    norms, rows, _, codes = struct.unpack_from("<?2qi", data, place)
    place = _centroids(data, place + 1 + 16 + 4 + codes)
    return _centroids(data, place + rows) if norms else place


def _centroids(data: bytes | mmap.mmap, place: int) -> int:
    (columns,) = struct.unpack_from("<i", data, place)
    return place + 4 * 4 + 4 * 256 * columns
