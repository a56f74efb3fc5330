"""Tokens a second of a training step, its share of the measured matmul ceiling, and a peer beside it.

The peer is the `transformers` model of the same shape, eager and on a GPU also compiled, where torch and
transformers are installed (`pip install -r requirements-bench.txt`). Both train every parameter with AdamW
on full rows of random tokens, with the softmax over the whole vocabulary.

Command:  python -m bench.train_step --models=decoder_128,t5_small --out=train_step.json
          python -m bench.train_step --dtype=bfloat16 --row_length=1024 --rows=8     (on a GPU)
"""

import importlib.util
import json
import os
import time

os.environ.setdefault(
  'XLA_PYTHON_CLIENT_PREALLOCATE', 'false'
)  # PyTorch needs room on the same GPU

from absl import app, flags
import jax
import jax.numpy as jnp
import numpy as np

from bench import flops, peer
from recjax import config as config_lib
from recjax import models, optim, sharding
from recjax import state as state_lib
from recjax.models.sizes import VOCAB_ROWS
from recjax.sids.token_space import TokenSpace
from recjax.train_step import make_train_step

SIDS = (256,) * 4  # codes of each level
# Sizes by the name of the flag, and the rows of the text table.
MODELS = {
  't5_small': 32_128,
  't5_base': 32_128,
  'decoder_128': 1024,
  'gemma3_270m': VOCAB_ROWS['gemma3_270m'],
  'gemma2_2b': VOCAB_ROWS['gemma2_2b'],
}

_MODELS = flags.DEFINE_list('models', list(MODELS), 'Which shapes to time.')
_DTYPE = flags.DEFINE_enum('dtype', 'float32', ['float32', 'bfloat16'], 'What computes.')
_STEPS = flags.DEFINE_integer('steps', 10, 'Steps to time, after two that warm up.')
_ROWS = flags.DEFINE_integer('rows', 8, 'Rows of a batch.')
_ROW_LENGTH = flags.DEFINE_integer('row_length', 128, 'Tokens of a row; of T5: of the encoder.')
_DECODER_LENGTH = flags.DEFINE_integer('decoder_row_length', 32, "Tokens of a T5's decoder row.")
_REMAT = flags.DEFINE_enum('remat', 'none', ['none', 'full'], 'Recompute layers in the backward.')
_UNROLL = flags.DEFINE_integer('scan_unroll', 1, 'Layers a step of the scan over layers.')
_ATTENTION = flags.DEFINE_string('attention', 'auto', 'As --config.model.attention.')
_SOFTMAX = flags.DEFINE_enum('sid_softmax', 'full', ['full', 'level'], 'The peer has full alone.')
_PEER = flags.DEFINE_bool('peer', True, 'Time the peer, where it is installed.')
_COMPILE = flags.DEFINE_bool('compile_depths', False, 'Time compiling 4 and 26 layers instead.')
_OUT = flags.DEFINE_string('out', None, 'Where to write the JSON.')


def make_config(name: str) -> config_lib.Config:
  config = config_lib.defaults(source='synthetic', name='bench')
  if name != 'decoder_128':  # whose shape is the default one
    config.model.size = name
  config.model.family = 't5' if name.startswith('t5') else 'gemma'
  config.model.compute_dtype = _DTYPE.value
  config.model.remat = _REMAT.value
  config.model.scan_unroll = _UNROLL.value
  config.model.attention = _ATTENTION.value
  config.model.sid_softmax = _SOFTMAX.value
  config.optim.warmup_steps = 0
  return config_lib.from_config_dict(config)


def _batch(config: config_lib.Config, lengths: tuple[int, ...], vocab: int):
  """Full rows of random tokens, each one segment."""
  rng = np.random.default_rng(0)

  def row(length, prefix=''):
    shape = (_ROWS.value, length)
    positions = np.broadcast_to(np.arange(length, dtype=np.int32), shape)
    return {
      prefix + 'tokens': rng.integers(1, vocab, shape, dtype=np.int32),
      prefix + 'segments': np.ones(shape, np.int32),
      prefix + 'positions': positions,
    }

  batch = row(lengths[-1])
  batch['targets'] = rng.integers(1, vocab, batch['tokens'].shape, dtype=np.int32)
  batch['weights'] = np.ones(batch['tokens'].shape, np.float32)
  batch['dropped'] = np.zeros(_ROWS.value, np.int32)
  return batch | (row(lengths[0], 'encoder_') if config.model.is_encoder_decoder else {})


def _lowered(config: config_lib.Config, space: TokenSpace, batch, mesh):
  """The training step of `recjax.train`, lowered, and what it starts from."""
  tx = optim.optimizer(config.optim, config.num_train_steps)
  step = jax.jit(
    make_train_step(config, state_lib.graph(config, space), tx, text_targets=True),
    donate_argnums=0,
  )
  return step.lower(state_lib.abstract_state(config, space, tx, mesh), batch), tx


def time_ours(config: config_lib.Config, space: TokenSpace, lengths) -> dict[str, float]:
  """Seconds to compile, and seconds of a step."""
  mesh = sharding.make_mesh(config.mesh)
  batch = sharding.host_rows(_batch(config, lengths, space.size), mesh)
  with jax.set_mesh(mesh):
    lowered, tx = _lowered(config, space, batch, mesh)
    start = time.perf_counter()
    step = lowered.compile()
    compiled = time.perf_counter() - start
    state = state_lib.init_state(config, space, tx, mesh)
    seconds = []
    for _ in range(2 + _STEPS.value):
      start = time.perf_counter()
      state, metrics = step(state, batch)
      float(metrics['loss'])  # waits for the device
      seconds.append(time.perf_counter() - start)
    jax.block_until_ready(state)
  return {'seconds': float(np.median(seconds[2:])), 'compile_seconds': compiled}


def matmul_ceiling(dtype: str) -> float:
  """The best FLOP/s of square matrix products of several sizes, on one device."""
  best = 0.0
  for size in (1024, 2048) if jax.default_backend() == 'cpu' else (4096, 8192, 16384):
    x = jnp.ones((size, size), dtype)
    product = jax.jit(lambda x: x @ x)
    product(x).block_until_ready()
    for _ in range(8):
      start = time.perf_counter()
      product(x).block_until_ready()
      best = max(best, 2 * size**3 / (time.perf_counter() - start))
  return best


def compile_depths() -> dict[str, float]:
  """Seconds to lower and compile the training step of the small decoder at two depths."""
  result = {}
  for depth in (4, 26, 4, 26):  # the first two warm up
    config_dict = config_lib.defaults(source='synthetic', name='bench')
    config_dict.model.depth = depth
    config_dict.optim.warmup_steps = 0
    config = config_lib.from_config_dict(config_dict)
    space = TokenSpace(MODELS['decoder_128'], SIDS)
    mesh = sharding.make_mesh(config.mesh)
    batch = sharding.host_rows(_batch(config, (_ROW_LENGTH.value,), space.size), mesh)
    with jax.set_mesh(mesh):
      start = time.perf_counter()
      _lowered(config, space, batch, mesh)[0].compile()
    result[f'compile_seconds_{depth}_layers'] = time.perf_counter() - start
  ratio = result['compile_seconds_26_layers'] / result['compile_seconds_4_layers']
  return result | {'ratio': ratio}


def measure(name: str, ceiling: float) -> dict[str, float | str]:
  """Everything that is told of one shape."""
  config = make_config(name)
  space = TokenSpace(MODELS[name], SIDS)
  shape = models.shape_of(config.model)
  lengths = (_ROW_LENGTH.value,)
  if config.model.is_encoder_decoder:
    lengths = (_ROW_LENGTH.value, _DECODER_LENGTH.value)
  tokens = _ROWS.value * sum(lengths)
  count = flops.train_step(shape, _ROWS.value, lengths, space.size)

  def told(seconds: float, prefix: str) -> dict[str, float]:
    return {
      f'{prefix}_seconds': seconds,
      f'{prefix}_tokens_per_sec': tokens / seconds,
      f'{prefix}_share_of_ceiling': count / seconds / ceiling,
    }

  result = {
    'model': name,
    'parameters': state_lib.num_params(config, space),
    'rows': _ROWS.value,
    'lengths': lengths,
    'dtype': _DTYPE.value,
    'flops_per_step': count,
  }
  ours = time_ours(config, space, lengths)
  result |= {'compile_seconds': ours['compile_seconds'], **told(ours['seconds'], 'recjax')}
  jax.clear_caches()
  if not _PEER.value or not all(map(importlib.util.find_spec, ('torch', 'transformers'))):
    return result
  for compiled in (False, True) if jax.default_backend() == 'gpu' else (False,):
    seconds, attention = peer.seconds_a_step(
      shape, space.size, _ROWS.value, lengths, _DTYPE.value, _STEPS.value, compiled
    )
    prefix = 'peer_compiled' if compiled else 'peer_eager'
    result |= told(float(np.median(seconds)), prefix) | {'peer_attention': attention}
    result[f'speed_to_{prefix}'] = result[f'{prefix}_seconds'] / result['recjax_seconds']
  return result


def main(_) -> None:
  if _COMPILE.value:
    results = [compile_depths()]
  else:
    ceiling = matmul_ceiling(_DTYPE.value)
    results = [
      {'backend': jax.default_backend(), 'matmul_ceiling_flops_per_sec': ceiling},
      *(measure(name, ceiling) for name in _MODELS.value),
    ]
  for result in results:
    for name, value in result.items():
      print(f'{name:<34} {f"{value:,.4g}" if isinstance(value, float) else value}')
    print()
  if _OUT.value:
    with open(_OUT.value, 'w') as f:
      json.dump(results, f, indent=2)


if __name__ == '__main__':
  app.run(main)
