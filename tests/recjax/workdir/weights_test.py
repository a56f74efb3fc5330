"""Where the weights of a run come from: given, from its evaluation, from its checkpoint."""

import contextlib
import dataclasses
import json
import types

from etils import epath
import pytest

from recjax import config as config_lib
from recjax.decode.blend import Weights
from recjax.workdir import weights


def made(head=False, **changes):
  config = config_lib.defaults(source='synthetic', name='x')
  config.eval.memory.counts = changes.pop('counts', 'transitions')
  config.eval.blend.update(changes)
  config = config_lib.from_config_dict(config)
  return dataclasses.replace(config, model=dataclasses.replace(config.model, item_head=head))


@pytest.fixture
def workdir(tmp_path, monkeypatch):
  """A workdir whose checkpoint of step 4 chose a memory of 0.3, and whose evaluation chose 0.5."""
  fields = json.loads(json.dumps(made().to_dict()))
  evaluations = [[2, {'ndcg@10': 0.1}], [4, {'blend_head': 0.0, 'blend_memory': 0.3}]]
  meta = types.SimpleNamespace(config=fields, evaluations=evaluations)
  opened = types.SimpleNamespace(meta=lambda step: meta)
  monkeypatch.setattr(weights, 'Checkpoints', lambda *_, **__: contextlib.nullcontext(opened))
  results = {'step': 4, 'metrics': {}, 'baselines': {}, 'rows_per_sec': 1.0, 'eval': fields['eval']}
  results['blend'] = {'head': 0.0, 'memory': 0.5}
  (tmp_path / 'evaluation.json').write_text(json.dumps(results))
  return epath.Path(tmp_path)


def test_the_evaluation_comes_before_the_checkpoint(workdir):
  assert weights.recorded(made(), workdir, 4) == Weights(0.0, 0.5)
  (workdir / 'evaluation.json').unlink()
  assert weights.recorded(made(), workdir, 4) == Weights(0.0, 0.3)


def test_given_weights_and_single_scores_need_no_evaluation(tmp_path):
  nowhere = epath.Path(tmp_path)
  assert weights.recorded(made(memory=0.7), nowhere, 4) == Weights(0.0, 0.7)
  assert weights.recorded(made(counts='none'), nowhere, 4) == Weights()


def test_weights_of_other_settings_are_not_used(workdir):
  for config, step in (
    (made(counts='neighbours'), 4),
    (made(head=True, memory=0.1), 4),
    (made(), 2),
  ):
    with pytest.raises(ValueError, match=r'no evaluation has chosen them. Run --mode=evaluate'):
      weights.recorded(config, workdir, step)


def test_weights_without_their_score_are_refused():
  with pytest.raises(ValueError, match=r'eval.blend.memory must be 0 or None without eval.memory'):
    made(counts='none', memory=0.5)
  config = config_lib.defaults(source='synthetic', name='x')
  config.eval.blend.head = 0.5
  with pytest.raises(ValueError, match=r'must be 0 or None without model.item_head; got 0.5'):
    config_lib.from_config_dict(config)
