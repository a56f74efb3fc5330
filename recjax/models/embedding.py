"""Two tables under one lookup: text pieces and SID codes, so that SID rows can be told apart."""

from flax import nnx
import jax
import jax.numpy as jnp

from recjax.sids.token_space import TokenSpace


class TokenTables(nnx.Module):
  """The text table and the SID table, tied to the output.

  Attributes:
    text: float32 `[text_rows, D]`.
    sid: float32 `[sid_rows, D]`; level l's codes are the rows from `space.level_starts[l]`.
  """

  def __init__(self, space: TokenSpace, width: int, rngs: nnx.Rngs):
    init = jax.nn.initializers.normal(width**-0.5)
    self.space = space
    self.text = nnx.Param(init(rngs.params(), (space.text_rows, width), jnp.float32))
    self.sid = nnx.Param(init(rngs.params(), (space.sid_rows, width), jnp.float32))

  def lookup(self, ids: jax.Array, dtype: jnp.dtype) -> jax.Array:
    """Rows `[..., D]` of token ids `[...]`."""
    is_sid = ids >= self.space.sid_start
    text = jnp.take(self.text[...].astype(dtype), jnp.where(is_sid, 0, ids), axis=0)
    sid_rows = jnp.where(is_sid, ids - self.space.sid_start, 0)
    sid = jnp.take(self.sid[...].astype(dtype), sid_rows, axis=0)
    return jnp.where(is_sid[..., None], sid, text)

  def level_logits(self, x: jax.Array, level: int) -> jax.Array:
    """float32 logits `[..., C]` over the codes of one level (counted from 0), for x `[..., D]`."""
    start = self.space.level_starts[level]
    rows_CD = self.sid[...][start : start + self.space.level_sizes[level]]
    return _logits(x, rows_CD)

  def text_logits(self, x: jax.Array) -> jax.Array:
    """float32 logits `[..., text_size]`."""
    return _logits(x, self.text[...][: self.space.text_size])

  def all_logits(self, x: jax.Array) -> jax.Array:
    """float32 logits `[..., V]` over every token id there is, in the order of the ids."""
    sid = _logits(x, self.sid[...][: self.space.sid_size])
    return jnp.concatenate([self.text_logits(x), sid], axis=-1)


def _logits(x: jax.Array, rows_VD: jax.Array) -> jax.Array:
  return jnp.einsum('...D,VD->...V', x, rows_VD.astype(x.dtype), preferred_element_type=jnp.float32)
