"""The peers of `bench.decode`: `generate` of HF transformers, and the step of STATIC."""

import pathlib
import sys
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bench import peer
from bench.decode_sides import CODES, Side, World, turns


class Generate:
  """HF `generate` with the beams of a side on its prompts. A call searches for one batch."""

  def __init__(self, side: Side, is_constrained: bool):
    import torch

    self._torch, space = torch, side.space
    torch.manual_seed(0)
    device = 'cuda' if torch.cuda.is_available() else 'cpu'
    self._model = peer.t5(side.shape, space.size).to(device).eval()
    self._tokens = torch.as_tensor(np.asarray(side.tokens_BS), device=device).long()
    self._beams, self._levels = side.shapes.beams, space.num_levels
    self._allowed = None
    if is_constrained:
      children: dict[tuple[int, ...], list[int]] = {}
      for sid in space.tokens(side.world.codes_IL).tolist():
        for level, token in enumerate(sid):
          known = children.setdefault(tuple(sid[:level]), [])
          if not known or known[-1] != token:  # the table is sorted
            known.append(token)
      self._allowed = lambda _, ids: children[tuple(ids[1:].tolist())]

  def __call__(self) -> Any:
    with self._torch.inference_mode():
      return self._model.generate(
        self._tokens,
        num_beams=self._beams,
        num_return_sequences=self._beams,
        max_new_tokens=self._levels,
        do_sample=False,
        use_cache=True,
        prefix_allowed_tokens_fn=self._allowed,
      )


def static_step(folder: str, world: World, users: int, beams: int) -> dict[str, Any]:
  """Compares STATIC's lookup of the children of beams and their log-probabilities with ours, at its sparse levels.

  Args:
    folder: a checkout of STATIC. It is imported, and nothing of it is kept.
    world: the catalogue.
    users: rows of a batch.
    beams: beams of a row, random nodes of each level.

  Returns:
    Seconds of a step, all sparse levels together; seconds and bytes of the indices; whether both find the same.
  """
  if not (pathlib.Path(folder) / 'static_decoding').is_dir():
    raise ValueError(
      f'--static must be a checkout of STATIC, with the folder static_decoding; got {folder}'
    )
  if folder not in sys.path:
    sys.path.append(folder)
  from static_decoding import csr_utils, decoding_jax

  start = time.process_time()
  packed, offsets, branches, *dense = csr_utils.build_static_index(world.codes_IL, CODES)
  result = {'static_index_cpu_seconds': time.process_time() - start}
  result['static_index_bytes'] = sum(x.nbytes for x in (packed, offsets, *dense))
  trie, levels = world.trie, world.codes_IL.shape[1]
  result['recjax_index_bytes'] = sum(x.nbytes for x in jax.tree.leaves(trie))
  rng = np.random.default_rng(2)
  sparse = range(2, levels)
  nodes = {n: rng.integers(trie.num_nodes[n], size=(users, beams), dtype=np.int32) for n in sparse}
  # STATIC numbers the states level by level in the same order, after 0 and a state for every first code.
  before = {n: 1 + CODES + sum(trie.num_nodes[2:n]) for n in sparse}
  log_probs = jnp.asarray(rng.normal(size=(users, beams, CODES)).astype(np.float32))
  packed, offsets = jnp.asarray(packed), jnp.asarray(offsets)

  @jax.jit
  def theirs(packed, offsets, log_probs, nodes):
    flat = log_probs.reshape(-1, CODES)
    return [
      decoding_jax.generate_and_apply_logprobs_mask(
        flat, nodes[n].reshape(-1) + before[n], packed, offsets, branches[n], CODES
      )[0].reshape(users, beams, -1)
      for n in sparse
    ]

  @jax.jit
  def ours(trie, log_probs, nodes):
    found = []
    for n in sparse:
      _, codes, exists = trie.children(n, nodes[n])
      picked = jnp.take_along_axis(log_probs, codes, axis=-1)
      found.append(jnp.where(exists, picked, -jnp.inf))
    return found

  step = lambda function, *index: _Call(lambda: function(*index, log_probs, nodes), users)  # noqa: E731
  sides = {'static': step(theirs, packed, offsets), 'recjax': step(ours, trie)}
  pairs = zip(sides['static'](), sides['recjax'](), strict=True)
  result['is_equal'] = all(bool(jnp.array_equal(a, b)) for a, b in pairs)
  return result | turns(sides, turns=4, steps=5)


class _Call:
  """A side that calls a jitted function."""

  def __init__(self, call, users: int):
    self._call, self.shapes = call, _Users(users)

  def __call__(self):
    return jax.block_until_ready(self._call())


class _Users:
  def __init__(self, users: int):
    self.users = users
