"""Multi-head latent attention (DeepSeek-AI 2024, section 2.1.1; first in DeepSeek-V2)."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name

from maxllm.config.model_parts import LatentAttentionConfig, RopeScalingConfig
from maxllm.kernels.attention import attention
from maxllm.kernels.cached_attention import attend_to_cache
from maxllm.kernels.masking import Masking
from maxllm.models.attention import Places, read, write
from maxllm.models.linear import Linear
from maxllm.models.norm import RMSNorm
from maxllm.models.rope import Rotation, rotate
from maxllm.parallel.rules import constrain

_EPS = 1e-6  # of the norms in here, whatever the model's others have: as published


class LatentAttention(nnx.Module):
    """Attention whose keys and values are products of one small vector per token, its latent `c`:

        c = norm(down · x)    key_h = [key_up_h · c; turn(key_rope · x)]    value_h = value_up_h · c

    The turned part of a key is the same for all heads. Queries go through a small vector too (`query_rank`), or not.
    Training makes keys and values of `c` and runs them through the same kernels as any attention. Generation keeps `c`
    and the turned part alone, and multiplies queries and mixed latents with the matrices instead (section 2.1.2 of
    DeepSeek-V2's paper): as many products per token, of a cache that is some sixty times smaller.
    """

    def __init__(
        self,
        hidden_size: int,
        num_heads: int,
        latent: LatentAttentionConfig,
        *,
        backend: str = "auto",
        context: str = "ring",
        scale: float | None = None,
        std: float,
        rngs: nnx.Rngs,
    ):
        options = {"std": std, "rngs": rngs}
        embed, rank = {"embed": hidden_size}, {"embed": latent.rank}

        def heads(width: int) -> dict[str, int]:
            return {"heads": num_heads, "head_dim": width}

        # Into a rank: whole on every device but for the input. Out of it: the rank is split as any input is.
        queries = embed
        if latent.query_rank:
            self.query_down = Linear(embed, {None: latent.query_rank}, **options)
            self.query_norm = RMSNorm(latent.query_rank, eps=_EPS)
            queries = {"embed": latent.query_rank}
        self.query = Linear(queries, heads(latent.nope_dim + latent.rope_dim), **options)
        self.down = Linear(embed, {None: latent.rank}, **options)
        self.norm = RMSNorm(latent.rank, eps=_EPS)
        self.key_rope = Linear(embed, {None: latent.rope_dim}, **options)
        self.key_up = Linear(rank, heads(latent.nope_dim), **options)
        self.value_up = Linear(rank, heads(latent.value_dim), **options)
        self.output = Linear(heads(latent.value_dim), embed, **options)
        self.latent = latent
        self.masking = Masking(scale=scale or score_scale(latent, None))
        self.backend = backend
        self.context = context

    def __call__(
        self, x: jax.Array, places: Places, segment_ids: jax.Array | None = None, *, local: bool = False
    ) -> jax.Array:
        """As `Attention`, whose kernels want values as wide as keys: the narrower ones are filled up with zeros."""
        query = jnp.concatenate(self._queries(x, places.turned(local)), axis=-1)
        latents, turned = self._kept(x, places.turned(local))
        turned = jnp.broadcast_to(turned, (*query.shape[:-1], self.latent.rope_dim))
        key = jnp.concatenate([self.key_up(latents), turned], axis=-1)
        value = self.value_up(latents)
        width = max(key.shape[-1], value.shape[-1])
        # Named before they are filled up: what is kept for the backward pass is no zeros.
        named = zip((query, key, value), ("query", "key", "value"), strict=True)
        query, key, value = (
            _widened(checkpoint_name(constrain(part, "batch", "length", "heads", None), name), width)
            for part, name in named
        )
        mixed = attention(
            query,
            key,
            value,
            segment_ids=segment_ids,
            prefix=places.prefix,
            masking=self.masking,
            backend=self.backend,
            context=self.context,
        )
        mixed = constrain(mixed[..., : self.latent.value_dim], "batch", "length", "heads", None)
        return checkpoint_name(self.output(mixed), "attention_output")

    def extend(
        self,
        x: jax.Array,
        places: Places,
        keys: jax.Array,
        values: jax.Array,
        layer: jax.Array,
        window: int,
        *,
        local: bool = False,
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """As `Attention.extend`. The cache's `keys` hold latents, `[layers, rows, 1, max_length, rank]`, and its
        `values` the turned parts of keys, `[layers, rows, 1, max_length, rope_dim]`."""
        query, query_turned = self._queries(x, places.turned(local))
        latents, turned = self._kept(x, places.turned(local))
        keys = write(keys, latents[:, :, None], layer, places.positions)
        values = write(values, turned, layer, places.positions)
        latents, turned = (read(part, layer, x.shape[0], window) for part in (keys, values))
        # (key_up_h · c) · query_h = c · (key_up_hᵀ · query_h): the latents are every head's keys, and its values.
        absorbed = jnp.einsum("bthn,rhn->bthr", query, self._kernel(self.key_up, x))
        by_place = jnp.einsum(
            "bthr,bsr->bhts", query_turned, turned[:, 0].astype(x.dtype), preferred_element_type=jnp.float32
        )
        bias = by_place * self.masking.scale
        mixed = attend_to_cache(absorbed, latents, latents, places.positions, self.masking, bias)
        mixed = jnp.einsum("bthr,rhv->bthv", mixed, self._kernel(self.value_up, x))
        return self.output(mixed), keys, values

    def _queries(self, x: jax.Array, by: Rotation | None) -> tuple[jax.Array, jax.Array]:
        """Without positions and with: `[batch, length, heads, nope_dim]` and `[..., rope_dim]`."""
        if self.latent.query_rank:
            x = self.query_norm(self.query_down(x))
        query = self.query(x)
        query, turned = query[..., : self.latent.nope_dim], query[..., self.latent.nope_dim :]
        return query, turned if by is None else rotate(turned, by)

    def _kept(self, x: jax.Array, by: Rotation | None) -> tuple[jax.Array, jax.Array]:
        """What generation keeps of a token: `[batch, length, rank]` and `[batch, length, 1, rope_dim]`."""
        turned = self.key_rope(x)[:, :, None]
        return self.norm(self.down(x)), turned if by is None else rotate(turned, by)

    @staticmethod
    def _kernel(linear: Linear, x: jax.Array) -> jax.Array:
        return linear.kernel[...].astype(x.dtype)


def _widened(x: jax.Array, width: int) -> jax.Array:
    return jnp.pad(x, ((0, 0),) * (x.ndim - 1) + ((0, width - x.shape[-1]),))


def score_scale(latent: LatentAttentionConfig, scaling: RopeScalingConfig | None) -> float:
    """1 / sqrt(width of a query), and with YaRN as DeepSeek has it (Peng et al. 2023, equation 22, on all dimensions)
    times the square of what it calls mscale: 0.1 mscale_all_dim ln(factor) + 1."""
    scale = (latent.nope_dim + latent.rope_dim) ** -0.5
    if scaling is None or not scaling.mscale_all_dim:
        return scale
    return scale * (0.1 * scaling.mscale_all_dim * math.log(scaling.factor) + 1.0) ** 2
