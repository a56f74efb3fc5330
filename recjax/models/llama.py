"""Llama 3, 3.1 and 3.2: the published sizes and the record of the family.

Sources: "The Llama 3 herd of models" (arXiv 2407.21783, table 3) and the config.json of the checkpoints. A
checkpoint's own config.json overrides a size; Llama 1 and 2, which have the same layers, are read too.
"""

from recjax.models.decoder import Decoder, DecoderConfig
from recjax.models.family import Family, Size, SpecialToken
from recjax.models.mappings import llama as mapping

_ROWS = 128_256


def _llama(
  depth, width, ff_width, heads, head_width, tied=False, factor: float | None = None
) -> Size:
  """Returns a size; `factor` is that of `DecoderConfig.rope_llama3`, for contexts of 128K tokens."""
  shape = DecoderConfig(
    depth=depth,
    width=width,
    ff_width=ff_width,
    heads=heads,
    kv_heads=8,
    head_width=head_width,
    windows=(0,) * depth,
    rope_bases=(500_000.0,) * depth,
    rope_llama3=() if factor is None else (factor, 1.0, 4.0, 8192.0),
    norm_plus_one=False,
    norm_eps=1e-5,
    activation='silu',
    embedding_scale=False,
    tied=tied,
  )
  return Size(shape, _ROWS)


SIZES: dict[str, Size] = {
  'llama3_8b': _llama(32, 4096, 14336, 32, 128),
  'llama3_1_8b': _llama(32, 4096, 14336, 32, 128, factor=8.0),
  'llama3_2_1b': _llama(16, 2048, 8192, 32, 64, tied=True, factor=32.0),
  'llama3_2_3b': _llama(28, 3072, 8192, 24, 128, tied=True, factor=32.0),
}

FAMILY = Family(
  name='llama',
  shape=DecoderConfig,
  build=Decoder,
  sizes=SIZES,
  checkpoints=mapping.CHECKPOINTS,
  bos=SpecialToken('<|begin_of_text|>', 128_000),
  eos=SpecialToken('<|end_of_text|>', 128_001),
)
