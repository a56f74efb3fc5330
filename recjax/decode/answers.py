"""Greedy text answers: `greedy` in one jitted function, and `Answerer` for prompts of any length on any mesh.

The next token is the one with the largest logit among the text tokens, semantic IDs apart; or among the tokens
that continue one of the given texts. An answer ends with the end tokens of the prompt's format, or at a limit.
"""

from collections.abc import Sequence
from typing import NamedTuple

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np

from recjax import models
from recjax.data.sequences import Sequences, offsets_of
from recjax.decode.batches import over_prompts
from recjax.decode.text_trie import TextTrie
from recjax.models import lora
from recjax.schema.model import Model
from recjax.sharding import mesh as mesh_lib
from recjax.sids.token_space import TokenSpace


def greedy(
  model,
  prompts: dict[str, jax.Array],
  limit: int,
  end: tuple[int, ...],
  trie: TextTrie | None = None,
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Returns the greedy answer to each prompt.

  Of equal logits the lowest token is chosen. The loop stops when all answers of the batch have ended.

  Args:
    model: a backbone (`start`, `step`, `tables`).
    prompts: int32 `tokens` `[B, S]`, padded on the right, and `lengths` `[B]`, at least 1.
    limit: T, largest number of tokens of an answer, without the end tokens.
    end: the ids that end an answer.
    trie: the allowed texts. None: any text tokens.

  Returns:
    Tokens int32 `[B, T]`, 0 after the answer; the number of its tokens int32 `[B]`, without the end tokens; and a
    bool mask `[B]` of the answers that ended. The others were cut at the limit.
  """
  B, E, most = prompts['tokens'].shape[0], len(end), limit + len(end)
  x_BD, cache = model.start(prompts, 1, most)

  def is_open(carry) -> jax.Array:
    step, _, _, _, _, ends_B = carry
    return (step < most) & jnp.any(ends_B < 0)

  def body(carry):
    step, x_BD, cache, nodes_B, tokens_BT, ends_B = carry
    logits_BV = model.tables.text_logits(x_BD)
    if trie is None:
      token_B = jnp.argmax(logits_BV, axis=-1).astype(jnp.int32)
    else:
      nodes_B = trie.best_child(nodes_B, logits_BV)
      token_B = jnp.asarray(trie.token)[nodes_B]
    token_B = jnp.where(ends_B < 0, token_B, 0)
    # The first E columns lie before the answer, so that the last E tokens can be read at every step.
    tokens_BT = jax.lax.dynamic_update_slice(tokens_BT, token_B[:, None], (0, E + step))
    last_BE = jax.lax.dynamic_slice(tokens_BT, (0, 1 + step), (B, E))
    ends_here_B = jnp.all(last_BE == jnp.asarray(end, jnp.int32)[None], axis=1)
    ends_B = jnp.where((ends_B < 0) & ends_here_B, step + 1 - E, ends_B)
    x_B1D, cache = model.step(token_B[:, None], step, cache)
    return step + 1, x_B1D[:, 0], cache, nodes_B, tokens_BT, ends_B

  tokens_BT = jnp.full((B, E + most), -1, jnp.int32)
  ends_B = jnp.full(B, -1)  # tokens of the answer; -1: it has not ended
  carry = (jnp.int32(0), x_BD, cache, jnp.zeros(B, jnp.int32), tokens_BT, ends_B)
  *_, tokens_BT, ends_B = jax.lax.while_loop(is_open, body, carry)
  # An answer whose end tokens begin after the limit was not ended before it.
  is_ended_B = (ends_B >= 0) & (ends_B <= limit)
  lengths_B = jnp.where(is_ended_B, ends_B, limit)
  is_answer_BT = jnp.arange(limit)[None] < lengths_B[:, None]
  return jnp.where(is_answer_BT, tokens_BT[:, E : E + limit], 0), lengths_B, is_ended_B


class Answers(NamedTuple):
  """Answers to U prompts.

  Attributes:
    tokens: the text ids of each answer, without the end tokens.
    is_ended_U: bool; the other answers were cut at the limit.
  """

  tokens: Sequences
  is_ended_U: np.ndarray


class Answerer:
  """Answers prompts of token ids with the model of a run."""

  def __init__(
    self,
    model: Model,
    space: TokenSpace,
    mesh: jax.sharding.Mesh,
    *,
    batch_size: int,
    limit: int,
    end: tuple[int, ...],
    texts: Sequences | None = None,
    timeout: float = 0.0,
  ):
    """Puts the allowed texts on the devices.

    Args:
      model: model section of the config of the run.
      space: the token ids.
      mesh: the devices.
      batch_size: prompts of a batch, over all devices; it is rounded up to a multiple of the shards.
      limit: largest number of tokens of an answer, without the end tokens.
      end: the ids that end an answer (`Format.end`).
      texts: the allowed answers. None: any text.
      timeout: seconds of one batch, with its compilation; 0: no limit.
    """
    self._mesh, self._batch_size, self._timeout = mesh, batch_size, timeout
    self._trie = None
    if texts is not None:
      trie = TextTrie.of(texts, end)
      self._trie = jax.device_put(trie, mesh_lib.replicated(mesh))
    graph = models.graph(model, space)

    def answer(params, trie, prompts):
      merged = nnx.merge(graph, lora.merge(params, model.lora_alpha))
      return greedy(merged, prompts, limit, end, trie)

    self._answer = jax.jit(answer, out_shardings=mesh_lib.replicated(mesh))

  def answer(self, params, prompts: Sequence[np.ndarray], progress: str | None = None) -> Answers:
    """Returns the greedy answer to every prompt; independent of batch size and devices.

    Args:
      params: parameters on the mesh.
      prompts: int32 token ids, none empty.
      progress: label of the progress bar. None: no bar.
    """
    tokens_UT, lengths_U, is_ended_U = over_prompts(
      lambda batch: self._answer(params, self._trie, batch),
      *(prompts, self._mesh, self._batch_size),
      timeout=self._timeout,
      progress=progress,
    )
    is_answer_UT = np.arange(tokens_UT.shape[1]) < lengths_U[:, None]
    return Answers(Sequences(tokens_UT[is_answer_UT], offsets_of(lengths_U)), is_ended_U)
