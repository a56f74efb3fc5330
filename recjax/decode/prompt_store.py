"""Keys and values of prompts that are kept between searches, and extended when a history grows by appending.

The store is one pair of arrays on the device with a slot for each prompt. A prompt that begins with the tokens of a slot
takes that slot over: only its new tokens are read. Another prompt is read from its start, into a free slot or that of
the least recently used prompt. The last item, or the last token, of a prompt is always read by the search itself, because its
state is not kept.

The position of a token is counted from the start of its prompt, so keys stay right while a prompt grows. A prompt that
shows the last items of a longer history begins with another item after every interaction, so nothing of it is kept.
"""

import collections
from collections.abc import Sequence
import dataclasses
import functools
import math
import threading
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from recjax import models
from recjax.decode.loaded import merged
from recjax.decode.trie import Trie
from recjax.models.prefill import KV, Past
from recjax.schema.model import Model
from recjax.sids.token_space import TokenSpace

# Items that an extension reads at most; a prompt with more new ones is read from its start.
_SHORT = 4
KEPT = 'kept'  # the key of the arrays among prompts
Prompts = dict[str, Any]


@dataclasses.dataclass
class Counts:
  """What a store has done.

  Attributes:
    hits: prompts of which all tokens but the last ones were kept.
    extended: prompts of which the beginning was kept.
    misses: prompts that were read from their start.
    evicted: prompts whose slot another one took.
    tokens_kept, tokens_read: tokens of these prompts.
    extend_seconds, read_seconds: time of reading the new tokens of extended prompts, and whole prompts.
  """

  hits: int = 0
  extended: int = 0
  misses: int = 0
  evicted: int = 0
  tokens_kept: int = 0
  tokens_read: int = 0
  extend_seconds: float = 0.0
  read_seconds: float = 0.0


def with_past(prompts: Prompts) -> Prompts:
  """Returns prompts of `PromptStore.continued` for `start`, inside a jitted function; others unchanged."""
  if 'places' not in prompts:
    return prompts
  kv = tuple(x[:, prompts['places']] for x in prompts[KEPT])
  read = {name: prompts[name] for name in ('tokens', 'lengths')}
  return read | {'past': Past(kv, prompts['past_lengths'])}


def unsupported(model: Model, mesh: jax.sharding.Mesh) -> str:
  """Returns the reason why the prompts of a model cannot be kept; empty: they can."""
  family = models.family(model)
  if getattr(family.build, 'read', None) is None:
    return (
      f'a model of family {family.name} has no keys and values that stay right while a prompt grows'
    )
  if mesh.size > 1:
    return f'prompts are kept on one device; the mesh has {mesh.size}'
  return ''


class PromptStore:
  """The store of one model.

  Attributes:
    counts: what it has done.
    lock: is held from `continued` until the search has started, since the next one writes into the same arrays.
    slots: number of prompts that it keeps.
  """

  def __init__(
    self,
    model: Model,
    space: TokenSpace,
    mesh: jax.sharding.Mesh,
    longest: int,
    limit: int,
  ):
    """Makes the arrays.

    Args:
      model: the model section, with the type of the search's computation.
      space: the token space.
      mesh: one device.
      longest: tokens of the longest prompt.
      limit: largest number of bytes.

    Raises:
      ValueError: see `unsupported`; or the limit is less than a prompt needs.
    """
    if reason := unsupported(model, mesh):
      raise ValueError(f'prompts cannot be kept: {reason}')
    if not isinstance(limit, int | np.integer):
      raise ValueError(f'the limit of kept prompts must be a whole number of bytes; got {limit!r}')
    shape, self.counts, self.lock = models.shape_of(model), Counts(), threading.Lock()
    self._last = space.num_levels if models.family(model).reads_items_alone else 1
    self._short, self._longest = _SHORT * space.num_levels, longest
    room = 1 + -(-(longest - 1) // self._last)
    self._shape = (shape.depth, shape.kv_heads, room, shape.head_width)
    self._dtype = jnp.dtype(shape.compute_dtype)
    each = 2 * math.prod(self._shape) * self._dtype.itemsize
    self.slots = limit // each - 1  # one takes the padding of a batch
    if self.slots < 1:
      raise ValueError(
        f'the limit of kept prompts must be at least {2 * each:,} bytes, one prompt and one for padding; got {limit:,}'
      )
    self._owner: tuple[Any, ...] = ()
    self._compiled = 0  # prompts that are read at once by the largest compiled program
    self._write = jax.jit(
      functools.partial(_write, models.graph(model, space), model, space), donate_argnums=0
    )

  @property
  def num_bytes(self) -> int:
    """Bytes of the arrays."""
    return 2 * (self.slots + 1) * math.prod(self._shape) * self._dtype.itemsize

  def continued(
    self, prompts: Sequence[np.ndarray], rows: int, params: Any, trie: Trie, items: Any
  ) -> Prompts:
    """Returns the prompts as tokens after kept ones, of which the missing ones are read now; call it with `lock`.

    Args:
      prompts: int32 tokens, none empty.
      rows: rows of the batch, at least the number of prompts.
      params, trie, items: of the search. With others than those before, the store is emptied first.

    Returns:
      The argument of `with_past`.
    """
    if self._owner[1:] != tuple(map(id, (params, trie, items))):
      self._clear(params, trie, items)
    if len(prompts) > self.slots:
      raise ValueError(
        f'a batch must have at most as many prompts as the store has slots, {self.slots}; got {len(prompts)}'
      )
    owner, self._owner = self._owner, ()  # if reading fails, the next call begins anew
    slots, work = [], {True: [], False: []}
    for prompt in prompts:
      slot, kept, tokens = self._place(prompt[: self._kept(prompt)], set(slots))
      slots.append(slot)
      if len(tokens):
        work[bool(kept)].append((slot, kept, tokens))
    for is_extended, reads in work.items():
      self._read(owner[0], reads, is_extended)
    self._owner = owner
    batch = {
      'tokens': np.zeros((rows, self._last), np.int32),
      'lengths': np.ones(rows, np.int32),
      'past_lengths': np.zeros(rows, np.int32),
      'places': np.full(rows, self.slots, np.int32),
    }
    for row, (prompt, slot) in enumerate(zip(prompts, slots, strict=True)):
      kept = self._kept(prompt)
      batch['tokens'][row, : len(prompt) - kept] = prompt[kept:]
      batch['lengths'][row] = len(prompt) - kept
      batch['past_lengths'][row] = self._positions(kept)
      batch['places'][row] = slot
    return batch | {KEPT: self._arrays}

  def compile(self, rows: int, params: Any, trie: Trie, items: Any) -> None:
    """Compiles the programs that read 1, 2, 4, … up to `rows` prompts at once; call it without `lock`."""
    with self.lock:
      if self._owner[1:] != tuple(map(id, (params, trie, items))):
        self._clear(params, trie, items)
      counts = dataclasses.replace(self.counts)
      while self._compiled < rows:
        self._compiled = max(2 * self._compiled, 1)
        reads = [(self.slots, 1, np.zeros(1, np.int32))] * self._compiled
        for is_extended in (True, False):
          self._read(self._owner[0], reads, is_extended)
      self.counts = counts

  def _kept(self, prompt: np.ndarray) -> int:
    """Returns the number of tokens before those that the search reads."""
    return max(len(prompt) - self._last, 0) if self._last == 1 or len(prompt) > 1 else 0

  def _positions(self, tokens: int) -> int:
    return -(-(tokens - 1) // self._last) + 1 if tokens else 0

  def _place(self, tokens: np.ndarray, taken: set[int]) -> tuple[int, int, np.ndarray]:
    """Returns the slot of a prompt, the number of its tokens that are kept, and those that must be read.

    Args:
      tokens: the prompt without the tokens that the search reads.
      taken: slots of this batch, which no other prompt may take over.
    """
    if not len(tokens):
      return self.slots, 0, tokens
    key = tokens.tobytes()
    if key in self._slot_of:
      self._slot_of.move_to_end(key)
      self.counts.hits += 1
      self.counts.tokens_kept += len(tokens)
      return self._slot_of[key], len(tokens), tokens[:0]
    kept = 0
    for length in sorted(self._lengths, reverse=True):
      slot = self._slot_of.get(tokens[:length].tobytes()) if length < len(tokens) else None
      if slot is not None and slot not in taken and len(tokens) - length <= self._short:
        kept = length
        self._forget(tokens[:length].tobytes())
        break
    else:
      slot = self._free(taken)
    self.counts.extended += bool(kept)
    self.counts.misses += not kept
    self.counts.tokens_kept += kept
    self.counts.tokens_read += len(tokens) - kept
    if slot != self.slots:
      self._slot_of[key] = slot
      self._lengths[len(tokens)] += 1
    return slot, kept, tokens[kept:]

  def _free(self, taken: set[int]) -> int:
    """Returns a free slot, or that of the least recently used prompt that this batch does not read."""
    if self._unused:
      return self._unused.pop()
    self.counts.evicted += 1
    return self._forget(next(key for key, slot in self._slot_of.items() if slot not in taken))

  def _forget(self, key: bytes) -> int:
    self._lengths[len(key) // 4] -= 1
    self._lengths += collections.Counter()  # drops counts of zero
    return self._slot_of.pop(key)

  def _read(
    self, arguments, reads: Sequence[tuple[int, int, np.ndarray]], is_extended: bool
  ) -> None:
    """Reads tokens into their slots; the batch has room for the next power of two of prompts."""
    if not reads:
      return
    start = time.perf_counter()
    rows = 1 << (len(reads) - 1).bit_length()
    width = self._short if is_extended else self._longest
    batch = {
      'tokens': np.zeros((rows, width), np.int32),
      'lengths': np.ones(rows, np.int32),
      'places': np.full(rows, self.slots, np.int32),
    }
    if is_extended:
      batch['past_lengths'] = np.zeros(rows, np.int32)
    for row, (slot, kept, tokens) in enumerate(reads):
      batch['tokens'][row, : len(tokens)] = tokens
      batch['lengths'][row], batch['places'][row] = len(tokens), slot
      if is_extended:
        batch['past_lengths'][row] = self._positions(kept)
    self._arrays = jax.block_until_ready(self._write(self._arrays, *arguments, batch))
    seconds = time.perf_counter() - start
    if is_extended:
      self.counts.extend_seconds += seconds
    else:
      self.counts.read_seconds += seconds

  def _clear(self, *arguments: Any) -> None:
    """Forgets all prompts; later ones are read with these parameters, trie and items."""
    self._owner = (arguments, *map(id, arguments))
    self._slot_of: collections.OrderedDict[bytes, int] = collections.OrderedDict()
    self._lengths: collections.Counter[int] = collections.Counter()  # of kept prompts
    self._unused = list(range(self.slots))
    depth, *each = self._shape
    shape = (depth, self.slots + 1, *each)
    self._arrays = ()  # the memory of the earlier ones is free before it is taken again
    self._arrays = (jnp.zeros(shape, self._dtype), jnp.zeros(shape, self._dtype))


def _write(graph, model, space, kept: KV, params, trie, items, prompts: Prompts) -> KV:
  """Returns the arrays with the keys and values of tokens in their slots."""
  prompts = dict(prompts)
  slots, module = prompts['places'], merged(graph, model, space, params, trie, items)
  if 'past_lengths' in prompts:
    kv = module.read(with_past(prompts | {KEPT: kept}))[1]
  else:
    kv = module.read({name: prompts[name] for name in ('tokens', 'lengths')})[1]
    kv = tuple(_fitted(x, kept[0].shape[3]) for x in kv)
  return tuple(old.at[:, slots].set(new) for old, new in zip(kept, kv, strict=True))


def _fitted(x: jax.Array, room: int) -> jax.Array:
  """Returns keys or values with room for as many positions; those beyond are of padding."""
  x = x[:, :, :, :room]
  return jnp.pad(x, ((0, 0),) * 3 + ((0, room - x.shape[3]), (0, 0)))
