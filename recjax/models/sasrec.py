"""SASRec: a causal Transformer over items with learned absolute positions.

Source: Kang and McAuley, "Self-attentive sequential recommendation" (ICDM 2018, section 3): embedding plus position,
then blocks of self-attention and a point-wise feed-forward layer with ReLU, both with layer norm, dropout and a
residual connection, and scores as products with the item embeddings. Ours: every branch norms its input, also keys
and values, and the last state is normed; dropout is that of every backbone here (embedding and branches). The
training loss is that of the run: with one token an item (`sids.quantizer='item'`) the full softmax over the
catalogue instead of the paper's binary loss.
"""

import dataclasses

from flax import nnx
from jax.sharding import PartitionSpec as P

from recjax.models.decoder import Decoder, DecoderConfig
from recjax.models.family import Family
from recjax.models.layers import ACTIVATIONS, LayerNorm, PointwiseFeedForward
from recjax.schema.model import Model
from recjax.sharding import rules


@dataclasses.dataclass(frozen=True)
class SasrecConfig(DecoderConfig):
  """The shape of a SASRec model.

  Attributes:
    max_positions: number of positions with a row; a prompt or a segment of a packed row has at most so many.
  """

  max_positions: int = 512

  @property
  def learned_positions(self) -> int:
    return self.max_positions

  def norm(self, width: int) -> nnx.Module:
    return LayerNorm(width, self.norm_eps)

  def feed_forward(self, rngs: nnx.Rngs) -> nnx.Module:
    return PointwiseFeedForward(self.width, self.ff_width, ACTIVATIONS[self.activation], rngs)


def _own_shape(model: Model) -> SasrecConfig:
  """Returns the shape that the size fields of the config give."""
  rope_base = 1.0  # without effect: positions are learned
  return SasrecConfig.of_model(
    model, rope_base, activation='relu', max_positions=model.max_positions
  )


FAMILY = Family(
  name='sasrec',
  shape=SasrecConfig,
  build=Decoder,
  own_shape=_own_shape,
  parameter_rules=((r'^positions$', (P(),)), *rules.PARAMETER_RULES),
)
