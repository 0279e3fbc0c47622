"""Personal information in text: found by form, checked by what the form promises, masked.

`mask(text) -> (text, counts)` is the whole of it. Nothing in here prints, logs or raises with a piece of the text.
"""

from data_beam.pii.mask import EXAMPLE, KINDS, NAMED, mask

__all__ = ["EXAMPLE", "KINDS", "NAMED", "mask"]
