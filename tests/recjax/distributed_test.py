import jax
import pytest

from recjax import distributed

VARIABLES = (
  'RECJAX_COORDINATOR',
  'RECJAX_NUM_PROCESSES',
  'RECJAX_PROCESS_ID',
  'RECJAX_MULTIHOST',
)


@pytest.fixture
def environment(monkeypatch):
  for name in VARIABLES:
    monkeypatch.delenv(name, raising=False)
  calls = []
  monkeypatch.setattr(jax.distributed, 'initialize', lambda *args: calls.append(args))
  return monkeypatch, calls


def test_one_process_needs_nothing(environment):
  distributed.initialize()
  assert environment[1] == []
  assert distributed.is_host0()
  distributed.barrier('alone')


def test_passes_its_place_on_and_checks_the_count(environment):
  monkeypatch, calls = environment
  monkeypatch.setattr(jax, 'process_count', lambda: 2)
  for name, value in zip(VARIABLES, ('here:1', '2', '1'), strict=False):
    monkeypatch.setenv(name, value)
  distributed.initialize()
  assert calls == [('here:1', 2, 1)]


def test_multihost_lets_jax_find_the_others(environment):
  monkeypatch, calls = environment
  monkeypatch.setenv('RECJAX_MULTIHOST', '1')
  distributed.initialize()
  assert calls == [()]
  monkeypatch.setenv('RECJAX_NUM_PROCESSES', '4')
  with pytest.raises(RuntimeError, match='RECJAX_NUM_PROCESSES=4 processes; JAX sees 1'):
    distributed.initialize()


@pytest.mark.parametrize(
  ('values', 'message'),
  [
    ({'RECJAX_NUM_PROCESSES': '2'}, 'missing: RECJAX_COORDINATOR, RECJAX_PROCESS_ID'),
    ({'RECJAX_NUM_PROCESSES': 'two'}, "RECJAX_NUM_PROCESSES must be a number.* got 'two'"),
    (dict(zip(VARIABLES, ('h:1', '2', '2'), strict=False)), r'in \[0, 2\); got 2'),
  ],
)
def test_a_wrong_environment_is_refused(environment, values, message):
  for name, value in values.items():
    environment[0].setenv(name, value)
  with pytest.raises(ValueError, match=message):
    distributed.initialize()
