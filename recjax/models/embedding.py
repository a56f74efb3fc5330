"""Two tables under one lookup: text pieces and SID codes, so that SID rows can be told apart."""

from flax import nnx
import jax
import jax.numpy as jnp

from recjax.sids.token_space import TokenSpace


class TokenTables(nnx.Module):
  """The text table and the SID table, of the input and of the output.

  Attributes:
    text: float32 `[text_rows, D]`.
    sid: float32 `[sid_rows, D]`; level l's codes are the rows from `space.level_starts[l]`.
    text_out, sid_out: the tables of the output, of the same shapes; only where it is not tied.

  Args:
    space: the token ids there are.
    width: D.
    rngs: where the initial values come from.
    tied: whether the output reads the tables of the input.
    output_scale: a factor on the logits (T5 v1.0: D ** -0.5).
    logit_softcap: c of logits = c tanh(logits / c), after the scale; 0 for none (Gemma 2).
    input_std: standard deviation of the initial rows; None: D ** -0.5. Output tables of their own
      always start at D ** -0.5.
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

  def lookup(self, ids: jax.Array, dtype: jnp.dtype) -> jax.Array:
    """Rows `[..., D]` of token ids `[...]`."""
    if not self.space.sid_size:  # a checkpoint as it was published
      return jnp.take(self.text[...].astype(dtype), ids, axis=0)
    is_sid = ids >= self.space.sid_start
    text = jnp.take(self.text[...].astype(dtype), jnp.where(is_sid, 0, ids), axis=0)
    sid_rows = jnp.where(is_sid, ids - self.space.sid_start, 0)
    sid = jnp.take(self.sid[...].astype(dtype), sid_rows, axis=0)
    return jnp.where(is_sid[..., None], sid, text)

  def output_tables(self) -> tuple[jax.Array, jax.Array]:
    """The float32 rows that logits are products with, padding included: text, then SID."""
    if self.tied:
      return self.text[...], self.sid[...]
    return self.text_out[...], self.sid_out[...]

  def logits(self, x: jax.Array, rows_VD: jax.Array) -> jax.Array:
    """float32 logits `[..., V]` of x `[..., D]` over some rows of the output tables."""
    spec = '...D,VD->...V'
    logits = jnp.einsum(spec, x, rows_VD.astype(x.dtype), preferred_element_type=jnp.float32)
    if self.output_scale != 1.0:
      logits = logits * self.output_scale
    if self.logit_softcap:
      logits = jnp.tanh(logits / self.logit_softcap) * self.logit_softcap
    return logits

  def level_logits(self, x: jax.Array, level: int) -> jax.Array:
    """float32 logits `[..., C]` over the codes of one level (counted from 0), for x `[..., D]`."""
    start = self.space.level_starts[level]
    rows_CD = self.output_tables()[1][start : start + self.space.level_sizes[level]]
    return self.logits(x, rows_CD)

  def text_logits(self, x: jax.Array) -> jax.Array:
    """float32 logits `[..., text_size]`."""
    return self.logits(x, self.output_tables()[0][: self.space.text_size])

  def all_logits(self, x: jax.Array) -> jax.Array:
    """float32 logits `[..., V]` over every token id there is, in the order of the ids."""
    sid = self.logits(x, self.output_tables()[1][: self.space.sid_size])
    return jnp.concatenate([self.text_logits(x), sid], axis=-1)
