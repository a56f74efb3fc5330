"""Tokens per second of a training step, its share of the measured matmul ceiling, and a peer model in PyTorch.

The peer is the `transformers` model of the same shape, eager and on a GPU also compiled, if torch and transformers
are installed (`pip install -e '.[bench]'`). Both train every parameter with AdamW on full rows of
random tokens, with the softmax over the whole vocabulary. On CPU their steps alternate, so that other load on the
machine slows both. On a GPU they run one after the other, because each needs its memory. FLOPs are those of a batch in
which every position is learnt, also under --learnt; the peer computes the logits of all positions, as `transformers` does.

Command:  python -m bench.train_step --models=decoder_128,t5_small --out=train_step.json
          python -m bench.train_step --models=gemma2_2b --layers=2 --text_rows=32128 --rows=2   (fits in 24 GB)
          python -m bench.train_step --models=t5_base --dtype=bfloat16 --row_length=1024 --segments=8   (on a GPU)
"""

import dataclasses
import importlib.util
import os
import time
from typing import Any

# Without preallocation: PyTorch needs memory of the same GPU.
os.environ.setdefault('XLA_PYTHON_CLIENT_PREALLOCATE', 'false')

from absl import app, flags
import jax
import jax.numpy as jnp
import numpy as np

from bench import peer
from bench.circumstances import circumstances, show, start_with_one_heap, write
from launch.compile import flops
from launch.compile.chips import peak_flops
from recjax import config as config_lib
from recjax import models
from recjax.models import families
from recjax.models.t5 import T5Config
from recjax.runtime import device
from recjax.sharding import mesh as mesh_lib
from recjax.sids.token_space import TokenSpace
from recjax.training import optim
from recjax.training import state as state_lib
from recjax.training.step import jit_train_step

SIDS = (256,) * 4  # codes by level
SMALL = 'decoder_128'  # 4 layers of width 128: the default shape of a config
MODELS = ('t5_small', 't5_base', SMALL, 'gemma3_270m', 'gemma2_2b')

_MODELS = flags.DEFINE_list(
  'models', list(MODELS), 'Shapes to measure: of MODELS, or published sizes.'
)
_DTYPE = flags.DEFINE_enum('dtype', 'float32', ['float32', 'bfloat16'], 'Type of the computation.')
_STEPS = flags.DEFINE_integer('steps', 3, 'Measured steps of a turn, after one warm-up step.')
_TURNS = flags.DEFINE_integer('turns', 4, 'Turns of each side.')
_ROWS = flags.DEFINE_integer('rows', 8, 'Rows of a batch.')
_ROW_LENGTH = flags.DEFINE_integer('row_length', 128, 'Tokens of a row; for T5, of an encoder row.')
_DECODER_LENGTH = flags.DEFINE_integer('decoder_row_length', 32, "Tokens of a T5's decoder row.")
_SEGMENTS = flags.DEFINE_integer(
  'segments', 1, 'Packed segments of our rows; rows of the peer have one.'
)
_LEARNT = flags.DEFINE_float(
  'learnt', 1.0, 'Share of the positions that are learnt; the others are prompts.', 0.01, 1.0
)
_LAYERS = flags.DEFINE_integer('layers', 0, 'Layers of both models; 0: as published.')
_TEXT_ROWS = flags.DEFINE_integer('text_rows', 0, 'Text rows of the token table; 0: as published.')
_REMAT = flags.DEFINE_enum('remat', 'none', ['none', 'full'], 'Rematerialisation of layers.')
_UNROLL = flags.DEFINE_integer(
  'scan_unroll', 0, 'Layers per step of the scan over layers; 0: 12 on CPU, else 1.'
)
_ATTENTION = flags.DEFINE_string('attention', 'auto', 'Like --config.model.attention.')
_SOFTMAX = flags.DEFINE_enum('sid_softmax', 'full', ['full', 'level'], 'The peer always has full.')
_PEER = flags.DEFINE_bool('peer', True, 'Measure the peer, if it is installed.')
_COMPILE = flags.DEFINE_bool(
  'compile_depths', False, 'Instead measure the compilation of 4 and 26 layers.'
)


def cut_to(name: str, layers: int) -> str:
  """Registers a published size with fewer layers, and returns its name."""
  cut = f'{name} with {layers} layers'
  sizes = families.by_size(name).sizes
  shape, changed = sizes[name].shape, {'depth': layers}
  if isinstance(shape, T5Config):
    changed['decoder_depth'] = layers
  else:
    per_layer = ('windows', 'rope_bases', 'rope_factors')
    changed |= {field: getattr(shape, field)[:layers] for field in per_layer}
  sizes[cut] = sizes[name]._replace(shape=dataclasses.replace(shape, **changed))
  return cut


def make_config(name: str, dtype: str) -> config_lib.Config:
  """Returns the config of a published size or of the small decoder, with the settings of the flags."""
  config = config_lib.defaults(source='synthetic', name='bench')
  config.model.size = '' if name == SMALL else name
  config.model.family = 'gemma' if name == SMALL else families.by_size(name).name
  config.model.compute_dtype = dtype
  config.model.remat = _REMAT.value
  config.model.attention = _ATTENTION.value
  config.model.sid_softmax = _SOFTMAX.value
  config.model.scan_unroll = _UNROLL.value or (12 if jax.default_backend() == 'cpu' else 1)
  config.optim.warmup_steps = 0
  return config_lib.from_config_dict(config)


def text_rows(name: str) -> int:
  """Returns the number of rows of the published text table."""
  return 1024 if name == SMALL else families.sizes()[name].vocab_rows


def _batch(lengths: tuple[int, ...], vocab: int):
  """Returns full rows of random tokens, split into segments."""
  rng = np.random.default_rng(0)

  def row(length, prefix=''):
    shape = (_ROWS.value, length)
    segments, positions = np.divmod(np.arange(length, dtype=np.int32), length // _SEGMENTS.value)
    return {
      prefix + 'tokens': rng.integers(1, vocab, shape, dtype=np.int32),
      prefix + 'segments': np.broadcast_to(segments + 1, shape),
      prefix + 'positions': np.broadcast_to(positions, shape),
    }

  batch = row(lengths[-1])
  batch['targets'] = rng.integers(1, vocab, batch['tokens'].shape, dtype=np.int32)
  # The ends of the segments are learnt, like answers after prompts.
  length = lengths[-1] // _SEGMENTS.value
  batch['weights'] = (batch['positions'] >= length - round(_LEARNT.value * length)).astype(
    np.float32
  )
  batch['learnt'] = batch['weights'].sum(axis=1).astype(np.int32)
  batch['dropped'] = np.zeros(_ROWS.value, np.int32)
  return batch | (row(lengths[0], 'encoder_') if len(lengths) == 2 else {})


class Ours:
  """The compiled training step of `recjax.train`. A call runs one step and waits for it.

  Attributes:
    compile_seconds: seconds of the compilation, without tracing.
    temporary_bytes: temporary memory of the compiled step, without state and batch.
  """

  def __init__(self, config: config_lib.Config, space: TokenSpace, lengths: tuple[int, ...]):
    # One device, like the peer, the matmul ceiling and the peak.
    self.mesh = mesh_lib.make_mesh(config.mesh, jax.devices()[:1])
    self.batch = mesh_lib.host_rows(_batch(lengths, space.size), self.mesh)
    tx = optim.optimizer(config.optim, config.num_train_steps)
    abstract = state_lib.abstract_state(config.model, space, tx, self.mesh)
    step = jit_train_step(config, space, tx, True, abstract, self.mesh)
    with jax.set_mesh(self.mesh):
      lowered = step.lower(abstract, self.batch)
      start = time.perf_counter()
      self.step = lowered.compile()
      self.compile_seconds = time.perf_counter() - start
      self.temporary_bytes = self.step.memory_analysis().temp_size_in_bytes
      self.state = state_lib.init_state(config.model, space, tx, self.mesh, config.seed)

  def __call__(self) -> float:
    """Runs one step; returns the loss."""
    with jax.set_mesh(self.mesh):
      self.state, metrics = self.step(self.state, self.batch)
    loss = float(metrics['loss'])
    jax.block_until_ready(self.state)
    return loss


def matmul_ceiling(dtype: str) -> float:
  """Returns the highest FLOP/s of square matrix products of several sizes, on one device."""
  best = 0.0
  for size in (1024, 2048) if jax.default_backend() == 'cpu' else (4096, 8192, 16384):
    x = jax.random.normal(jax.random.key(0), (size, size), jnp.dtype(dtype))
    product = jax.jit(lambda x: x @ x)
    product(x).block_until_ready()
    for _ in range(8):
      start = time.perf_counter()
      product(x).block_until_ready()
      best = max(best, 2 * size**3 / (time.perf_counter() - start))
  return best


def compile_depths() -> dict[str, float]:
  """Measures tracing and compilation of the small decoder's training step at two depths."""
  result = {}
  lengths, space = (_ROW_LENGTH.value,), TokenSpace(text_rows(SMALL), SIDS)
  for depth in (4, 26, 4, 26):  # the first two are warm-up
    config = make_config(SMALL, _DTYPE.value)
    model = dataclasses.replace(config.model, depth=depth, scan_unroll=_UNROLL.value or 1)
    config = dataclasses.replace(config, model=model)
    start = time.perf_counter()
    Ours(config, space, lengths)
    result[f'compile_seconds_{depth}_layers'] = time.perf_counter() - start
  ratio = result['compile_seconds_26_layers'] / result['compile_seconds_4_layers']
  return result | {'ratio': ratio}


def alternate(sides: dict[str, Any], turns: int, steps: int) -> dict[str, np.ndarray]:
  """Runs the steps of all sides in turns.

  In every turn each side runs one warm-up step and then `steps` measured ones.

  Returns:
    float64 `[turns * steps, 2]` by side: wall seconds, and CPU seconds of this process.
  """
  seconds = {name: [] for name in sides}
  for _ in range(turns):
    for name, side in sides.items():
      side()
      for _ in range(steps):
        start, cpu_start = time.perf_counter(), time.process_time()
        side()
        seconds[name].append((time.perf_counter() - start, time.process_time() - cpu_start))
  return {name: np.array(pairs) for name, pairs in seconds.items()}


def measure(name: str) -> dict[str, Any]:
  """Measures one shape; returns all figures except the shares of the matmul ceiling."""
  rows = _TEXT_ROWS.value or text_rows(name)
  config = make_config(cut_to(name, _LAYERS.value) if _LAYERS.value else name, _DTYPE.value)
  space, shape = TokenSpace(rows, SIDS), models.shape_of(config.model)
  lengths = (_ROW_LENGTH.value,)
  if isinstance(shape, T5Config):
    lengths = (_ROW_LENGTH.value, _DECODER_LENGTH.value)
  on_cpu = jax.default_backend() == 'cpu'
  make = {}
  if _PEER.value and all(map(importlib.util.find_spec, ('torch', 'transformers'))):
    arguments = (shape, space.size, _ROWS.value, lengths, _DTYPE.value)
    make['peer_eager'] = lambda: peer.Peer(*arguments, compiled=False)
    if not on_cpu:
      make['peer_compiled'] = lambda: peer.Peer(*arguments, compiled=True)
  make['recjax'] = lambda: Ours(config, space, lengths)  # last: JAX does not return GPU memory
  result = {
    'model': config.model.size or name,
    'parameters': state_lib.num_params(config.model, space),
    'vocabulary': space.size,
    'rows': _ROWS.value,
    'lengths': lengths,
    'segments': _SEGMENTS.value,
    'learnt': _LEARNT.value,
    'dtype': _DTYPE.value,
    'remat': _REMAT.value,
    'flops_per_step': flops.model_step(shape, _ROWS.value, lengths, space.size, _SEGMENTS.value),
  }
  seconds = {}
  for names in [list(make)] if on_cpu else [[side] for side in make]:
    sides = {side: make[side]() for side in names}
    seconds |= alternate(sides, _TURNS.value, _STEPS.value)
    for side in sides.values():
      if isinstance(side, Ours):
        result |= {n: getattr(side, n) for n in ('compile_seconds', 'temporary_bytes')}
        result |= device.peaks()
      else:
        result['peer_attention'] = side.attention
    del side, sides
    if len(make) > 1:
      peer.release()
  for side, side_seconds in seconds.items():
    result[f'{side}_seconds'], cpu_seconds = map(float, np.median(side_seconds, axis=0))
    if on_cpu:  # CPU seconds depend less on other load
      result[f'{side}_cpu_seconds'] = cpu_seconds
    result[f'{side}_tokens_per_sec'] = _ROWS.value * sum(lengths) / result[f'{side}_seconds']
  for side in list(seconds)[:-1]:
    result[f'speed_to_{side}'] = result[f'{side}_seconds'] / result['recjax_seconds']
    if on_cpu:
      ratio = result[f'{side}_cpu_seconds'] / result['recjax_cpu_seconds']
      result[f'speed_to_{side}_by_cpu_seconds'] = ratio
  jax.clear_caches()
  return result


def main(_) -> None:
  results = [circumstances()]
  show(results[0])
  if _COMPILE.value:
    results.append(compile_depths())
    show(results[-1])
  else:
    for name in _MODELS.value:
      result = measure(name)
      result['matmul_ceiling_flops_per_sec'] = matmul_ceiling(_DTYPE.value)
      peak = peak_flops(jax.devices()[0].device_kind) if _DTYPE.value == 'bfloat16' else None
      suffix = '_tokens_per_sec'
      for side in [n.removesuffix(suffix) for n in result if n.endswith(suffix)]:
        speed = result['flops_per_step'] / result[f'{side}_seconds']
        result[f'{side}_share_of_ceiling'] = speed / result['matmul_ceiling_flops_per_sec']
        if peak:
          result[f'{side}_mfu'] = speed / peak
      results.append(result)
      show(result)
  write(results)


if __name__ == '__main__':
  start_with_one_heap()
  app.run(main)
