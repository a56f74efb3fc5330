"""Agreement and speed of the attention paths, and speed of the constrained search, on one device; a part of `bench.gpu`.

Command:  python -m bench.gpu_kernels --parts=attention,search [--tiny] --out=FILE
"""

import os
import time
from typing import Any

# Other processes (model sizes, PyTorch) need memory of the same GPU.
os.environ.setdefault('XLA_PYTHON_CLIENT_PREALLOCATE', 'false')

from absl import app, flags
from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np

from bench.circumstances import circumstances, show, write
from bench.train_step import SIDS, SMALL, make_config, text_rows
from recjax import models
from recjax.decode.beam import beam_search
from recjax.decode.trie import Trie
from recjax.models import attention
from recjax.runtime import device
from recjax.sids.table import SidTable
from recjax.sids.token_space import TokenSpace

_PARTS = flags.DEFINE_list('parts', ['attention', 'search'], 'Parts to run, in this order.')
_TINY = flags.DEFINE_bool('tiny', False, 'Use small shapes, to test that all parts run.')
_SEARCH_MODEL = flags.DEFINE_string(
  'search_model', 'gemma3_270m', 'Model size of the search; untrained.'
)

# B, T, query heads, key heads, head width, soft-cap, window
ATTENTION = {
  'gemma3_270m local': (8, 1024, 4, 1, 256, 0.0, 512),
  'qwen3_0_6b': (8, 1024, 16, 8, 128, 0.0, 0),
  'gemma2_2b': (8, 1024, 8, 4, 256, 50.0, 0),
}


def _median_seconds(run, repeats: int = 10) -> float:
  """Returns the median seconds of a call that waits for the device, after one call that compiles."""
  jax.block_until_ready(run())
  seconds = []
  for _ in range(repeats):
    start = time.perf_counter()
    jax.block_until_ready(run())
    seconds.append(time.perf_counter() - start)
  return float(np.median(seconds))


def check_attention(
  B: int, T: int, N: int, K: int, H: int, softcap: float, window: int
) -> dict[str, Any]:
  """Compares each attention path in bfloat16 with the plain path in float32, forward and backward.

  Args:
    B: rows of four packed segments.
    T: tokens of a row.
    N: query heads.
    K: key heads.
    H: head width.
    softcap: soft-cap of the logits; 0: none.
    window: local window in tokens; 0: none.

  Returns:
    The path that 'auto' selects. For each path that supports the case: seconds of forward and backward pass,
    and the largest differences of result and gradients, relative to the largest values.
  """
  keys = jax.random.split(jax.random.key(0), 4)
  shapes = ((B, T, N, H), (B, T, K, H), (B, T, K, H), (B, T, N, H))
  q, k, v, weights = (
    jax.random.normal(key, shape) for key, shape in zip(keys, shapes, strict=True)
  )
  q = q * H**-0.5
  segments, positions = np.divmod(np.arange(T, dtype=np.int32), max(T // 4, 1))
  segments, positions = (
    jnp.broadcast_to(jnp.asarray(x), (B, T)) for x in (segments + 1, positions)
  )
  mask, distance = attention.attention_mask(segments, segments, positions, positions)
  mask = mask & (distance < window) if window else mask
  packed = attention.PackedCausal(segments, jnp.int32(window), (window,))

  def run(path, dtype):
    def scalar(q, k, v):
      x = attention.attend(q, k, v, mask, softcap, packed=packed, implementation=path)
      return jnp.sum(x.astype(jnp.float32) * weights), x

    arguments = [x.astype(dtype) for x in (q, k, v)]
    both = jax.jit(jax.grad(scalar, argnums=(0, 1, 2), has_aux=True))
    return lambda: both(*arguments)

  def difference(ours, theirs):
    pairs = zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True)
    return max(float(jnp.abs(a - b).max() / jnp.abs(b).max()) for a, b in pairs)

  expected_gradients, expected = run('plain', jnp.float32)()
  half = [x.astype(jnp.bfloat16) for x in (q, k)]
  result = {'auto': attention.choose('auto', *half, softcap, packed=packed)}
  for path in ('plain', 'xla', 'cudnn'):
    if attention.choose(path, *half, softcap, packed=packed) != path:
      continue
    gradients, x = jax.tree.map(lambda x: x.astype(jnp.float32), run(path, jnp.bfloat16)())
    result |= {
      f'{path}_seconds': _median_seconds(run(path, jnp.bfloat16)),
      f'{path}_difference': difference(x, expected),
      f'{path}_gradient_difference': difference(gradients, expected_gradients),
    }
  return result


def search_speed(name: str, items: int, users: int, prompt: int, beams: int) -> dict[str, Any]:
  """Returns users per second of the constrained beam search in bfloat16, with random SIDs and full prompts."""
  config = make_config(name, 'bfloat16')
  space = TokenSpace(text_rows(name), SIDS)
  rng = np.random.default_rng(0)
  codes = np.unique(rng.integers(0, SIDS[0], (2 * items, len(SIDS)), dtype=np.int32), axis=0)
  codes = rng.permutation(codes)[:items]
  trie = jax.tree.map(jnp.asarray, Trie.from_table(SidTable(codes, SIDS, 'random')))
  graph, params = nnx.split(models.build(config.model, space, config.seed))
  prompts = {
    'tokens': jnp.asarray(rng.integers(1, space.size, (users, prompt), dtype=np.int32)),
    'lengths': jnp.full(users, prompt, jnp.int32),
  }
  excluded = jnp.asarray(rng.integers(0, items, (users, 20), dtype=np.int32))

  @jax.jit
  def search(params, trie, prompts, excluded):
    return beam_search(nnx.merge(graph, params), trie, prompts, excluded, beams, 'level')

  seconds = _median_seconds(lambda: search(params, trie, prompts, excluded))
  return {
    'search_model': name,
    'items': len(codes),
    'users_a_batch': users,
    'prompt_tokens': prompt,
    'beams': beams,
    'search_seconds': seconds,
    'search_users_per_sec': users / seconds,
  }


def main(_) -> None:
  results: dict[str, Any] = {'circumstances': circumstances()}
  for part in _PARTS.value:
    if part == 'attention':
      cases = {'tiny': (2, 32, 4, 2, 8, 0.0, 8)} if _TINY.value else ATTENTION
      results[part] = {name: check_attention(*case) for name, case in cases.items()}
      for name, result in results[part].items():
        show({'attention': name} | result)
    else:
      sizes = (64, 4, 16, 8) if _TINY.value else (100_000, 128, 256, 40)
      results[part] = search_speed(SMALL if _TINY.value else _SEARCH_MODEL.value, *sizes)
      results[part] |= device.peaks()
      show(results[part])
    write(results)


if __name__ == '__main__':
  app.run(main)
