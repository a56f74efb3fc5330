"""The text model of Qwen 3.5 (dense): the published sizes and the record of the family.

Source: the config.json of the checkpoints. A checkpoint's own config.json overrides a size.
"""

from jax.sharding import PartitionSpec as P

from recjax.models.family import Family, Size, SpecialToken
from recjax.models.hybrid import HybridConfig, HybridDecoder
from recjax.models.mappings import qwen3_5 as mapping
from recjax.sharding import rules

_ROWS = 248_320


def _qwen3_5(depth, width, ff_width, heads, kv_heads, groups, tied) -> Size:
  """Returns a size; every fourth layer is full. `groups` as in `linear_attention.Heads`."""
  shape = HybridConfig(
    depth=depth,
    width=width,
    ff_width=ff_width,
    heads=heads,
    kv_heads=kv_heads,
    head_width=256,
    windows=(0,) * depth,
    rope_bases=(10_000_000.0,) * depth,
    rotary_width=64,
    gated=True,
    qk_norm=True,
    activation='silu',
    embedding_scale=False,
    tied=tied,
    kinds=('linear', 'linear', 'linear', 'full') * (depth // 4),
    linear=(16, groups, 128, 128, 4),
  )
  return Size(shape, _ROWS)


SIZES: dict[str, Size] = {
  'qwen3_5_0_8b': _qwen3_5(24, 1024, 3584, 8, 2, 1, True),
  'qwen3_5_4b': _qwen3_5(32, 2560, 9216, 16, 4, 2, True),
  'qwen3_5_9b': _qwen3_5(32, 4096, 12288, 16, 4, 2, False),
  'qwen3_5_27b': _qwen3_5(64, 5120, 17408, 24, 4, 3, False),
}

_RULES: rules.Rules = (
  (
    r'layers/.*attention/(qkv|gate|strength|decay)/kernel$',  # depth, D, K, outputs of a head
    (P(None, 'fsdp', 'tensor', None), P(None, ('fsdp', 'tensor'), None, None)),
  ),
  (r'attention/(taps|log_rate)$', (P(),)),
)

FAMILY = Family(
  name='qwen3_5',
  shape=HybridConfig,
  build=HybridDecoder,
  sizes=SIZES,
  checkpoints=mapping.CHECKPOINTS,
  parameter_rules=(*_RULES, *rules.PARAMETER_RULES),
  eos=SpecialToken('<|endoftext|>', 248_044),
  pad=SpecialToken('<|endoftext|>', 248_044),
)
