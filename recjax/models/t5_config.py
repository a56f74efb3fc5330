"""The shape of a T5 and the published sizes."""

import dataclasses

from recjax.models.family import Size
from recjax.models.layers import Computation


@dataclasses.dataclass(frozen=True)
class T5Config(Computation):
  """The shape of an encoder–decoder.

  v1.0 is tied and scaled; v1.1 is neither. With `transformers`, v1.1 models can also be tied but not scaled.
  """

  depth: int  # layers of the encoder
  decoder_depth: int
  width: int
  ff_width: int
  heads: int
  head_width: int
  activation: str = 'gelu_tanh'  # a name of recjax.models.layers.ACTIVATIONS
  gated: bool = True
  tied: bool = False  # whether the output uses the input tables
  scaled: bool = False  # whether logits are multiplied by width ** -0.5
  relative_buckets: int = 32
  relative_max_distance: int = 128  # keys at larger distances share the last bucket
  norm_eps: float = 1e-6
  start_id: int = 0  # first token that the decoder reads; T5 uses the padding token


def _v1_0(depth: int, width: int, ff_width: int, heads: int, head_width: int) -> T5Config:
  return T5Config(
    depth,
    depth,
    width,
    ff_width,
    heads,
    head_width,
    activation='relu',
    gated=False,
    tied=True,
    scaled=True,
  )


def _v1_1(depth: int, width: int, ff_width: int, heads: int) -> T5Config:
  return T5Config(depth, depth, width, ff_width, heads, head_width=64)


_V1_1 = {
  'small': _v1_1(8, 512, 1024, 6),
  'base': _v1_1(12, 768, 2048, 12),
  'large': _v1_1(24, 1024, 2816, 16),
  'xl': _v1_1(24, 2048, 5120, 32),
  'xxl': _v1_1(24, 4096, 10240, 64),
}

# T5 (arXiv 1910.10683, section 3.7, and its v1.1 checkpoints), FLAN-T5 (2210.11416), mT5 (2010.11934).
_ROWS = {'mt5': (250_112, 250_100)}  # rows of the published table, tokens of the tokenizer
SIZES: dict[str, Size] = {
  name: Size(config, *_ROWS.get(name.split('_')[0], (32_128, 32_100)))
  for name, config in {
    't5_small': _v1_0(6, 512, 2048, 8, 64),
    't5_base': _v1_0(12, 768, 3072, 12, 64),
    't5_large': _v1_0(24, 1024, 4096, 16, 64),
    't5_3b': _v1_0(24, 1024, 16384, 32, 128),
    't5_11b': _v1_0(24, 1024, 65536, 128, 128),
    **{
      f'{family}_{size}': config
      for family in ('t5_v1_1', 'flan_t5', 'mt5')
      for size, config in _V1_1.items()
    },
  }.items()
}
