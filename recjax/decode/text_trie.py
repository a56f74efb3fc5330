"""The trie of a list of texts as token ids, such as the titles of a catalogue, for answers that must be one of them."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from recjax.data.sequences import Sequences, offsets_of


@functools.partial(
  jax.tree_util.register_dataclass,
  data_fields=['first_child', 'token'],
  meta_fields=['max_branch'],
)
@dataclasses.dataclass(frozen=True, eq=False)
class TextTrie:
  """Prefixes of token sequences of different lengths; a pytree with a static size.

  Nodes are numbered by depth, and those of one depth in lexicographic order. So the children of node n are the
  nodes `first_child[n]` … `first_child[n + 1] - 1`. Node 0 is the root.

  Attributes:
    first_child: int32 `[N + 1]`.
    token: int32 `[N]`, the last token of each node; 0 for the root.
    max_branch: largest number of children of a node.
  """

  first_child: np.ndarray
  token: np.ndarray
  max_branch: int

  @classmethod
  def of(cls, texts: Sequences, end: tuple[int, ...]) -> 'TextTrie':
    """Builds the trie of the texts as numpy arrays.

    Args:
      texts: token ids of every text; equal texts count once.
      end: the ids that follow every text.

    Raises:
      ValueError: there is no text.
    """
    if not len(texts):
      raise ValueError('a trie needs at least one text; got none')
    lengths = texts.lengths + len(end)
    tokens_NT = np.full((len(texts), int(lengths.max())), -1, np.int32)
    rows = np.repeat(np.arange(len(texts)), texts.lengths)
    tokens_NT[rows, texts.places] = texts.values
    for n, token in enumerate(end):
      tokens_NT[np.arange(len(texts)), texts.lengths + n] = token
    tokens_NT = tokens_NT[np.lexsort(tokens_NT.T[::-1])]
    is_new = np.zeros(len(texts), bool)
    is_new[0] = True
    node = np.zeros(len(texts), np.int64)  # each row's node among those of its depth
    children, token = [], [np.zeros(1, np.int32)]
    for tokens_N in tokens_NT.T:
      is_new[1:] |= tokens_N[1:] != tokens_N[:-1]
      is_node = is_new & (tokens_N >= 0)
      children.append(np.bincount(node[is_node], minlength=len(token[-1])))
      token.append(tokens_N[is_node])
      node = np.maximum(np.cumsum(is_node) - 1, 0)
    children.append(np.zeros(len(token[-1]), np.int64))
    counts = np.concatenate(children)
    first_child = (offsets_of(counts) + 1).astype(np.int32)
    return cls(first_child, np.concatenate(token).astype(np.int32), int(counts.max()))

  def best_child(self, nodes_B: jax.Array, logits_BV: jax.Array) -> jax.Array:
    """Returns the child of each node whose token has the largest logit, int32 `[B]`.

    Of equal logits the lowest token is chosen. For a node without children the result is no child of it.
    """
    first_child, token = jnp.asarray(self.first_child), jnp.asarray(self.token)
    begin_B1, end_B1 = first_child[nodes_B][:, None], first_child[nodes_B + 1][:, None]
    nodes_BW = begin_B1 + jnp.arange(self.max_branch, dtype=jnp.int32)[None]
    tokens_BW = token[jnp.minimum(nodes_BW, len(self.token) - 1)]
    logits_BW = jnp.take_along_axis(logits_BV, tokens_BW, axis=1)
    best_B = jnp.argmax(jnp.where(nodes_BW < end_B1, logits_BW, -jnp.inf), axis=1)
    return jnp.minimum(begin_B1[:, 0] + best_B.astype(jnp.int32), len(self.token) - 1)
