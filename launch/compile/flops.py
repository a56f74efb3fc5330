"""Floating-point operations of the training step as it is compiled, in closed form.

A product of [m, k] and [k, n] counts 2 m k n. Other than the model FLOPs of `bench.flops`, which say what
a step is worth, these say what the chips do: rows are counted whole, with the pairs that a mask hides; what
rematerialisation and the loss compute again counts again. So they can be compared with the products of
the compiled program (`launch.compile.hlo.flops`), kernels apart.
"""

from collections.abc import Mapping
from typing import NamedTuple

from recjax import models
from recjax.config import Config
from recjax.models.decoder import DecoderConfig
from recjax.models.splash import BLOCKS
from recjax.models.t5 import T5Config
from recjax.sids.token_space import TokenSpace
from recjax.training.wide_softmax import block_rows


class Work(NamedTuple):
  """FLOPs of a step, over all devices.

  Attributes:
    products: of the matrix products that the compiler sees.
    kernels: of those inside the attention kernels.
    again: the part of both that was computed before, or elsewhere: beyond three times the forward pass.
  """

  products: int
  kernels: int
  again: int

  @property
  def total(self) -> int:
    return self.products + self.kernels


class _Layers(NamedTuple):
  """Of one row, in the forward pass of a stack.

  Attributes:
    weights: products with weights.
    last: those of them whose result no gradient needs, so that nothing computes it again.
    pairs: products of queries and keys, of weights and values.
  """

  weights: int
  last: int
  pairs: int


def _decoder(shape: DecoderConfig, T: int) -> _Layers:
  heads = shape.heads * shape.head_width
  projections = 2 * shape.width * (2 * heads + 2 * shape.kv_heads * shape.head_width)
  one = 2 * shape.width * shape.ff_width
  # A norm after the branch needs its input again.
  last = 0 if shape.post_norms else one
  per_token = projections + 3 * one
  return _Layers(
    shape.depth * T * per_token, shape.depth * T * last, shape.depth * 4 * heads * T * T
  )


def _encoder_decoder(shape: T5Config, S: int, T: int) -> _Layers:
  heads = shape.heads * shape.head_width
  matrix, one = 2 * shape.width * heads, 2 * shape.width * shape.ff_width
  ff = (3 if shape.gated else 2) * one
  encoder = shape.depth * S * (4 * matrix + ff)
  decoder = shape.decoder_depth * (T * (6 * matrix + ff) + 2 * S * matrix)
  pairs = shape.depth * S * S + shape.decoder_depth * (T * T + T * S)
  last = one * (shape.depth * S + shape.decoder_depth * T)
  return _Layers(encoder + decoder, last, 4 * heads * pairs)


def kernel_pairs(length: int, window: int = 0) -> int:
  """Query-key pairs of a causal row that the kernel computes: whole blocks, where any pair is seen.

  Args:
    length: tokens of the row, a multiple of the smallest of `splash.BLOCKS`.
    window: a key is seen where its distance is below it; 0: all.
  """
  block = next(size for size in BLOCKS if length % size == 0)
  window = window or length
  seen = sum(
    (q - k - 1) * block + 1 < window  # the smallest distance between two blocks
    for q in range(length // block)
    for k in range(q + 1)
  )
  return seen * block**2


def _wide(rows: int, one: int, positions: int) -> int:
  """Of the softmax over so many table rows: a product forward, two backward, and one again a block.

  A single block is computed again beside its forward pass, and the compiler sees that it is the same.

  Args:
    rows: of the table, on one device.
    one: FLOPs of the product.
    positions: of a micro-batch, on one device.
  """
  return 3 * one if block_rows(rows, positions) == rows else 4 * one


def train_step(
  config: Config,
  space: TokenSpace,
  text_targets: bool,
  with_kernels: bool,
  mesh: Mapping[str, int],
) -> Work | None:
  """Of a step of `config.batch_size` rows.

  Args:
    config: of the run.
    space: the token ids.
    text_targets: whether text is learnt.
    with_kernels: whether the attention of a decoder is in the kernels of `recjax.models.splash`.
    mesh: the sizes of its axes; devices along `tensor` all compute the logits of a SID level.

  Returns:
    None where parameters are frozen or adapted: what falls away then depends on which they are.
  """
  frozen = config.model.lora_rank or any(group.frozen for group in config.optim.groups.values())
  if frozen:
    return None
  shape = models.shape_of(config.model)
  T = config.packing.row_length
  if isinstance(shape, T5Config):
    targets = config.packing.decoder_row_length
    layers = _encoder_decoder(shape, T, targets)
  else:
    targets, layers = T, _decoder(shape, T)
  remat = config.model.remat == 'full'
  forward = layers.weights
  products = (3 + remat) * layers.weights - remat * layers.last
  kernels = 0
  if with_kernels:
    seen = sum(kernel_pairs(T, window) for window in shape.windows)
    one = 2 * shape.heads * shape.head_width * seen  # a product of queries and keys, or of the like
    # Forward 2; backward 4 for keys and values, 3 for queries, each with the weights anew.
    forward, kernels = forward + 2 * one, (2 + 2 * remat + 4 + 3) * one
  else:
    forward, products = forward + layers.pairs, products + (3 + remat) * layers.pairs
  if config.model.sid_softmax == 'full':
    tables = [space.text_rows, space.sid_rows]  # under one wide softmax
  else:
    logits = 2 * shape.width * space.row_capacity(targets) * space.sid_size
    forward, products = forward + logits, products + 3 * logits * mesh['tensor']
    tables = [space.text_rows] if text_targets else []
  positions = (
    targets * config.batch_size // (mesh['data'] * mesh['fsdp'] * config.grad_accumulation)
  )
  for V in tables:
    one = 2 * shape.width * targets * V
    forward, products = forward + one, products + _wide(V // mesh['tensor'], one, positions)
  rows = config.batch_size
  return Work(rows * products, rows * kernels, rows * (products + kernels - 3 * forward))
