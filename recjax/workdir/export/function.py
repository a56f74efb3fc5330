"""The search of a bundle as one function from arrays by name: item indices → prompt → search → ranked items.

A request has int32 `history` `[B, E]`, the items of each row, oldest first, in its last columns and -1 before them;
aligned with it `gaps` and `events`, indices of the notes of `files.prompt_fields` or -1, if prompts show them;
`excluded` `[B, E]`, items that are not ranked, -1 is padding; `within`, uint32 `[S, W]`, masks as packed bits (item i is
bit i % 32 of word i // 32; all bits set, also those past the last item: every item); and `mask` `[B]`, the mask of each
row. All other arrays are weights (`params/…`) or data (`prompt/…`, `trie/…`, `items/…`, `memory/…`, `text/…`), so that the
function itself is small.
"""

from collections.abc import Sequence
import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from recjax.config import Config, next_item_component
from recjax.data.corpus import Corpus
from recjax.data.sequences import Sequences
from recjax.data.tasks.next_item import GAPS
from recjax.decode import blend
from recjax.decode.mask_slots import RowMasks, pruned
from recjax.decode.masks import words
from recjax.decode.ranker import Ranker
from recjax.decode.search import make_search
from recjax.decode.trie import Trie
from recjax.decode.widths import by_level
from recjax.sids.token_space import TokenSpace
from recjax.workdir.export import files
from recjax.workdir.export.lookups import Arrays, DeviceLookups


def names_of(tree: Any, prefix: str) -> dict[str, Any]:
  """Returns the leaves of a tree by name, such as 'trie/first_child/0', in the order of `jax.tree.leaves`."""
  leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
  return {
    f'{prefix}/{jax.tree_util.keystr(path, simple=True, separator="/")}': leaf
    for path, leaf in leaves
  }


class Pieces:
  """The ragged rows of tokens from which prompts are made, as arrays by name."""

  def __init__(self, name: str, rows: Sequences):
    """Names the arrays of the rows."""
    self._name, self.longest = name, int(rows.lengths.max())
    self.arrays = {
      f'prompt/{name}/tokens': rows.values.astype(np.int32),
      f'prompt/{name}/offsets': rows.offsets.astype(np.int32),
    }

  def __call__(self, arrays: Arrays, rows_BN: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns the tokens of rows, int32 `[B, N, K]`, and their numbers `[B, N]`; none for row -1."""
    tokens, offsets = (arrays[f'prompt/{self._name}/{name}'] for name in ('tokens', 'offsets'))
    first_BN, end_BN = (offsets[jnp.maximum(rows_BN, 0) + n] for n in (0, 1))
    at_BNK = first_BN[..., None] + jnp.arange(self.longest)[None, None]
    lengths_BN = jnp.where(rows_BN < 0, 0, end_BN - first_BN)
    return tokens[jnp.minimum(at_BNK, len(tokens) - 1)], lengths_BN


@dataclasses.dataclass(frozen=True)
class Prompt:
  """Makes prompts from item indices on the device.

  Attributes:
    before, after: int32, the tokens before and after the history.
    pieces: the tokens of items and of the notes after them, by the name of the request's array.
    most: largest number of items that a prompt shows.
  """

  before: np.ndarray
  after: np.ndarray
  pieces: dict[str, Pieces]
  most: int

  @classmethod
  def of(cls, config: Config, corpus: Corpus) -> 'Prompt':
    """Returns the prompts of a run; see `NextItem.inference_prompt`."""
    task = next_item_component(config)
    text, shown_as = corpus.prompter.text, task.shown_as(corpus.is_encoder_decoder)
    pieces = {'history': Pieces('history', corpus.shown(shown_as, task.title_tokens))}
    if task.gaps:
      pieces['gaps'] = Pieces('gaps', Sequences.from_lists([text(words) for _, words in GAPS]))
    if task.events:
      names = [text(f'({name})') for name in corpus.dataset.event_names]
      pieces['events'] = Pieces('events', Sequences.from_lists(names))
    before, after = (
      np.array([token for _, ids in parts for token in ids], np.int32)
      for parts in files.prompt_parts(corpus, task)
    )
    return cls(before, after, pieces, task.max_items - 1)

  @property
  def arrays(self) -> dict[str, np.ndarray]:
    """The arrays of the pieces by name."""
    return {name: x for piece in self.pieces.values() for name, x in piece.arrays.items()}

  def __call__(self, arrays: Arrays, request: Arrays, shown: int) -> dict[str, jax.Array]:
    """Returns the prompts of a request, with the latest `shown` items: `tokens` `[B, S]` and `lengths` `[B]`."""
    request = {name: request[name][:, request[name].shape[1] - shown :] for name in self.pieces}
    is_item_BN = request['history'] >= 0
    if 'gaps' in request:  # the first item has no gap
      has_gap_BN = jnp.pad(is_item_BN[:, :-1], ((0, 0), (1, 0)))
      request['gaps'] = jnp.where(has_gap_BN, request['gaps'], -1)
    found = [self.pieces[name](arrays, request[name]) for name in self.pieces]
    sizes_BN = sum(lengths_BN for _, lengths_BN in found)
    ends_BN = len(self.before) + jnp.cumsum(sizes_BN, axis=1)
    S = len(self.before) + shown * sum(p.longest for p in self.pieces.values()) + len(self.after)
    B = len(is_item_BN)
    row_B1 = jnp.arange(B)[:, None]
    tokens_BS = jnp.zeros((B, S), jnp.int32).at[:, : len(self.before)].set(self.before)
    at_BN = ends_BN - sizes_BN
    for tokens_BNK, lengths_BN in found:
      steps_11K = jnp.arange(tokens_BNK.shape[-1])[None, None]
      at_BNK = jnp.where(steps_11K < lengths_BN[..., None], at_BN[..., None] + steps_11K, S)
      flat = (x.reshape(B, -1) for x in (at_BNK, tokens_BNK))
      tokens_BS = tokens_BS.at[row_B1, next(flat)].set(next(flat), mode='drop')
      at_BN += lengths_BN
    after_BA = ends_BN[:, -1:] + jnp.arange(len(self.after))[None]
    tokens_BS = tokens_BS.at[row_B1, after_BA].set(self.after)
    return {'tokens': tokens_BS, 'lengths': ends_BN[:, -1] + len(self.after)}


def row_masks(trie: Trie, within_SW: jax.Array, mask_B: jax.Array) -> RowMasks:
  """Returns the masks of rows for the search; if all of them hold every item, nothing is pruned."""
  every = jnp.uint32(jnp.iinfo(jnp.uint32).max)
  sizes = [words(nodes) for nodes in trie.num_nodes[1:]]
  nodes = jax.lax.cond(
    jnp.all(within_SW == every),
    lambda masks_SW: tuple(jnp.full((masks_SW.shape[0], n), every) for n in sizes),
    lambda masks_SW: jax.lax.map(functools.partial(pruned, trie), masks_SW),
    within_SW,
  )
  return RowMasks(nodes, within_SW, mask_B)


class Function:
  """The search of a run.

  Attributes:
    arrays: data by name.
    prompt: makes the prompts.
    request: names of the arrays of a request.
    words: W, the words of a mask.
    weights: of the scores.
  """

  def __init__(self, config: Config, space: TokenSpace, ranker: Ranker, params: Any):
    """Collects the data of a run.

    Args:
      config: config of the run.
      space: the token ids.
      ranker: gives the catalogue, the beams, the lookups and the weights of the scores.
      params: parameters, adapters merged; only their structure is read.
    """
    self._model = dataclasses.replace(config.model, attention='plain')  # the path of every platform
    self._space, self._widths, self.weights = space, config.eval.beam_widths, ranker.weights
    self.prompt = Prompt.of(config, ranker.loaded.corpus)
    lookups = ranker.loaded.lookups
    self._lookups = None if lookups is None or not lookups.named else DeviceLookups(lookups)
    data = jax.tree.map(np.asarray, {'trie': ranker.trie, 'items': ranker.loaded.items})
    trees = {'params': params, **data}
    self._trees = {kind: jax.tree.structure(tree) for kind, tree in trees.items()}
    self._names = {kind: list(names_of(tree, kind)) for kind, tree in trees.items()}
    self.arrays = names_of(data['trie'], 'trie') | names_of(data['items'], 'items')
    self.arrays |= self.prompt.arrays
    self.arrays |= {} if self._lookups is None else self._lookups.arrays
    self.request = (*self.prompt.pieces, 'excluded', 'within', 'mask')
    self.words = words(len(ranker.trie.leaf_items))

  def __call__(self, values: Arrays, shown: int, beams: int) -> dict[str, jax.Array]:
    """Returns `items` int32 and `scores` float32 `[B, beams]`, best first; see the module and `Ranker.rank`.

    Args:
      values: weights, data and a request by name.
      shown: the latest items that a prompt shows.
      beams: beams of the search.
    """
    widths = by_level(self._widths, beams, self._space.num_levels)
    search = make_search(self._model, self._space, widths)
    params, trie, items = (
      jax.tree.unflatten(self._trees[kind], [values[name] for name in self._names[kind]])
      for kind in ('params', 'trie', 'items')
    )
    prompts, excluded_BE = self.prompt(values, values, shown), values['excluded']
    masks, known, given_BN = row_masks(trie, values['within'], values['mask']), None, None
    if self._lookups is not None:
      known = self._lookups.read(values, values['history'])
      given_BN = self._lookups.best(values, known, excluded_BE, masks)
    found = search(params, trie, prompts, excluded_BE, given_BN, masks, items)
    if self._lookups is not None:
      found = self._lookups.scored(values, known, found)
    items_BM, scores_BM = blend.ranked(found, self.weights, beams)
    return {'items': items_BM, 'scores': scores_BM}

  def shapes(self, params: Any, batch: int) -> dict[str, jax.ShapeDtypeStruct]:
    """Returns the shapes of all arrays by name; the columns E and the masks S of a request stay open."""
    values = names_of(params, 'params') | self.arrays
    shapes = {name: jax.ShapeDtypeStruct(x.shape, x.dtype) for name, x in values.items()}
    width, masks = jax.export.symbolic_shape(
      'E, S', constraints=[f'E >= {self.prompt.most}', 'S >= 1']
    )
    row = jax.ShapeDtypeStruct((batch, width), np.int32)
    within = jax.ShapeDtypeStruct((masks, self.words), np.uint32)
    mask = jax.ShapeDtypeStruct((batch,), np.int32)
    return shapes | dict.fromkeys(self.request, row) | {'within': within, 'mask': mask}

  def buckets(self, batches: Sequence[int]) -> list[tuple[int, int]]:
    """Returns (rows, shown items) of the searches to compile: a quarter of a long prompt, and all of it."""
    most = self.prompt.most
    longest = sum(piece.longest for piece in self.prompt.pieces.values())
    shown = [most] if most * longest <= 128 else [-(-most // 4), most]
    return [(batch, n) for batch in batches for n in shown]
