"""RQ-VAE: an autoencoder with residually quantized latents, trained together with its codebooks."""

from collections.abc import Mapping
import functools
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from recjax.runtime import logs
from recjax.schema.sids import Rqvae
from recjax.sids.quantizers import residual_kmeans
from recjax.sids.quantizers.saved import Quantizer
from recjax.sids.quantizers.standardised import Standardised
from recjax.sids.vectors import Vectors

Params = dict[str, Any]  # encoder, decoder: lists of (kernel, bias); books: list of [C, Z]
# Share of the epochs, at the end, in which codes do not restart, so that every code is trained.
_FINAL_SHARE = 0.1
_SINKHORN_ITERATIONS = 50  # LC-Rec


def fit(
  vectors_ID: np.ndarray | Vectors,
  codes: tuple[int, ...],
  options: Rqvae,
  seed: int,
  pairs_P2: np.ndarray | None = None,
) -> Quantizer:
  """Trains the RQ-VAE of TIGER (Rajput et al., NeurIPS 2023, section 3.1).

  Loss: mean squared error of the decoded vectors + the sum over levels of mean((sg[r] - e)²) +
  β mean((r - sg[e])²), where r is a level's residual, e the nearest codebook row and sg stops the gradient.
  The decoder's gradient passes to the encoder by the straight-through estimator. Means are over dimensions, so
  that D and Z do not change the weights. The steps are:

  1. Centre the vectors and divide them by one number, so that the mean variance of a dimension is 1.
  2. Train `autoencoder_epochs` without codebooks, because codebooks fitted to random latents waste codes.
  3. Initialise the codebooks with residual k-means on the latents.
  4. Train `epochs` with AdamW and a cosine learning rate. After every epoch except in the last tenth, unused
     codes restart at the residual of a random item.

  Vectors of more than 512 MiB are read from their file in parts of 131,072 items (`Standardised`). Codes then restart
  after every part.

  `contrastive_weight` adds IIRG's term (arXiv 2606.17276): symmetric InfoNCE between the normalised encoder
  outputs of half a batch of random pairs.

  `sinkhorn` spreads the items of a batch evenly over the codes of the last level (`_evenly`), as LC-Rec does in training
  (Zheng et al., ICDE 2024, arXiv 2311.09049). The items' final codes are the nearest ones.

  Args:
    vectors_ID: floats `[I, D]`, one vector for each item.
    codes: the size of each level's codebook.
    options: widths, rates and weights.
    seed: equal arguments give equal arrays on one machine.
    pairs_P2: int `[P, 2]`, pairs of related items. Required if the contrastive weight is positive.

  Returns:
    The quantizer. `assign(vectors_ID)` gives the items' codes.

  Raises:
    ValueError: there are fewer items than codes, a vector is not finite, required pairs are missing, or the
      training diverged.
  """
  vectors_ID = Vectors.of(vectors_ID)
  residual_kmeans.check_vectors(vectors_ID, codes)
  if options.contrastive_weight and (pairs_P2 is None or not len(pairs_P2)):
    raise ValueError(
      'the contrastive term needs pairs of related items; got none. '
      'Set --config.sids.rqvae.contrastive_weight=0'
    )
  items = Standardised(vectors_ID)
  pairs = pairs_P2 if options.contrastive_weight else None
  rng = np.random.default_rng(seed)
  widths = (items.width, *options.hidden, options.latent)
  params = {'encoder': _init(rng, widths), 'decoder': _init(rng, widths[::-1]), 'books': []}
  run = functools.partial(_train, items=items, pairs=pairs, options=options, rng=rng)
  if options.autoencoder_epochs:
    params = run(params, epochs=options.autoencoder_epochs)
  latents = functools.partial(_latents, params['encoder'], items)
  books = residual_kmeans.codebooks(latents, items.num_items, codes, seed)
  params = params | {'books': [jnp.asarray(book_CZ) for book_CZ in books]}
  params = run(params, epochs=options.epochs)
  return _to_quantizer(jax.tree.map(np.asarray, params), items.mean_D, items.scale)


def _latents(layers: Any, items: Standardised, rows: np.ndarray | None) -> np.ndarray:
  """Returns the encoder's outputs for items, of all for None: float32 `[n, Z]`."""
  return np.concatenate([np.asarray(jax.jit(_mlp)(layers, x)) for x in items.chunks(rows)])


def _init(rng: np.random.Generator, widths: tuple[int, ...]) -> list[tuple[jax.Array, jax.Array]]:
  layers = []
  for n, (width_in, width_out) in enumerate(itertools.pairwise(widths)):
    gain = 2.0 if n < len(widths) - 2 else 1.0  # He et al. (ICCV 2015) before a ReLU
    kernel = rng.normal(scale=np.sqrt(gain / width_in), size=(width_in, width_out))
    layers.append((jnp.asarray(kernel, jnp.float32), jnp.zeros(width_out)))
  return layers


def _mlp(layers: list[tuple[jax.Array, jax.Array]], x_BD: jax.Array) -> jax.Array:
  for kernel, bias in layers[:-1]:
    x_BD = jax.nn.relu(x_BD @ kernel + bias[None, :])
  kernel, bias = layers[-1]
  return x_BD @ kernel + bias[None, :]


def _evenly(distances_BC: jax.Array, epsilon: float) -> jax.Array:
  """Returns codes int `[B]`: the largest entry in every row of a plan that uses all codes evenly.

  The plan minimises the distances, scaled to a range from -1 to 1, minus epsilon times its entropy; every row has the
  sum 1/B and every column 1/C. It is found by Sinkhorn-Knopp (Cuturi, NeurIPS 2013), here in logarithms.
  """
  middle = (distances_BC.max() + distances_BC.min()) / 2
  scaled_BC = (distances_BC - middle) / (distances_BC.max() - middle + 1e-5)

  def iteration(_, plan_BC):
    plan_BC -= jax.nn.logsumexp(plan_BC, axis=1, keepdims=True)
    return plan_BC - jax.nn.logsumexp(plan_BC, axis=0, keepdims=True)

  plan_BC = jax.lax.fori_loop(0, _SINKHORN_ITERATIONS, iteration, -scaled_BC / epsilon)
  return jnp.argmax(plan_BC, axis=1)


def _quantize(
  books: list[jax.Array],
  latents_BZ: jax.Array,
  commitment: float,
  sinkhorn: float | None = None,
) -> tuple[jax.Array, jax.Array, list[jax.Array], list[jax.Array]]:
  """Returns quantized latents `[B, Z]`, codebook and commitment loss, and each level's codes and residuals.

  Args:
    books: the codebooks.
    latents_BZ: the latents.
    commitment: weight of the commitment loss.
    sinkhorn: epsilon of `_evenly` at the last level. None: all codes are the nearest ones.
  """
  residual_BZ, quantized_BZ, loss = latents_BZ, jnp.zeros_like(latents_BZ), jnp.float32(0)
  codes, residuals = [], []
  for level, book_CZ in enumerate(books):
    target_BZ = jax.lax.stop_gradient(residual_BZ)
    products_BC = jnp.matmul(target_BZ, jax.lax.stop_gradient(book_CZ).T, precision='highest')
    relative_BC = (book_CZ**2).sum(axis=1)[None, :] - 2 * products_BC
    if sinkhorn is None or level < len(books) - 1:
      chosen_B = jnp.argmin(relative_BC, axis=1)
    else:
      squares_B1 = (target_BZ**2).sum(axis=1, keepdims=True)
      chosen_B = _evenly(jax.lax.stop_gradient(squares_B1 + relative_BC), sinkhorn)
    row_BZ = book_CZ[chosen_B]
    loss += jnp.mean((target_BZ - row_BZ) ** 2)
    loss += commitment * jnp.mean((residual_BZ - jax.lax.stop_gradient(row_BZ)) ** 2)
    codes.append(chosen_B)
    residuals.append(target_BZ)
    quantized_BZ += row_BZ
    residual_BZ -= jax.lax.stop_gradient(row_BZ)
  return quantized_BZ, loss, codes, residuals


def _info_nce(left_NZ: jax.Array, right_NZ: jax.Array, temperature: float) -> jax.Array:
  """Computes symmetric InfoNCE (van den Oord et al., arXiv 1807.03748); row n of both sides is a pair."""
  left_NZ, right_NZ = (
    z / jnp.maximum(jnp.linalg.norm(z, axis=1, keepdims=True), 1e-6) for z in (left_NZ, right_NZ)
  )
  logits_NN = left_NZ @ right_NZ.T / temperature
  right, left = (jnp.diag(jax.nn.log_softmax(logits_NN, axis=axis)) for axis in (1, 0))
  return -(right.mean() + left.mean()) / 2


def _weights(options: Rqvae) -> dict[str, float]:
  weights = {
    'commitment': options.commitment,
    'contrastive': options.contrastive_weight,
    'temperature': options.contrastive_temperature,
    'decay': options.weight_decay,
  }
  return weights | ({'sinkhorn': options.sinkhorn} if options.sinkhorn else {})


def _loss(
  params: Params,
  x_BD: jax.Array,
  pair_x: tuple[jax.Array, jax.Array] | None,
  weights: Mapping[str, jax.Array],
) -> tuple[jax.Array, Any]:
  """Returns the loss, and each level's codes `[B]` and residuals `[B, Z]`."""
  latents_BZ = _mlp(params['encoder'], x_BD)
  decoder_in_BZ, loss, codes, residuals = latents_BZ, jnp.float32(0), [], []
  if params['books']:
    quantized_BZ, loss, codes, residuals = _quantize(
      params['books'], latents_BZ, weights['commitment'], weights.get('sinkhorn')
    )
    decoder_in_BZ += jax.lax.stop_gradient(quantized_BZ - latents_BZ)  # straight through
  loss += jnp.mean((_mlp(params['decoder'], decoder_in_BZ) - x_BD) ** 2)
  if pair_x is not None:
    left_NZ, right_NZ = (_mlp(params['encoder'], x) for x in pair_x)
    loss += weights['contrastive'] * _info_nce(left_NZ, right_NZ, weights['temperature'])
  return loss, (codes, residuals)


def _train(
  params: Params,
  *,
  items: Standardised,
  pairs: np.ndarray | None,
  options: Rqvae,
  epochs: int,
  rng: np.random.Generator,
) -> Params:
  batch = min(options.batch_size, items.num_items)
  steps, of_part = items.steps(batch), items.steps_of_part(batch)
  warmup = min(100, epochs * steps // 10)
  rate = optax.warmup_cosine_decay_schedule(0, options.learning_rate, warmup, epochs * steps)
  rates = np.asarray(rate(np.arange(epochs * steps))).reshape(epochs, steps)
  state = optax.scale_by_adam().init(params)
  name = 'RQ-VAE' if params['books'] else 'autoencoder'
  with logs.progress(total=epochs * steps, desc=name, unit=' steps') as progress:
    for epoch in range(epochs):
      order = items.order(rng, batch)
      may_restart = epoch < epochs * (1 - _FINAL_SHARE)
      for first in range(0, steps, of_part):
        part = slice(first, first + of_part)
        draws = {
          'rates': rates[epoch, part],
          'items': order[part],
          'restarts': [rng.integers(0, batch, len(book_CZ)) for book_CZ in params['books']],
        }
        if pairs is not None:
          draws['pairs'] = pairs[rng.integers(0, len(pairs), (of_part, max(batch // 2, 1)))]
        draws, x_ND = items.local(draws)
        params, state, loss = _run_epoch(params, state, draws, x_ND, _weights(options), may_restart)
        if not np.isfinite(loss):
          raise ValueError(
            f'the loss of the {name} must be finite; got {float(loss)} in epoch {epoch}. Set '
            '--config.sids.rqvae.learning_rate to less'
          )
        progress.set_postfix(loss=f'{float(loss):.4f}', refresh=False)
        progress.update(of_part)
  return params


# All settings except shapes are arguments, so that one compilation serves all of them.
@functools.partial(jax.jit, donate_argnames=('params', 'state'))
def _run_epoch(
  params: Params,
  state: optax.OptState,
  draws: Mapping[str, Any],
  x_ID: jax.Array,
  weights: Mapping[str, jax.Array],
  may_restart: jax.Array,
) -> tuple[Params, optax.OptState, jax.Array]:
  """Takes the S steps of an epoch or of a part with AdamW, then restarts the codes that no batch used.

  Args:
    params, state: before the epoch; donated.
    draws: `rates` `[S]`; `items` of the batches `[S, B]`; if the contrastive term is on, `pairs` of items
      `[S, P, 2]`; `restarts`, one `[C]` for each level: for each code a row of the last batch.
    x_ID: the standardised vectors, of all items or of a part.
    weights: see `_weights`.
    may_restart: whether unused codes restart.

  Returns:
    params, state and the mean loss.
  """
  adam = optax.scale_by_adam()

  def step(carry, draw):
    params, state, used, _ = carry
    pair_x = None
    if 'pairs' in draw:
      pair_x = (x_ID[draw['pairs'][:, 0]], x_ID[draw['pairs'][:, 1]])
    (loss, (codes, residuals)), gradients = jax.value_and_grad(_loss, has_aux=True)(
      params, x_ID[draw['items']], pair_x, weights
    )
    updates, state = adam.update(gradients, state)
    params = jax.tree.map(
      lambda p, u: p - draw['rates'] * (u + weights['decay'] * p), params, updates
    )
    used = [seen_C.at[codes_B].set(True) for seen_C, codes_B in zip(used, codes, strict=True)]
    return (params, state, used, residuals), loss

  used = [jnp.zeros(len(book_CZ), bool) for book_CZ in params['books']]
  batch = draws['items'].shape[1]
  residuals = [jnp.zeros((batch, book_CZ.shape[1])) for book_CZ in params['books']]
  (params, state, used, residuals), losses = jax.lax.scan(
    step,
    (params, state, used, residuals),
    {name: draw for name, draw in draws.items() if name != 'restarts'},
  )
  books = [
    jnp.where((may_restart & ~used_C)[:, None], residual_BZ[rows_C], book_CZ)
    for book_CZ, used_C, residual_BZ, rows_C in zip(
      params['books'], used, residuals, draws['restarts'], strict=True
    )
  ]
  return params | {'books': books}, state, losses.mean()


def _to_quantizer(params: Params, mean_D: np.ndarray, scale: float) -> Quantizer:
  """Returns the quantizer of raw vectors: the first and last layers absorb the standardisation."""
  (kernel, bias), *encoder = params['encoder']
  *decoder, (last_kernel, last_bias) = params['decoder']
  first = (kernel / scale, bias - mean_D @ kernel / scale)
  last = (last_kernel * scale, last_bias * scale + mean_D)
  return Quantizer(
    encoder=(first, *(tuple(layer) for layer in encoder)),
    codebooks=tuple(params['books']),
    decoder=(*(tuple(layer) for layer in decoder), last),
  )
