"""The published decoders by name, as keyword arguments of `DecoderConfig`.

Sources: the technical reports of Gemma 1 (arXiv 2403.08295, table 1), Gemma 2 (2408.00118, table 1),
Gemma 3 (2503.19786), Qwen 2.5 (2412.15115, table 1) and Qwen 3 (2505.09388, table 1), and the config.json
of their checkpoints. A folder's own config.json is what counts where one is loaded.
"""

from typing import Any


def _gemma1(depth, width, ff_width, heads, kv_heads) -> dict[str, Any]:
  return {
    'depth': depth,
    'width': width,
    'ff_width': ff_width,
    'heads': heads,
    'kv_heads': kv_heads,
    'head_width': 256,
    'windows': (0,) * depth,
    'rope_bases': (10_000.0,) * depth,
  }


def _gemma2(depth, width, ff_width, heads, kv_heads, head_width, query_scalar) -> dict[str, Any]:
  """Every second layer is global, the first is local."""
  return _gemma1(depth, width, ff_width, heads, kv_heads) | {
    'head_width': head_width,
    'windows': tuple(0 if layer % 2 else 4096 for layer in range(depth)),
    'post_norms': True,
    'attention_softcap': 50.0,
    'logit_softcap': 30.0,
    'query_scale': query_scalar**-0.5,
  }


def _gemma3(
  depth, width, ff_width, heads, kv_heads, window, factor, head_width=256, query_scalar=256
) -> dict[str, Any]:
  """Every sixth layer is global, with a longer RoPE base (and stretched positions from 4B on)."""
  is_global = [layer % 6 == 5 for layer in range(depth)]
  return _gemma1(depth, width, ff_width, heads, kv_heads) | {
    'head_width': head_width,
    'windows': tuple(0 if g else window for g in is_global),
    'rope_bases': tuple(1_000_000.0 if g else 10_000.0 for g in is_global),
    'rope_factors': tuple(factor if g else 1.0 for g in is_global),
    'post_norms': True,
    'qk_norm': True,
    'query_scale': query_scalar**-0.5,
  }


def _qwen(depth, width, ff_width, heads, kv_heads, head_width, tied) -> dict[str, Any]:
  return _gemma1(depth, width, ff_width, heads, kv_heads) | {
    'head_width': head_width,
    'rope_bases': (1_000_000.0,) * depth,
    'norm_plus_one': False,
    'activation': 'silu',
    'embedding_scale': False,
    'tied': tied,
  }


def _qwen2_5(depth, width, ff_width, heads, kv_heads, head_width, tied) -> dict[str, Any]:
  sizes = _qwen(depth, width, ff_width, heads, kv_heads, head_width, tied)
  return sizes | {'qkv_bias': True}


def _qwen3(depth, width, ff_width, heads, tied) -> dict[str, Any]:
  return _qwen(depth, width, ff_width, heads, 8, 128, tied) | {'qk_norm': True}


SIZES: dict[str, dict[str, Any]] = {
  'gemma1_2b': _gemma1(18, 2048, 16384, 8, 1),
  'gemma1_7b': _gemma1(28, 3072, 24576, 16, 16),
  'gemma2_2b': _gemma2(26, 2304, 9216, 8, 4, 256, 256),
  'gemma2_9b': _gemma2(42, 3584, 14336, 16, 8, 256, 256),
  'gemma2_27b': _gemma2(46, 4608, 36864, 32, 16, 128, 144),
  'gemma3_270m': _gemma3(18, 640, 2048, 4, 1, 512, 1.0),
  'gemma3_1b': _gemma3(26, 1152, 6912, 4, 1, 512, 1.0),
  'gemma3_4b': _gemma3(34, 2560, 10240, 8, 4, 1024, 8.0),
  'gemma3_12b': _gemma3(48, 3840, 15360, 16, 8, 1024, 8.0),
  'gemma3_27b': _gemma3(62, 5376, 21504, 32, 16, 1024, 8.0, 128, 168),
  'qwen2_5_0_5b': _qwen2_5(24, 896, 4864, 14, 2, 64, True),
  'qwen2_5_1_5b': _qwen2_5(28, 1536, 8960, 12, 2, 128, True),
  'qwen2_5_3b': _qwen2_5(36, 2048, 11008, 16, 2, 128, True),
  'qwen2_5_7b': _qwen2_5(28, 3584, 18944, 28, 4, 128, False),
  'qwen3_0_6b': _qwen3(28, 1024, 3072, 16, True),
  'qwen3_1_7b': _qwen3(28, 2048, 6144, 16, True),
  'qwen3_4b': _qwen3(36, 2560, 9728, 32, True),
  'qwen3_8b': _qwen3(36, 4096, 12288, 32, False),
  'qwen3_14b': _qwen3(40, 5120, 17408, 40, False),
  'qwen3_32b': _qwen3(64, 5120, 25600, 64, False),
}

# Rows of the published token tables; text pieces and specials of the tokenizer are fewer.
VOCAB_ROWS: dict[str, int] = {
  **{name: 256_000 for name in SIZES if name.startswith(('gemma1', 'gemma2'))},
  **{name: 151_936 for name in SIZES if name.startswith('qwen')},
  'gemma3_270m': 262_144,
  'gemma3_1b': 262_144,
  'gemma3_4b': 262_208,
  'gemma3_12b': 262_208,
  'gemma3_27b': 262_208,
  'qwen2_5_7b': 152_064,
}
