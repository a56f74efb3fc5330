"""Gemma 1, 2 and 3: the published sizes and the record of the family.

Sources: the technical reports of Gemma 1 (arXiv 2403.08295, table 1), Gemma 2 (2408.00118, table 1) and
Gemma 3 (2503.19786), and the config.json of the checkpoints. A checkpoint's own config.json overrides a size.
"""

from recjax.models.decoder import Decoder, DecoderConfig
from recjax.models.family import Family, Size, SpecialToken
from recjax.models.mappings import gemma as mapping
from recjax.schema.model import Model


def _gemma1(depth, width, ff_width, heads, kv_heads) -> DecoderConfig:
  return DecoderConfig(
    depth=depth,
    width=width,
    ff_width=ff_width,
    heads=heads,
    kv_heads=kv_heads,
    head_width=256,
    windows=(0,) * depth,
    rope_bases=(10_000.0,) * depth,
  )


def _gemma2(depth, width, ff_width, heads, kv_heads, head_width, query_scalar) -> DecoderConfig:
  """Odd layers (counted from 0) are global, even ones local."""
  return DecoderConfig(
    depth=depth,
    width=width,
    ff_width=ff_width,
    heads=heads,
    kv_heads=kv_heads,
    head_width=head_width,
    windows=tuple(0 if layer % 2 else 4096 for layer in range(depth)),
    rope_bases=(10_000.0,) * depth,
    post_norms=True,
    attention_softcap=50.0,
    logit_softcap=30.0,
    query_scale=query_scalar**-0.5,
  )


def _gemma3(
  depth, width, ff_width, heads, kv_heads, window, factor, head_width=256, query_scalar=256
) -> DecoderConfig:
  """Every sixth layer is global, with a larger RoPE base and, from 4B on, scaled positions."""
  is_global = [layer % 6 == 5 for layer in range(depth)]
  return DecoderConfig(
    depth=depth,
    width=width,
    ff_width=ff_width,
    heads=heads,
    kv_heads=kv_heads,
    head_width=head_width,
    windows=tuple(0 if g else window for g in is_global),
    rope_bases=tuple(1_000_000.0 if g else 10_000.0 for g in is_global),
    rope_factors=tuple(factor if g else 1.0 for g in is_global),
    post_norms=True,
    qk_norm=True,
    query_scale=query_scalar**-0.5,
  )


SIZES: dict[str, Size] = {
  'gemma1_2b': Size(_gemma1(18, 2048, 16384, 8, 1), 256_000),
  'gemma1_7b': Size(_gemma1(28, 3072, 24576, 16, 16), 256_000),
  'gemma2_2b': Size(_gemma2(26, 2304, 9216, 8, 4, 256, 256), 256_000),
  'gemma2_9b': Size(_gemma2(42, 3584, 14336, 16, 8, 256, 256), 256_000),
  'gemma2_27b': Size(_gemma2(46, 4608, 36864, 32, 16, 128, 144), 256_000),
  'gemma3_270m': Size(_gemma3(18, 640, 2048, 4, 1, 512, 1.0), 262_144),
  'gemma3_1b': Size(_gemma3(26, 1152, 6912, 4, 1, 512, 1.0), 262_144),
  'gemma3_4b': Size(_gemma3(34, 2560, 10240, 8, 4, 1024, 8.0), 262_208),
  'gemma3_12b': Size(_gemma3(48, 3840, 15360, 16, 8, 1024, 8.0), 262_208),
  'gemma3_27b': Size(_gemma3(62, 5376, 21504, 32, 16, 1024, 8.0, 128, 168), 262_208),
}


def _own_shape(model: Model) -> DecoderConfig:
  """Returns Gemma 1's architecture with the widths and depth of the config."""
  return DecoderConfig.of_model(model, 10_000.0)


FAMILY = Family(
  name='gemma',
  shape=DecoderConfig,
  build=Decoder,
  own_shape=_own_shape,
  sizes=SIZES,
  checkpoints=mapping.CHECKPOINTS,
  bos=SpecialToken('<bos>', 2),
  eos=SpecialToken('<eos>', 1),
  pad=SpecialToken('<pad>', 0),
)
