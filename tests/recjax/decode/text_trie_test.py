import jax
import jax.numpy as jnp
import numpy as np
import pytest

from recjax.data.sequences import Sequences
from recjax.decode.text_trie import TextTrie

END = (1, 0)


def walk(trie, node=0, prefix=()):
  """Yields the token sequences of all paths from the root, in order."""
  children = range(trie.first_child[node], trie.first_child[node + 1])
  if not children:
    yield prefix
  for child in children:
    yield from walk(trie, child, (*prefix, int(trie.token[child])))


def test_the_paths_of_the_trie_are_the_texts():
  rng = np.random.default_rng(0)
  texts = [rng.integers(2, 6, rng.integers(0, 6)).tolist() for _ in range(80)]
  trie = TextTrie.of(Sequences.from_lists(texts), END)
  assert list(walk(trie)) == sorted({(*text, *END) for text in texts})
  assert trie.max_branch == max(np.diff(trie.first_child))
  assert len(trie.token) == trie.first_child[-1] == len(trie.first_child) - 1


def test_the_best_child_has_the_largest_logit():
  texts = [[5, 7], [5, 4], [3], [5, 4, 4]]
  trie = TextTrie.of(Sequences.from_lists(texts), (1,))
  nodes = jnp.arange(len(trie.token), dtype=jnp.int32)
  logits = jax.random.normal(jax.random.key(0), (len(nodes), 9))
  logits = logits.at[0].set(0.0)  # equal: the lowest token
  found = np.asarray(jax.jit(lambda t, n, x: t.best_child(n, x))(trie, nodes, logits))
  for node in range(len(nodes)):
    children = range(trie.first_child[node], trie.first_child[node + 1])
    if children:
      best = max(children, key=lambda child: (float(logits[node, trie.token[child]]), -child))
      assert found[node] == best


def test_a_trie_needs_a_text():
  with pytest.raises(ValueError, match='needs at least one text; got none'):
    TextTrie.of(Sequences.from_lists([]), END)
  only = TextTrie.of(Sequences.from_lists([[]]), END)
  assert list(walk(only)) == [END]
