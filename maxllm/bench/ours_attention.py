"""Our attention, forward and backward, as a measured program: python -m maxllm.bench.ours_attention CONFIG.json"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp

from maxllm.bench.ours_step import packed_batch, peak_memory
from maxllm.bench.program import serve
from maxllm.config.train import TrainConfig
from maxllm.kernels.attention import attention


def main(config: TrainConfig) -> None:
    model, data = config.model, config.data
    rows = data.batch_size // config.train.accumulation_steps
    dtype = jnp.dtype(config.compute.dtype)
    keys = jax.random.split(jax.random.key(0), 4)
    heads = [model.num_heads, model.num_kv_heads, model.num_kv_heads, model.num_heads]
    query, key, value, cotangent = (
        jax.random.normal(k, (rows, data.sequence_length, count, model.head_size)).astype(dtype)
        for k, count in zip(keys, heads, strict=True)
    )
    segment_ids = jnp.asarray(packed_batch(data, model.vocab_size).segment_ids[:rows])

    @jax.jit
    def forward_and_backward(query: jax.Array, key: jax.Array, value: jax.Array) -> tuple[jax.Array, ...]:
        mixed, pull = jax.vjp(
            lambda *x: attention(*x, segment_ids=segment_ids, backend=config.compute.attention), query, key, value
        )
        return mixed, *pull(cotangent)

    def repeat() -> None:
        jax.block_until_ready(forward_and_backward(query, key, value))

    began = time.perf_counter()
    repeat()
    serve(repeat, {"versions": f"jax {jax.__version__}", "compile": time.perf_counter() - began}, peak_memory)


if __name__ == "__main__":
    main(TrainConfig.model_validate_json(Path(sys.argv[1]).read_text()))
