import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.special

from recjax.schema.sids import Rqvae
from recjax.sids.quantizers import rqvae, standardised

SMALL = {'hidden': (16,), 'latent': 4, 'batch_size': 32, 'autoencoder_epochs': 15, 'epochs': 60}

CODES = (6, 8, 5)  # one shape throughout: compiling takes longer than training


def _hierarchy(seed=0, clouds=6, inside=4, each=10, width=12, spread=0.02):
  """Clouds of clouds: vectors, and the outer cloud of each."""
  rng = np.random.default_rng(seed)
  outer = rng.permutation(np.arange(clouds * inside * each) % clouds)
  inner = rng.integers(0, inside, len(outer))
  centres = 3 * rng.normal(size=(clouds, 1, width)) + rng.normal(size=(clouds, inside, width))
  vectors = 5 + centres[outer, inner] + spread * rng.normal(size=(len(outer), width))
  return vectors.astype(np.float32), outer


def _variance_left(quantizer, vectors):
  decoded = quantizer.decode(quantizer.quantized(quantizer.assign(vectors)))
  return ((vectors - decoded) ** 2).sum() / ((vectors - vectors.mean(0)) ** 2).sum()


@pytest.fixture(scope='module')
def fitted():
  vectors, outer = _hierarchy()
  options = Rqvae(**SMALL, learning_rate=1e-2)
  return rqvae.fit(vectors, CODES, options, seed=0), vectors, outer


def test_codes_reconstruct_the_vectors(fitted):
  quantizer, vectors, outer = fitted
  codes = quantizer.assign(vectors)
  assert [book.shape for book in quantizer.codebooks] == [(6, 4), (8, 4), (5, 4)]
  assert quantizer.width == 12
  assert all(
    (np.bincount(codes[:, n], minlength=size) > 0).all() for n, size in enumerate((6, 8, 5))
  )
  # The first level can distinguish only the outer clusters; the other levels distinguish the inner ones.
  pairs = {tuple(pair) for pair in zip(codes[:, 0].tolist(), outer.tolist(), strict=True)}
  assert len(pairs) <= 9
  assert _variance_left(quantizer, vectors) < 0.05
  assert 'float32' == quantizer.encoder[0][0].dtype == quantizer.codebooks[0].dtype


def test_a_repeated_fit_is_bit_identical_and_the_seed_matters():
  vectors, _ = _hierarchy()
  options = Rqvae(**SMALL | {'epochs': 3})
  one, two, other = (rqvae.fit(vectors, CODES, options, seed) for seed in (1, 1, 2))
  assert one.fingerprint == two.fingerprint != other.fingerprint


def test_codes_do_not_depend_on_offset_and_scale_of_the_vectors(fitted):
  quantizer, vectors, _ = fitted
  options = Rqvae(**SMALL, learning_rate=1e-2)
  moved = rqvae.fit(1e-3 * (vectors - 7), CODES, options, seed=0)
  assert _variance_left(moved, 1e-3 * (vectors - 7)) < 0.05
  assert np.isfinite(quantizer.decode(quantizer.codebooks[0])).all()


def test_losses_and_gradients_of_a_level_equal_a_hand_computation():
  rng = np.random.default_rng(0)
  latents = rng.normal(size=(7, 3)).astype(np.float32)
  books = [rng.normal(size=(n, 3)).astype(np.float32) for n in (4, 5)]
  beta, want, residual, codes, residuals = 0.3, 0.0, latents.copy(), [], []
  for book in books:
    chosen = ((residual[:, None] - book[None]) ** 2).sum(-1).argmin(1)
    want += (1 + beta) * ((residual - book[chosen]) ** 2).mean()
    codes.append(chosen)
    residuals.append(residual)
    residual = residual - book[chosen]
  arrays = [jnp.asarray(book) for book in books]
  quantize = jax.jit(rqvae._quantize)
  quantized, loss, got_codes, got_residuals = quantize(arrays, latents, beta)
  np.testing.assert_allclose(loss, want, rtol=1e-5)
  np.testing.assert_allclose(quantized, latents - residual, atol=1e-5)
  for level in range(2):
    np.testing.assert_array_equal(got_codes[level], codes[level])
    np.testing.assert_allclose(got_residuals[level], residuals[level], atol=1e-5)
  # A row moves to its own residuals, a latent to its rows by the commitment of every level.
  gradients = jax.grad(lambda books, latents: quantize(books, latents, beta)[1], argnums=(0, 1))
  book_gradients, latent_gradient = jax.jit(gradients)(arrays, latents)
  errors = [residuals[level] - books[level][codes[level]] for level in range(2)]
  np.testing.assert_allclose(latent_gradient, 2 * beta * (errors[0] + errors[1]) / 21, atol=1e-5)
  for level in range(2):
    want_gradient = np.zeros_like(books[level])
    np.add.at(want_gradient, codes[level], -2 * errors[level] / 21)
    np.testing.assert_allclose(book_gradients[level], want_gradient, atol=1e-5)


def _lc_rec(distances, epsilon):
  """The assignment of LC-Rec's code: double precision, without logarithms."""
  d = distances.astype(np.float64)
  middle = (d.max() + d.min()) / 2
  plan = np.exp(-(d - middle) / (d.max() - middle + 1e-5) / epsilon)
  plan /= plan.sum()
  for _ in range(50):
    plan /= plan.sum(axis=1, keepdims=True) * len(plan)
    plan /= plan.sum(axis=0, keepdims=True) * plan.shape[1]
  return plan


def test_codes_of_the_last_level_are_spread_evenly_over_a_batch():
  rng = np.random.default_rng(0)
  latents = (0.1 * rng.normal(size=(60, 3)) + 1).astype(np.float32)  # all near each other
  books = [jnp.asarray(rng.normal(size=(n, 3)), jnp.float32) for n in (4, 5)]
  quantize = jax.jit(rqvae._quantize)
  plain = quantize(books, latents, 0.3)
  for epsilon in (0.3, 0.01, 0.003):
    even = quantize(books, latents, 0.3, epsilon)
    np.testing.assert_array_equal(even[2][0], plain[2][0])  # the first level has the nearest codes
    residuals = np.asarray(even[3][1])
    plan = _lc_rec(((residuals[:, None] - np.asarray(books[1])[None]) ** 2).sum(-1), epsilon)
    first, second = np.sort(plan, axis=1)[:, :-3:-1].T
    is_clear = first > 1.01 * second
    assert is_clear.mean() > 0.8
    np.testing.assert_array_equal(np.asarray(even[2][1])[is_clear], plan.argmax(1)[is_clear])
    spans = [np.ptp(np.bincount(codes[2][1], minlength=5)) for codes in (even, plain)]
    assert spans[0] < spans[1]


def test_a_fit_with_even_codes_ends_with_the_nearest_codes():
  vectors, _ = _hierarchy()
  options = Rqvae(**SMALL | {'autoencoder_epochs': 0}, learning_rate=1e-2, sinkhorn=0.003)
  quantizer = rqvae.fit(vectors, CODES, options, seed=0)
  assert _variance_left(quantizer, vectors) < 0.2
  assert (np.bincount(quantizer.assign(vectors)[:, -1], minlength=5) > 0).all()
  assert 'sinkhorn' not in rqvae._weights(Rqvae())  # the program without it is the earlier one


def test_the_decoders_gradient_goes_straight_through():
  weights = rqvae._weights(Rqvae(commitment=1e-9))
  layer = [(jnp.eye(2), jnp.zeros(2))]
  params = {'encoder': layer, 'decoder': layer, 'books': [jnp.array([[1.0, 0.0], [0.0, 1.0]])]}
  x = jnp.array([[0.9, 0.2]])
  gradient = jax.jit(jax.grad(lambda p: rqvae._loss(p, x, None, weights)[0]))(params)
  # Decoded [1, 0], an error of [0.1, -0.2], so 2/2 of it by the encoder's output, times the input.
  want = np.outer([0.9, 0.2], [0.1, -0.2])
  np.testing.assert_allclose(gradient['encoder'][0][0], want, atol=1e-6)


def test_info_nce_is_the_cross_entropy_of_both_sides():
  rng = np.random.default_rng(1)
  left, right = rng.normal(size=(2, 5, 3)).astype(np.float32)
  cosine = left @ right.T / np.outer(np.linalg.norm(left, axis=1), np.linalg.norm(right, axis=1))
  rows = -np.diag(scipy.special.log_softmax(cosine / 0.5, axis=1)).mean()
  columns = -np.diag(scipy.special.log_softmax(cosine / 0.5, axis=0)).mean()
  got = jax.jit(rqvae._info_nce)(left, right, 0.5)
  np.testing.assert_allclose(got, (rows + columns) / 2, rtol=1e-5)


def test_the_contrastive_term_brings_pairs_together():
  vectors, outer = _hierarchy()
  # Clouds 0 and 1 belong together, 2 and 3, 4 and 5.
  rng = np.random.default_rng(0)
  partners = [rng.choice(np.flatnonzero(outer == (cloud ^ 1))) for cloud in outer]
  pairs = np.stack([np.arange(len(outer)), partners], axis=1).astype(np.int32)

  def cosine_of_pairs(weight):
    options = Rqvae(**SMALL, learning_rate=1e-2, contrastive_weight=weight)
    latents = rqvae.fit(vectors, CODES, options, seed=0, pairs_P2=pairs).encode(vectors)
    latents /= np.linalg.norm(latents, axis=1, keepdims=True)
    return (latents[pairs[:, 0]] * latents[pairs[:, 1]]).sum(1).mean()

  assert cosine_of_pairs(1.0) > cosine_of_pairs(0.0) + 0.3


@pytest.mark.parametrize('restarts', [True, False])
def test_an_unused_code_restarts_at_a_residual(restarts):
  vectors, _ = _hierarchy()
  x = jnp.asarray(vectors - vectors.mean(0))
  books = [jnp.asarray(np.array([[0.0] * 4, [1e3] * 4], np.float32)), jnp.zeros((1, 4))]
  rng = np.random.default_rng(0)
  params = {
    'encoder': rqvae._init(rng, (12, 16, 4)),
    'decoder': rqvae._init(rng, (4, 16, 12)),
    'books': books,
  }
  latents = np.asarray(rqvae._mlp(params['encoder'], x))
  draws = {
    'rates': np.full(7, 1e-6, np.float32),
    'items': np.arange(224).reshape(7, 32),
    'restarts': [np.array([3, 5]), np.array([1])],
  }
  state = optax.scale_by_adam().init(params)
  got, _, loss = rqvae._run_epoch(params, state, draws, x, rqvae._weights(Rqvae()), restarts)
  assert np.isfinite(loss)
  dead = np.asarray(got['books'][0][1])
  np.testing.assert_allclose(got['books'][0][0], 0, atol=1e-3)
  # At the latent of the item in place 5 of the last batch, as nothing was subtracted before.
  want = latents[6 * 32 + 5] if restarts else np.full(4, 1e3)
  np.testing.assert_allclose(dead, want, atol=1e-2)


def test_bad_input_is_refused():
  vectors, _ = _hierarchy(each=1)
  with pytest.raises(ValueError, match=r'has items \(24\); got .*99.*Set --config.sids.codes'):
    rqvae.fit(vectors, (99, 2), Rqvae(**SMALL), seed=0)
  with pytest.raises(ValueError, match='finite'):
    rqvae.fit(vectors * np.inf, (2, 2), Rqvae(**SMALL), seed=0)
  contrastive = Rqvae(**SMALL, contrastive_weight=0.1)
  for pairs in (None, np.zeros((0, 2), np.int32)):
    with pytest.raises(ValueError, match='pairs of related items; got none'):
      rqvae.fit(vectors, (2, 2), contrastive, seed=0, pairs_P2=pairs)
  with pytest.raises(ValueError, match=r'must be finite; got .*rqvae\.learning_rate to less'):
    rqvae.fit(vectors, (2, 2), Rqvae(**SMALL, learning_rate=1e30), seed=0)


def test_vectors_in_a_file_are_read_in_parts(tmp_path, monkeypatch):
  vectors, _ = _hierarchy()
  np.save(tmp_path / 'vectors.npy', vectors)
  mapped = np.load(tmp_path / 'vectors.npy', mmap_mode='r')
  monkeypatch.setattr(standardised, 'RESIDENT', 0)
  monkeypatch.setattr(standardised, 'PART', 64)
  monkeypatch.setattr(standardised, 'BLOCK', 16)
  few = {'autoencoder_epochs': 0, 'epochs': 20}  # one compilation
  options = Rqvae(**SMALL | few, learning_rate=1e-2)
  quantizer = rqvae.fit(mapped, CODES, options, seed=0)
  assert _variance_left(quantizer, vectors) < 0.5
