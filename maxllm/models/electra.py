"""ELECTRA's two encoders (Clark et al. 2020): a small one proposes words for masked places, the other finds them."""

from __future__ import annotations

from typing import Any

from flax import nnx

from maxllm.config.model import ModelConfig
from maxllm.models.encoder import Encoder

# "Weight sharing", section 3.2: the generator uses the discriminator's tables; the norm after them too, as in the
# authors' code.
SHARED = ("embed", "type", "position", "embedding_norm")


class Electra(nnx.Module):
    """Only the discriminator is kept after training: `exported`. `settings`: Encoder's."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs, **settings: Any):
        self.config = config
        own = config.encoder.model_copy(update={"generator_factor": None})
        self.discriminator = Encoder(config.model_copy(update={"encoder": own}), rngs=rngs, **settings)
        self.generator = Encoder(config.generator, rngs=rngs, **settings)
        for name in SHARED:
            if hasattr(self.discriminator, name):
                setattr(self.generator, name, getattr(self.discriminator, name))

    @property
    def exported(self) -> Encoder:
        return self.discriminator
