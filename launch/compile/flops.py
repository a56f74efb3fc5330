"""Floating-point operations (FLOPs) of a training step in closed form, from the matrix products of a model.

A product of [m, k] and [k, n] counts 2 m k n. The backward pass takes twice the FLOPs of the forward pass
(Kaplan et al., arXiv 2001.08361, section 2.1). There are two counts:

- `model_step`, model FLOPs: the useful work, as in the model FLOPs utilisation (MFU) of PaLM (arXiv 2204.02311,
  appendix B). Recomputation is not counted, and attention counts only the pairs that the mask allows.
- `compiled_step`, the work that the chips do: whole rows with masked pairs, and everything that
  rematerialisation and the loss compute again. It is compared with the products of the compiled program
  (`launch.compile.hlo.flops`), except for those of kernels.
"""

from collections.abc import Mapping
from typing import NamedTuple

from recjax import models
from recjax.config import Config
from recjax.models import delta_rule
from recjax.models.decoder import DecoderConfig
from recjax.models.hybrid import HybridConfig
from recjax.models.linear_attention import Heads
from recjax.models.splash import BLOCKS
from recjax.models.t5 import T5Config
from recjax.sids.token_space import TokenSpace
from recjax.training.wide_softmax import block_rows, keeps_logits

Shape = DecoderConfig | T5Config


class Work(NamedTuple):
  """FLOPs of a compiled step over all devices.

  Attributes:
    products: FLOPs of the matrix products that XLA compiles.
    kernels: FLOPs of the products inside attention kernels.
    again: FLOPs of both beyond three times the forward pass: recomputed, or computed on several devices.
  """

  products: int
  kernels: int
  again: int

  @property
  def total(self) -> int:
    return self.products + self.kernels


class _Layers(NamedTuple):
  """FLOPs of one row in the forward pass of all layers.

  Attributes:
    weights: FLOPs of products with weights, and of the gated delta rule.
    last: the part of `weights` that rematerialisation does not compute again, because no gradient needs it.
    attention: FLOPs of the products of queries with keys, and of attention weights with values.
  """

  weights: int
  last: int
  attention: int


def _delta_rule(heads: Heads, T: int, chunks: bool) -> int:
  """Returns the FLOPs of the gated delta rule of one layer.

  Args:
    heads: its shape.
    T: tokens of the row.
    chunks: whether to count `recjax.models.delta_rule.chunked`; else the recurrence, which has no masked pairs.
  """
  K, G, P, E, _ = heads
  if not chunks:
    return 2 * T * K * G * 3 * P * E  # what the state predicts, what is written, what is read
  C = delta_rule.chunk_of(T)
  of_key_head = 2 * C * C * P  # keys with keys, and with queries
  of_value_head = 3 * C * P * E + 2 * C * C * E + _inverse(C)
  return 2 * -(-T // C) * K * (of_key_head + G * of_value_head)


def _inverse(C: int) -> int:
  """Returns the multiplications of `recjax.models.delta_rule.inverse` for one matrix `[C, C]`."""
  if C == delta_rule.BLOCK:
    return 4 * C**3
  return 2 * _inverse(C // 2) + 2 * (C // 2) ** 3


def _layers(shape: Shape, lengths: tuple[int, ...], pairs: int, dense: bool) -> _Layers:
  """Counts one row.

  Args:
    shape: shape of the model.
    lengths: (T,) of a decoder; (S, T) of an encoder-decoder.
    pairs: query-key pairs of all layers.
    dense: whether to count the work of the program, not only the useful work.
  """
  heads = shape.heads * shape.head_width
  ff_product = 2 * shape.width * shape.ff_width
  if isinstance(shape, T5Config):
    S, T = lengths
    matrix, ff = 2 * shape.width * heads, (3 if shape.gated else 2) * ff_product
    encoder = shape.depth * S * (4 * matrix + ff)
    decoder = shape.decoder_depth * (T * (6 * matrix + ff) + 2 * S * matrix)
    weights, last = encoder + decoder, ff_product * (shape.depth * S + shape.decoder_depth * T)
  else:
    (T,) = lengths
    queries = heads * (2 if shape.gated else 1)
    projections = 2 * shape.width * (queries + heads + 2 * shape.kv_heads * shape.head_width)
    weights = len(_windows(shape)) * T * projections + shape.depth * T * 3 * ff_product
    if isinstance(shape, HybridConfig):
      delta = shape.delta_heads
      values = delta.groups * delta.value_width
      outputs = delta.key_heads * (delta.channels + 2 * values + 2 * delta.groups)
      rule = _delta_rule(delta, T, dense)
      weights += shape.kinds.count('linear') * (2 * shape.width * outputs * T + rule)
    # The norm after a branch needs the branch's result for its gradient.
    last = 0 if shape.post_norms else shape.depth * T * ff_product
  return _Layers(weights, last, 4 * heads * pairs)


def _windows(shape: DecoderConfig) -> list[int]:
  """Returns the windows of the layers with softmax attention."""
  kinds = getattr(shape, 'kinds', ('full',) * shape.depth)
  return [w for w, kind in zip(shape.windows, kinds, strict=True) if kind == 'full']


def visible_pairs(length: int, window: int = 0) -> int:
  """Returns the query-key pairs of a causal row.

  Args:
    length: tokens of the row.
    window: a query sees keys whose distance is less than this; 0: all.
  """
  window = min(window or length, length)
  return window * (window + 1) // 2 + (length - window) * window


def _pairs(shape: Shape, lengths: tuple[int, ...], segments: int, dense: bool) -> int:
  """Returns the query-key pairs of all layers for one row."""
  T = lengths[-1]

  def causal(window: int) -> int:
    return T * T if dense else segments * visible_pairs(T // segments, window)

  if not isinstance(shape, T5Config):
    return sum(map(causal, _windows(shape)))
  S, across = lengths[0], 1 if dense else segments  # a segment sees only its own tokens
  encoder, cross = S * S // across, T * S // across
  return shape.depth * encoder + shape.decoder_depth * (causal(0) + cross)


def forward(
  shape: Shape, lengths: tuple[int, ...], vocab: int, segments: int = 1, dense: bool = False
) -> int:
  """Returns the FLOPs of one row's forward pass, with logits at every target position.

  Args:
    shape: shape of the model.
    lengths: (T,) of a decoder; (S, T) of an encoder-decoder.
    vocab: classes of the softmax.
    segments: packed examples of the row, all of one length; they divide the lengths.
    dense: whether to count masked pairs too.
  """
  layers = _layers(shape, lengths, _pairs(shape, lengths, segments, dense), dense)
  return layers.weights + layers.attention + 2 * shape.width * vocab * lengths[-1]


def model_step(
  shape: Shape, rows: int, lengths: tuple[int, ...], vocab: int, segments: int = 1
) -> int:
  """Returns the model FLOPs of a training step over `rows` rows; other arguments as of `forward`."""
  return 3 * rows * forward(shape, lengths, vocab, segments)


def kernel_pairs(length: int, window: int = 0) -> int:
  """Returns the query-key pairs that the kernel computes for a causal row: whole blocks with a visible pair.

  Args:
    length: tokens of the row, a multiple of the smallest of `splash.BLOCKS`.
    window: a query sees keys whose distance is less than this; 0: all.
  """
  block = next(size for size in BLOCKS if length % size == 0)
  window = window or length
  visible = sum(
    (q - k - 1) * block + 1 < window  # the smallest distance in a pair of blocks
    for q in range(length // block)
    for k in range(q + 1)
  )
  return visible * block**2


def _softmax(rows: int, product: int, positions: int, is_kept: bool) -> int:
  """Returns the FLOPs of the softmax over a table: one product forward, two backward, and a recomputed one.

  A single block is recomputed next to its first computation, and the compiler merges the two.

  Args:
    rows: rows of the table on one device.
    product: FLOPs of one product with the table.
    positions: target positions of a micro-batch on one device.
    is_kept: whether the logits stay in memory, so that none is recomputed.
  """
  return 3 * product if is_kept or block_rows(rows, positions) == rows else 4 * product


def compiled_step(
  config: Config,
  space: TokenSpace,
  text_targets: bool,
  with_kernels: bool,
  mesh: Mapping[str, int],
) -> Work | None:
  """Counts a training step of `config.batch_size` rows.

  Args:
    config: the config of the run.
    space: the token ids.
    text_targets: whether targets contain text.
    with_kernels: whether a decoder's attention runs in the kernels of `recjax.models.splash`.
    mesh: size of each mesh axis; all devices along `tensor` compute the logits of a SID level.

  Returns:
    FLOPs over all devices. None if parameters are frozen or adapted, where the saving depends on the parameters, and
    for models with one position an item or with an item head, which are not counted.
  """
  if models.family(config.model).reads_items_alone or config.model.item_head:
    return None
  frozen = config.model.lora_rank or any(group.frozen for group in config.optim.groups.values())
  if frozen:
    return None
  shape = models.shape_of(config.model)
  lengths = (config.packing.row_length,)
  if isinstance(shape, T5Config):
    lengths = (config.packing.row_length, config.packing.decoder_row_length)
  targets = lengths[-1]
  layers = _layers(shape, lengths, _pairs(shape, lengths, segments=1, dense=True), dense=True)
  remat = config.model.remat == 'full'
  forward_flops = layers.weights
  products = (3 + remat) * layers.weights - remat * layers.last
  kernels = 0
  if with_kernels:
    pairs = sum(kernel_pairs(targets, window) for window in _windows(shape))
    product = 2 * shape.heads * shape.head_width * pairs  # one product over all pairs
    # Forward 2; backward 4 for keys and values, 3 for queries, both with recomputed attention weights.
    forward_flops, kernels = forward_flops + 2 * product, (2 + 2 * remat + 4 + 3) * product
  else:
    forward_flops += layers.attention
    products += (3 + remat) * layers.attention
  if config.model.sid_softmax == 'full':
    tables = [space.text_rows, space.sid_rows]  # in one softmax
  else:
    logits = 2 * shape.width * space.row_capacity(targets) * space.sid_size
    forward_flops, products = forward_flops + logits, products + 3 * logits * mesh['tensor']
    tables = [space.text_rows] if text_targets else []
  shards = mesh['data'] * mesh['fsdp'] * config.grad_accumulation
  positions = targets * config.batch_size // shards
  is_kept = mesh['tensor'] == 1 and keeps_logits(sum(tables), positions, config.model.compute_dtype)
  for V in tables:
    product = 2 * shape.width * targets * V
    forward_flops, products = (
      forward_flops + product,
      products + _softmax(V // mesh['tensor'], product, positions, is_kept),
    )
  rows = config.batch_size
  return Work(rows * products, rows * kernels, rows * (products + kernels - 3 * forward_flops))
