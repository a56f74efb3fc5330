"""Qwen 2.5 and dense Qwen 3: the published sizes and the record of the family.

Sources: the technical reports of Qwen 2.5 (arXiv 2412.15115, table 1) and Qwen 3 (2505.09388, table 1), and
the config.json of the checkpoints. A checkpoint's own config.json overrides a size.
"""

from typing import Any

from recjax.models.decoder import Decoder, DecoderConfig
from recjax.models.family import Family, Size, SpecialToken
from recjax.models.mappings import qwen as mapping

_ROWS = 151_936


def _qwen(
  depth, width, ff_width, heads, kv_heads, head_width, tied, **choices: Any
) -> DecoderConfig:
  return DecoderConfig(
    depth=depth,
    width=width,
    ff_width=ff_width,
    heads=heads,
    kv_heads=kv_heads,
    head_width=head_width,
    windows=(0,) * depth,
    rope_bases=(1_000_000.0,) * depth,
    norm_plus_one=False,
    activation='silu',
    embedding_scale=False,
    tied=tied,
    **choices,
  )


def _qwen2_5(depth, width, ff_width, heads, kv_heads, head_width, tied, rows=_ROWS) -> Size:
  shape = _qwen(depth, width, ff_width, heads, kv_heads, head_width, tied, qkv_bias=True)
  return Size(shape, rows)


def _qwen3(depth, width, ff_width, heads, tied) -> Size:
  return Size(_qwen(depth, width, ff_width, heads, 8, 128, tied, qk_norm=True), _ROWS)


SIZES: dict[str, Size] = {
  'qwen2_5_0_5b': _qwen2_5(24, 896, 4864, 14, 2, 64, True),
  'qwen2_5_1_5b': _qwen2_5(28, 1536, 8960, 12, 2, 128, True),
  'qwen2_5_3b': _qwen2_5(36, 2048, 11008, 16, 2, 128, True),
  'qwen2_5_7b': _qwen2_5(28, 3584, 18944, 28, 4, 128, False, 152_064),
  'qwen3_0_6b': _qwen3(28, 1024, 3072, 16, True),
  'qwen3_1_7b': _qwen3(28, 2048, 6144, 16, True),
  'qwen3_4b': _qwen3(36, 2560, 9728, 32, True),
  'qwen3_8b': _qwen3(36, 4096, 12288, 32, False),
  'qwen3_14b': _qwen3(40, 5120, 17408, 40, False),
  'qwen3_32b': _qwen3(64, 5120, 25600, 64, False),
}

FAMILY = Family(
  name='qwen',
  shape=DecoderConfig,
  build=Decoder,
  sizes=SIZES,
  checkpoints=mapping.CHECKPOINTS,
  eos=SpecialToken('<|endoftext|>', 151_643),
  pad=SpecialToken('<|endoftext|>', 151_643),
)
