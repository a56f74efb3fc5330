"""The token tables: one for text, one for SID codes, with a common lookup."""

from collections.abc import Sequence

from flax import nnx
import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
import numpy as np

from recjax.sharding.mesh import constrain, table_sharding
from recjax.sids.token_space import TokenSpace

LOGITS_AT_ONCE = 2**27  # largest number of logits in a search under the full softmax: half a GiB


def _take(tables, scales, starts, ids, dtype, axis: str | None = None) -> jax.Array:
  """Computes `take_rows` on one device; `axis` is the mesh axis that shards the tables' rows."""
  x = jnp.zeros((), dtype)
  scales = scales or (None,) * len(tables)
  columns = (tables, scales, starts, (*starts[1:], None))
  for rows_VD, scale_V, start, stop in zip(*columns, strict=True):
    V = rows_VD.shape[0]
    at = ids - start
    is_inside = (ids >= start) & (True if stop is None else ids < stop)
    if axis is not None:
      at = at - V * jax.lax.axis_index(axis)
      is_inside = is_inside & (at >= 0) & (at < V)
    # Ids outside this table read index V, which mode='fill' turns into zeros without a gradient.
    at = jnp.where(is_inside, at, V)
    rows = jnp.take(rows_VD, at, axis=0, mode='fill', fill_value=0)
    if scale_V is not None:
      rows = rows * jnp.take(scale_V, at, mode='fill', fill_value=0)[..., None]
    x = x + rows.astype(dtype)
  return x


def take_rows(
  tables: Sequence[jax.Array],
  starts: Sequence[int],
  ids: jax.Array,
  dtype: jnp.dtype,
  scales: Sequence[jax.Array] = (),
) -> jax.Array:
  """Looks up the rows of token ids in tables that may be sharded.

  Each device looks up its shard of the rows for all ids of its 'fsdp' group, and the devices exchange the
  results. In both passes the traffic is proportional to the result, not to the table.

  Args:
    tables: float32 `[V, D]` each; with scales int8.
    starts: first id of each table, ascending. A table ends at the first id of the next one.
    ids: int32 `[B, ...]`, not below the first start.
    dtype: dtype of the result; gradients are summed in the tables' dtype.
    scales: float32 `[V]` of each table, factors on its rows. Empty: none.

  Returns:
    `[B, ..., D]`, sharded along B like the ids.
  """
  sharding = table_sharding(tables, ids.shape[0])
  tables, scales = tuple(tables), tuple(scales)
  if sharding is None:
    return _take(tables, scales, starts, ids, dtype)

  def local(tables, scales, ids):
    if sharding.width:
      ids = jax.lax.all_gather(ids, sharding.width, axis=0, tiled=True)
    x = _take(tables, scales, starts, ids, dtype, sharding.rows)
    if sharding.rows:
      x = jax.lax.psum(x, sharding.rows)  # one device has the row, the others zeros
    if sharding.width:
      x = jax.lax.all_to_all(x, sharding.width, split_axis=0, concat_axis=x.ndim - 1, tiled=True)
    return x

  return jax.shard_map(
    local,
    in_specs=(
      (sharding.table_spec,) * len(tables),
      (P(sharding.rows),) * len(scales),
      sharding.batch_spec,
    ),
    out_specs=sharding.batch_spec,
    axis_names=sharding.axes,
  )(tables, scales, ids)


class TokenTables(nnx.Module):
  """The text table and the SID table, for input and output.

  Attributes:
    text: float32 `[text_rows, D]`.
    sid: float32 `[sid_rows, D]`; the codes of level l start at row `space.level_starts[l]`.
    text_out, sid_out: output tables of the same shapes; only if untied.
    items: float32 `[item_rows, D]`, a row of its own for every item; only after `add_items`.
    text_scale, …: float32 `[V]`, factors on the rows of the table; only if they are integers (`recjax.models.int8`).

  Args:
    space: the token ids.
    width: D.
    rngs: source of the initial values.
    tied: whether the output uses the input tables.
    output_scale: factor on the logits (T5 v1.0: D ** -0.5).
    logit_softcap: c of logits = c tanh(logits / c), after the scale; 0: none (Gemma 2).
    input_std: standard deviation of the initial rows; None: D ** -0.5. Untied output tables always have
      D ** -0.5.
  """

  def __init__(
    self,
    space: TokenSpace,
    width: int,
    rngs: nnx.Rngs,
    tied: bool = True,
    output_scale: float = 1.0,
    logit_softcap: float = 0.0,
    input_std: float | None = None,
  ):
    self.space = space
    self.tied = tied
    self.output_scale = output_scale
    self.logit_softcap = logit_softcap

    def table(rows, std):
      init = jax.nn.initializers.normal(std)
      return nnx.Param(init(rngs.params(), (rows, width), jnp.float32))

    output_std = width**-0.5
    input_std = output_std if input_std is None else input_std
    self.text = table(space.text_rows, input_std)
    self.sid = table(space.sid_rows, input_std)
    if not tied:
      self.text_out = table(space.text_rows, output_std)
      self.sid_out = table(space.sid_rows, output_std)

  def add_items(self, width: int) -> None:
    """Adds a table with a row for every item. A row of zeros begins as the sum of the item's code rows alone.

    Raises:
      ValueError: the catalogue is unknown, or items share a semantic ID.
    """
    catalogue = self.space.catalogue
    if catalogue is None or not catalogue.is_unique:
      raise ValueError(
        'model.item_rows and model.item_head need a catalogue whose items have semantic IDs of their own; '
        f'{"no catalogue is known" if catalogue is None else "items share a semantic ID"}. Set '
        '--config.sids.collisions=deduplicate, or both to False'
      )
    self.items = nnx.Param(jnp.zeros((self.space.item_rows, width), jnp.float32))

  @property
  def has_items(self) -> bool:
    """Whether every item has a row of its own."""
    return hasattr(self, 'items')

  def find_items(self, tokens: jax.Array) -> jax.Array:
    """Returns the items with the semantic IDs `[..., L]`, int32 `[...]`; -1 where tokens are no item."""
    space = self.space
    starts = np.asarray(space.level_starts, np.int32) + space.sid_start
    return space.catalogue.find(tokens - starts.reshape((1,) * (tokens.ndim - 1) + (-1,)))

  def own_rows(self, items: jax.Array, dtype: jnp.dtype) -> jax.Array:
    """Returns the own rows `[B, ..., D]` of items `[B, ...]`; zeros for -1."""
    rows = jnp.where(items < 0, self.space.item_rows, items)
    return take_rows((self.items[...],), (0,), rows, dtype, self._scales('items'))

  def item_vectors(self, items: jax.Array | None = None) -> jax.Array:
    """Returns the vectors of items: the sum of an item's code rows, and its own row if it has one.

    New items begin with the sum of their code rows.

    Args:
      items: int32 `[B, ...]`. None: all, `[item_rows]`; padding rows hold the vectors of no item.

    Returns:
      float32 `[B, ..., D]`.
    """
    space = self.space
    codes_IL = space.tokens(space.catalogue.codes_IL) - space.sid_start
    codes_IL = jnp.pad(codes_IL, ((0, space.item_rows - len(codes_IL)), (0, 0)))
    columns = [jnp.asarray(codes) for codes in codes_IL.T]
    if items is not None:
      columns = [jnp.take(codes, items) for codes in columns]
    name = self._names[1]
    table, scales = (getattr(self, name)[...],), self._scales(name)
    vectors = sum(take_rows(table, (0,), codes, jnp.float32, scales) for codes in columns)
    if self.has_items:
      vectors += self._all_own_rows() if items is None else self.own_rows(items, jnp.float32)
    return constrain(vectors, 'table') if items is None else vectors

  def _all_own_rows(self) -> jax.Array:
    """Returns the own rows of all items, float32 `[item_rows, D]`."""
    scales = self._scales('items')
    return self.items[...] * scales[0][:, None] if scales else self.items[...]

  def lookup(self, ids: jax.Array, dtype: jnp.dtype) -> jax.Array:
    """Returns the rows `[B, ..., D]` of token ids `[B, ...]`."""
    if not self.space.sid_size:  # such as a published checkpoint
      return take_rows((self.text[...],), (0,), ids, dtype, self._scales('text'))
    tables = (self.text[...], self.sid[...])
    return take_rows(tables, (0, self.space.sid_start), ids, dtype, self._scales('text', 'sid'))

  @property
  def _names(self) -> tuple[str, str]:
    """Names of the output tables (text, SID)."""
    return ('text', 'sid') if self.tied else ('text_out', 'sid_out')

  def _scales(self, *names: str) -> tuple[jax.Array, ...]:
    """Returns the factors on the rows of tables; empty if the tables hold floats."""
    scales = [getattr(self, f'{name}_scale', None) for name in names]
    return tuple(scale[...] for scale in scales if scale is not None)

  def output_tables(self) -> tuple[jax.Array, jax.Array]:
    """Returns the float32 output tables (text, SID), padding rows included; not of a model whose tables are integers."""
    text, sid = self._names
    return getattr(self, text)[...], getattr(self, sid)[...]

  def logits(self, x: jax.Array, rows_VD: jax.Array, scale_V: jax.Array | None = None) -> jax.Array:
    """Returns float32 logits `[..., V]` of x `[..., D]` over some rows of the output tables.

    Args:
      x: states.
      rows_VD: the rows.
      scale_V: factors on the rows. None: none.
    """
    spec = '...D,VD->...V'
    logits = jnp.einsum(spec, x, rows_VD.astype(x.dtype), preferred_element_type=jnp.float32)
    if scale_V is not None:
      logits = logits * scale_V.reshape((1,) * (logits.ndim - 1) + (-1,))
    if self.output_scale != 1.0:
      logits = logits * self.output_scale
    if self.logit_softcap:
      logits = jnp.tanh(logits / self.logit_softcap) * self.logit_softcap
    return logits

  def _logits_of(self, x: jax.Array, name: str, start: int, size: int) -> jax.Array:
    """Returns float32 logits of x over `size` rows of a table, from `start` on."""
    rows_VD, scales = getattr(self, name)[...][start : start + size], self._scales(name)
    return self.logits(x, rows_VD, scales[0][start : start + size] if scales else None)

  def level_logits(self, x: jax.Array, level: int) -> jax.Array:
    """Returns float32 logits `[..., C]` of x `[..., D]` over the codes of one level, counted from 0."""
    start, size = self.space.level_starts[level], self.space.level_sizes[level]
    return self._logits_of(x, self._names[1], start, size)

  def text_logits(self, x: jax.Array) -> jax.Array:
    """Returns float32 logits `[..., text_size]`."""
    return self._logits_of(x, self._names[0], 0, self.space.text_size)

  def sid_logits(self, x: jax.Array) -> jax.Array:
    """Returns float32 logits `[..., sid_size]`."""
    return self._logits_of(x, self._names[1], 0, self.space.sid_size)

  def all_logits(self, x: jax.Array) -> jax.Array:
    """Returns float32 logits `[..., V]` over all token ids, in the order of the ids."""
    return jnp.concatenate([self.text_logits(x), self.sid_logits(x)], axis=-1)

  def log_denominator(self, x_BMD: jax.Array) -> jax.Array:
    """Returns the logsumexp of `all_logits`, float32 `[B, M, 1]`; a few beams at a time, to bound memory."""

    def logsumexp(x: jax.Array) -> jax.Array:
      parts = (self.text_logits(x), self.sid_logits(x))
      return jnp.logaddexp(*(jax.nn.logsumexp(part, axis=-1, keepdims=True) for part in parts))

    B, M = x_BMD.shape[:2]
    beams = max(LOGITS_AT_ONCE // (B * self.space.size), 1)
    if beams >= M:
      return logsumexp(x_BMD)
    return jax.lax.map(logsumexp, x_BMD.swapaxes(0, 1), batch_size=beams).swapaxes(0, 1)
