"""One array per step to the host: tokens, validity, lengths and logprobs of every row, side by side."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from maxllm.generate.request import MAX_LOGPROBS, TokenLogprob

LOGPROB_COLUMNS = 1 + 2 * MAX_LOGPROBS  # as packed by `sampling.token_logprobs`
TOKENS, VALID, LENGTH, LOGPROBS = slice(0, 1), slice(1, 2), slice(2, 3), slice(3, 3 + LOGPROB_COLUMNS)


class SlotData(NamedTuple):
    """One row, on the host."""

    token: int
    valid: bool  # False: the row is idle, or its logits were not finite
    length: int  # tokens cached in the slot
    logprobs: np.ndarray  # int32 [LOGPROB_COLUMNS], zeros unless asked for


class ResultTokens(NamedTuple):
    """JetStream's: `data` int32 `[rows, tokens | valid | length | logprobs]`; floats are carried as their bits."""

    data: Any

    @classmethod
    def pack(cls, tokens: jax.Array, valid: jax.Array, lengths: jax.Array, logprobs: jax.Array) -> ResultTokens:
        columns = [tokens[:, None], valid[:, None], lengths[:, None], logprobs]
        return cls(jnp.concatenate([column.astype(jnp.int32) for column in columns], axis=-1))

    def copy_to_host_async(self) -> None:
        self.data.copy_to_host_async()

    def convert_to_numpy(self) -> ResultTokens:
        """Waits for the step."""
        return ResultTokens(np.asarray(self.data))

    def get_result_at_slot(self, slot: int) -> SlotData:
        token, valid, length = self.data[slot, :3].tolist()
        return SlotData(token, bool(valid), length, self.data[slot, LOGPROBS])


def unpack_logprobs(token_id: int, packed: np.ndarray, top: int) -> TokenLogprob:
    """`packed` int32 `[LOGPROB_COLUMNS]`, made by `sampling.token_logprobs` for `token_id`."""
    ids = packed[1 : 1 + top].tolist()
    values = packed[1 + MAX_LOGPROBS :][:top].view(np.float32).tolist()
    return TokenLogprob(token_id, float(packed[:1].view(np.float32)[0]), tuple(zip(ids, values, strict=True)))
