"""The loss of GRPO (arXiv 2402.03300, section 4.1.1) over the codes of the items of groups."""

import jax
import jax.numpy as jnp

from recjax.schema.grpo import Grpo


def token_losses(
  now_BML: jax.Array,
  old_BML: jax.Array,
  reference_BML: jax.Array | None,
  advantages_BM: jax.Array,
  settings: Grpo,
) -> tuple[jax.Array, dict[str, jax.Array]]:
  """Returns the loss of every code, and what is measured beside it, float32 `[B, M, L]` each.

  The loss is −min(r A, clip(r, 1 − clip, 1 + clip_high) A) + kl · k3 with the ratio r of the probabilities now and
  when the groups were made, and k3 = q/p − log(q/p) − 1 for the probability p now and q of the reference (Schulman's
  estimator of the divergence KL(p ‖ q), not negative, exact in expectation over items drawn from p).

  Args:
    now_BML: log-probabilities, with a gradient.
    old_BML: those when the groups were made.
    reference_BML: those of the parameters that the stage began with. None: no divergence.
    advantages_BM: of each item.
    settings: the section of the stage.
  """
  ratio_BML = jnp.exp(now_BML - jax.lax.stop_gradient(old_BML))
  high = settings.clip if settings.clip_high is None else settings.clip_high
  clipped_BML = jnp.clip(ratio_BML, 1 - settings.clip, 1 + high)
  gain_BM1 = advantages_BM[..., None]
  losses_BML = -jnp.minimum(ratio_BML * gain_BM1, clipped_BML * gain_BM1)
  measured = {'clipped': (clipped_BML * gain_BM1 < ratio_BML * gain_BM1).astype(jnp.float32)}
  if reference_BML is not None:
    behind_BML = reference_BML - now_BML
    measured['kl'] = jnp.exp(behind_BML) - behind_BML - 1
    losses_BML += settings.kl * measured['kl']
  return losses_BML, measured
