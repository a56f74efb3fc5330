"""Groups of items that the model ranks after a prompt, and the log-probabilities of their codes.

A choice is a distinct semantic ID, by its number (`recjax.data.prompt_stream`). The log-probabilities are those of the
search, under the softmax of training, so that a step moves what the search ranks by.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from recjax.data.dataset import Dataset
from recjax.data.prompt_stream import leaves
from recjax.decode.beam import beam_search, log_probs
from recjax.decode.excluded import dead_leaves, occurs
from recjax.decode.trie import Trie
from recjax.schema.grpo import Grpo
from recjax.sids.table import SidTable


class Catalogue(NamedTuple):
  """The choices of the search, on the devices or as numpy arrays.

  Attributes:
    trie: its leaves are the choices.
    codes_SL: int32, the codes of each choice.
  """

  trie: Trie
  codes_SL: jax.Array | np.ndarray

  @classmethod
  def of(cls, dataset: Dataset) -> 'Catalogue':
    """Returns the distinct semantic IDs of a data set, as numpy arrays."""
    codes_SL, sids = leaves(dataset)[0], dataset.sids
    table = SidTable(codes_SL, sids.codes_per_level, sids.quantizer, 'none', sids.codebooks)
    return cls(jax.tree.map(np.asarray, Trie.from_table(table)), codes_SL)


def make_groups(
  model,
  catalogue: Catalogue,
  prompts: dict[str, jax.Array],
  settings: Grpo,
  sid_softmax: str,
  keys_B: jax.Array,
) -> tuple[jax.Array, jax.Array]:
  """Returns the choices of each group, int32 `[B, M]`, and their log-probabilities, float32 `[B, M]`.

  Where fewer than M may be returned, the choice is -1 and the score -inf. Beams are in the order of their scores.
  Samples are drawn one by one, so a choice may occur several times.

  Args:
    model: a backbone (`start`, `step`, `tables`).
    catalogue: the choices.
    prompts: int32 `tokens` `[B, S]`, `lengths` `[B]`, and `excluded` `[B, E]`, choices that must not be returned.
    settings: the section of the stage.
    sid_softmax: the setting of training.
    keys_B: a random key for each prompt; read with `samples='sampled'`.
  """
  read = {name: prompts[name] for name in ('tokens', 'lengths')}
  arguments = (model, catalogue.trie, read, prompts['excluded'], settings.group)
  if settings.samples == 'beams':
    return beam_search(*arguments, sid_softmax)
  return _sampled(*arguments, sid_softmax, settings.temperature, keys_B)


def _sampled(
  model, trie: Trie, prompts, excluded_BE, group: int, sid_softmax: str, temperature: float, keys_B
) -> tuple[jax.Array, jax.Array]:
  """Draws choices code by code, each from the softmax over the codes that the trie allows."""
  space, levels = model.tables.space, trie.levels
  x_BD, cache = model.start(prompts, group, max(levels - 1, 1))
  B, x_BMD = len(x_BD), x_BD[:, None]
  nodes_BM, total_BM = jnp.zeros((B, group), jnp.int32), jnp.zeros((B, group))
  for level in range(levels):
    log_probs_BMC = log_probs(model, x_BMD, level, sid_softmax)
    log_probs_BMC = jnp.broadcast_to(log_probs_BMC, (B, group, log_probs_BMC.shape[-1]))
    nodes_BMX, codes_BMX, exists_BMX = trie.children(level, nodes_BM)
    if level == levels - 1:
      exists_BMX &= ~occurs(nodes_BMX, dead_leaves(trie, excluded_BE))
    scores_BMX = jnp.take_along_axis(log_probs_BMC, codes_BMX, axis=-1)
    scores_BMX = jnp.where(exists_BMX, scores_BMX, -jnp.inf)
    level_keys_B = jax.vmap(jax.random.fold_in, (0, None))(keys_B, level)
    drawn_BM1 = jax.vmap(jax.random.categorical)(level_keys_B, scores_BMX / temperature)[..., None]
    total_BM += jnp.take_along_axis(scores_BMX, drawn_BM1, axis=-1)[..., 0]
    nodes_BM = jnp.take_along_axis(nodes_BMX, drawn_BM1, axis=-1)[..., 0]
    if level == levels - 1:
      is_real_BM = jnp.any(exists_BMX, axis=-1)
      return jnp.where(is_real_BM, jnp.take(trie.leaf_items, nodes_BM), -1), total_BM
    first_token = space.sid_start + space.level_starts[level]
    tokens_BM = first_token + jnp.take(trie.child_code[level], nodes_BM)
    x_BMD, cache = model.step(tokens_BM, level, cache)
  raise AssertionError('a trie has at least one level')


def code_log_probs(
  model, prompts: dict[str, jax.Array], codes_BML: jax.Array, sid_softmax: str
) -> jax.Array:
  """Returns the log-probability of each code after its prompt and the codes before it, float32 `[B, M, L]`.

  The items of a group share the prompt, which is read once.

  Args:
    model: a backbone (`start`, `step`, `tables`).
    prompts: int32 `tokens` `[B, S]` and `lengths` `[B]`.
    codes_BML: int32, the codes of the items of each group.
    sid_softmax: the setting of training.
  """
  _, M, L = codes_BML.shape
  space, found = model.tables.space, []
  x_BD, cache = model.start(
    {name: prompts[name] for name in ('tokens', 'lengths')}, M, max(L - 1, 1)
  )
  x_BMD = x_BD[:, None]
  for level in range(L):
    codes_BM = codes_BML[..., level]
    log_probs_BMC = log_probs(model, x_BMD, level, sid_softmax)
    if level == 0:
      found.append(jnp.take_along_axis(log_probs_BMC[:, 0], codes_BM, axis=-1))
    else:
      found.append(jnp.take_along_axis(log_probs_BMC, codes_BM[..., None], axis=-1)[..., 0])
    if level < L - 1:
      tokens_BM = space.sid_start + space.level_starts[level] + codes_BM
      x_BMD, cache = model.step(tokens_BM, level, cache)
  return jnp.stack(found, axis=-1)
