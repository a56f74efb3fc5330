"""Floating-point operations of a training step in closed form: those of its matrix products.

A product of [m, k] and [k, n] counts 2 m k n, and the backward pass twice the forward pass (Kaplan et al.,
arXiv 2001.08361, section 2.1). What is computed again, under rematerialisation or in the loss, counts once, as
in the model FLOPs utilisation of PaLM (arXiv 2204.02311, appendix B). A packed row holds segments of one length.
"""

from recjax.models.decoder import DecoderConfig
from recjax.models.t5 import T5Config

# NVIDIA's data sheets (SXM where nothing is said, without sparsity) and Google Cloud's pages of its TPUs, by
# what JAX calls them; the first name found counts.
_PEAKS = {
  'H200 NVL': 835e12,
  'H100 NVL': 835e12,
  'H100 PCIe': 756e12,
  'H200': 989e12,
  'H100': 989e12,
  'A100': 312e12,
  'TPU v4': 275e12,
  'TPU v5 lite': 197e12,
  'TPU v5': 459e12,  # v5p
  'TPU v6 lite': 918e12,
}


def seen_pairs(length: int, window: int = 0) -> int:
  """Query-key pairs of a causal row; a key is seen where its distance is below the window (0: all)."""
  window = min(window or length, length)
  return window * (window + 1) // 2 + (length - window) * window


def _decoder(config: DecoderConfig, T: int, segments: int, dense: bool) -> int:
  heads = config.heads * config.head_width
  projections = 2 * config.width * (2 * heads + 2 * config.kv_heads * config.head_width)
  feed_forward = 2 * 3 * config.width * config.ff_width
  pairs = [
    T * T if dense else segments * seen_pairs(T // segments, window) for window in config.windows
  ]
  return config.depth * T * (projections + feed_forward) + sum(4 * heads * p for p in pairs)


def _encoder_decoder(config: T5Config, S: int, T: int, segments: int, dense: bool) -> int:
  heads = config.heads * config.head_width
  matrix = 2 * config.width * heads
  feed_forward = 2 * (3 if config.gated else 2) * config.width * config.ff_width
  across = 1 if dense else segments  # every one sees its own tokens alone
  causal = T * T if dense else segments * seen_pairs(T // segments)
  encoder = S * (4 * matrix + feed_forward) + 4 * heads * (S * S // across)
  own = T * (4 * matrix + feed_forward) + 4 * heads * causal
  cross = 2 * matrix * (T + S) + 4 * heads * (T * S // across)
  return config.depth * encoder + config.decoder_depth * (own + cross)


def forward(
  config: DecoderConfig | T5Config,
  lengths: tuple[int, ...],
  vocab: int,
  segments: int = 1,
  dense: bool = False,
) -> int:
  """Of one row's forward pass with logits over `vocab` classes at every target position.

  Args:
    config: the shape of the model.
    lengths: (T,) of a decoder; (S, T) of an encoder and its decoder.
    vocab: classes of the output's softmax.
    segments: of the row; they divide its lengths.
    dense: count the pairs that the mask hides as well.
  """
  stack = _encoder_decoder if isinstance(config, T5Config) else _decoder
  return stack(config, *lengths, segments, dense) + 2 * config.width * vocab * lengths[-1]


def train_step(
  config: DecoderConfig | T5Config,
  rows: int,
  lengths: tuple[int, ...],
  vocab: int,
  segments: int = 1,
) -> int:
  """Of a step over so many rows, forward and backward."""
  return 3 * rows * forward(config, lengths, vocab, segments)


def peak(device_kind: str) -> float | None:
  """Dense bfloat16 FLOP/s of an accelerator by its maker's data sheet; None: not known here."""
  return next((flops for name, flops in _PEAKS.items() if name in device_kind), None)
