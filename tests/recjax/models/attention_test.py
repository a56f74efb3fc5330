"""Every path of attention agrees with a loop over queries; the choice of the path."""

import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from recjax.models import attention, splash
from recjax.schema.model import Model
from recjax.schema.run import Mesh
from recjax.sharding import mesh as mesh_lib


def case(seed=0, B=2, T=12, N=4, K=2, H=8, dtype=jnp.float32):
  """Makes packed rows with padding at the end: q, k, v, segments, and the causal mask with distances."""
  rng = np.random.default_rng(seed)
  q, k, v = (jnp.asarray(rng.normal(size=(B, T, n, H)), dtype) for n in (N, K, K))
  lengths = [(T // 2 - 1, T // 2 - 1), (T // 4, T // 2)]
  segments = np.zeros((B, T), np.int32)
  positions = np.zeros((B, T), np.int32)
  for b in range(B):
    first, second = lengths[b % 2]
    segments[b, :first], segments[b, first : first + second] = 1, 2
    positions[b, :first], positions[b, first : first + second] = np.arange(first), np.arange(second)
  segments, positions = jnp.asarray(segments), jnp.asarray(positions)
  mask, distance = attention.attention_mask(segments, segments, positions, positions)
  return q, k, v, segments, mask, distance


def naive(q, k, v, mask, softcap=0.0, bias=None):
  """Computes attention in float64, one query of one head at a time."""
  q, k, v, mask = (np.asarray(x, np.float64) for x in (q, k, v, mask))
  B, T, N, H = q.shape
  out = np.zeros((B, T, N, H))
  for b, t, n in np.ndindex(B, T, N):
    kv_head = n // (N // k.shape[2])
    logits = k[b, :, kv_head] @ q[b, t, n]
    if softcap:
      logits = softcap * np.tanh(logits / softcap)
    if bias is not None:
      logits = logits + np.asarray(bias, np.float64)[n, t]
    seen = mask[b, t] > 0
    if seen.any():
      out[b, t, n] = scipy.special.softmax(logits[seen]) @ v[b, seen, kv_head]
  return out


@pytest.mark.parametrize('path', ['plain', 'xla'])
@pytest.mark.parametrize('biased', [False, True])
def test_each_path_equals_a_loop_over_queries(path, biased):
  q, k, v, segments, mask, distance = case()
  mask = mask & (distance < 4)
  bias = jnp.asarray(np.random.default_rng(1).normal(size=(4, 12, 12)), jnp.float32)
  bias = bias if biased else None
  got = attention.attend(q, k, v, mask, bias=bias, implementation=path)
  real = np.asarray(segments) > 0
  np.testing.assert_allclose(got[real], naive(q, k, v, mask, bias=bias)[real], atol=2e-6)


def test_the_soft_cap_equals_a_loop_over_queries():
  q, k, v, segments, mask, _ = case()
  got = attention.attend(q, k, v, mask, softcap=1.5)
  real = np.asarray(segments) > 0
  np.testing.assert_allclose(got[real], naive(q, k, v, mask, softcap=1.5)[real], atol=2e-6)


def test_gradients_of_the_plain_and_the_xla_path_agree():
  q, k, v, segments, mask, _ = case()
  bias = jnp.asarray(np.random.default_rng(1).normal(size=(4, 12, 12)), jnp.float32)
  real = jnp.asarray(segments > 0, jnp.float32)[:, :, None, None]

  def loss(arguments, path):
    q, k, v, bias = arguments
    return jnp.sum(real * attention.attend(q, k, v, mask, bias=bias, implementation=path) ** 2)

  gradients = [jax.grad(loss)((q, k, v, bias), path) for path in ('plain', 'xla')]
  for plain, xla in zip(*gradients, strict=True):
    np.testing.assert_allclose(plain, xla, atol=1e-5)


@pytest.mark.parametrize(('window', 'softcap'), [(0, 0.0), (40, 0.0), (0, 2.0)])
def test_the_tpu_kernel_equals_the_plain_path_forward_and_backward(window, softcap):
  """Interprets the kernel."""
  q, k, v, segments, mask, distance = case(T=128, N=2, K=1, H=64)
  real = jnp.asarray(segments > 0, jnp.float32)[:, :, None, None]
  mask = mask & ((window == 0) | (distance < max(window, 1)))

  def kernel(q, k, v):
    x = splash.attend(q, k, v, segments, jnp.int32(window), (0, 40), softcap, interpret=True)
    return jnp.sum(real * x**2), x

  def plain(q, k, v):
    x = attention.attend(q, k, v, mask, softcap)
    return jnp.sum(real * x**2), x

  got, x = jax.jit(jax.grad(kernel, argnums=(0, 1, 2), has_aux=True))(q / 8, k, v)
  expected, y = jax.grad(plain, argnums=(0, 1, 2), has_aux=True)(q / 8, k, v)
  np.testing.assert_allclose(real * x, real * y, atol=2e-5)
  for a, b in zip(got, expected, strict=True):
    np.testing.assert_allclose(a, b, atol=2e-4)


def test_the_tpu_kernel_equals_the_plain_path_on_a_mesh():
  q, k, v, segments, mask, _ = case(B=4, T=128, N=2, K=2, H=64)
  real = jnp.asarray(segments > 0, jnp.float32)[:, :, None, None]
  expected = attention.attend(q, k, v, mask)
  with jax.set_mesh(mesh_lib.make_mesh(Mesh(data=2, fsdp=2, tensor=2))):
    got = jax.jit(lambda *a: splash.attend(*a, segments, jnp.int32(0), (0,), interpret=True))(
      q, k, v
    )
  np.testing.assert_allclose(real * got, real * expected, atol=2e-5)


@pytest.mark.parametrize('softcap', [0.0, 50.0])
def test_logits_of_half_precision_inputs_are_float32(softcap):
  q, k, v, segments, mask, _ = case(T=64, H=64, dtype=jnp.bfloat16)
  q = q * 4  # a large spread of logits, so that rounding them would dominate the error
  got = attention.attend(q, k, v, mask, softcap=softcap, implementation='plain')
  expected = naive(q, k, v, mask, softcap)
  error = (np.asarray(got, np.float64) - expected)[np.asarray(segments) > 0]
  assert np.sqrt(np.mean(error**2) / np.mean(expected**2)) < 0.003


def chosen(monkeypatch, platform, implementation='auto', softcap=0.0, bias=None, packed=True, **kw):
  monkeypatch.setattr(attention, '_platform', lambda: platform)
  monkeypatch.setattr(attention, '_widest_cudnn_head', lambda: 256)
  q, k, _, segments, _, _ = case(**kw)
  packed = attention.PackedCausal(segments, jnp.int32(0), (0,)) if packed else None
  return attention.choose(implementation, q, k, softcap, bias, packed)


def test_auto_takes_the_first_path_that_applies(monkeypatch):
  half = {'T': 128, 'H': 64, 'dtype': jnp.bfloat16}
  bias = jnp.zeros((4, 128, 128))
  choose = lambda platform, **kw: chosen(monkeypatch, platform, **(half | kw))  # noqa: E731
  assert choose('cpu') == 'plain'
  assert choose('gpu') == 'cudnn'
  assert choose('gpu', H=256) == 'cudnn'
  assert choose('gpu', H=512) == 'xla'
  assert choose('gpu', T=13) == 'xla'
  assert choose('gpu', dtype=jnp.float32) == 'xla'
  assert choose('gpu', bias=bias) == 'xla'
  assert choose('gpu', softcap=50.0) == 'plain'
  with jax.set_mesh(mesh_lib.make_mesh(Mesh(data=4, tensor=2))):
    assert choose('gpu', B=4) == 'cudnn'
    assert choose('gpu', B=4, K=1) == 'xla'  # queries are sharded, keys replicated
  assert choose('tpu') == 'splash'
  assert choose('tpu', softcap=50.0) == 'splash'
  assert choose('tpu', packed=False) == 'xla'
  assert choose('tpu', bias=bias) == 'xla'
  assert choose('tpu', T=120) == 'xla'
  assert choose('tpu', T=120, softcap=50.0) == 'plain'


def test_the_plain_path_on_an_accelerator_is_logged_once(monkeypatch, caplog):
  attention._log_once.cache_clear()
  with caplog.at_level(logging.WARNING, logger='recjax.models.attention'):
    for _ in range(2):
      assert chosen(monkeypatch, 'gpu', softcap=50.0) == 'plain'
    assert chosen(monkeypatch, 'cpu') == 'plain'
    assert chosen(monkeypatch, 'cpu', implementation='cudnn') == 'plain'
  first, second = caplog.messages
  assert first == (
    'attention takes the plain path on gpu (cudnn: it has no soft-cap for logits; xla: it has no '
    'soft-cap for logits)'
  )
  assert second == 'attention takes the plain path on cpu (cudnn: it is a GPU kernel)'


def test_an_unknown_path_is_refused():
  with pytest.raises(ValueError, match=r'auto, plain, xla, cudnn, splash; got .flash'):
    Model(attention='flash')
