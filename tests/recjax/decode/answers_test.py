"""Greedy answers equal the step-by-step argmax of full forward passes."""

from flax import nnx
import jax
import numpy as np
import pytest

from recjax import models
from recjax.data.sequences import Sequences
from recjax.decode.answers import Answerer
from recjax.schema.model import Model
from recjax.schema.run import Mesh
from recjax.sharding import mesh as mesh_lib
from recjax.sids.token_space import TokenSpace

SPACE = TokenSpace(text_size=14, level_sizes=(6, 4))
LIMIT = 6
SIZES = {'depth': 2, 'width': 16, 'ff_width': 32, 'heads': 4, 'head_width': 8}
FAMILIES = {
  family: Model(family=family, kv_heads=4 if family == 't5' else 2, **SIZES)
  for family in ('gemma', 't5')
}


def built(family):
  """A model whose answers differ, and its parameters; an untrained one repeats one token."""
  model = models.build(FAMILIES[family], SPACE, 3)
  layers, factors = (
    (model.decoder.layers, {'cross_attention': 10}) if family == 't5' else (model.layers, {'': 3})
  )

  def larger(path, x):
    return x * next((f for part, f in factors.items() if part in jax.tree_util.keystr(path)), 1)

  nnx.update(layers, jax.tree_util.tree_map_with_path(larger, nnx.state(layers)))
  return model, nnx.to_pure_dict(nnx.split(model)[1])


def next_logits(model, prompts, answers, length=24):
  """The text logits after each prompt and the tokens answered so far, from full forward passes."""
  rows, at = len(prompts), []
  tokens, segments = np.zeros((rows, length), np.int32), np.zeros((rows, length), np.int32)
  batch = {}
  if isinstance(model, models.t5.T5):
    batch = {
      'encoder_tokens': np.zeros((rows, length), np.int32),
      'encoder_segments': np.zeros((rows, length), np.int32),
    }
  for row, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
    whole = [*prompt, *answer]
    if batch:
      batch['encoder_tokens'][row, : len(prompt)] = prompt
      batch['encoder_segments'][row, : len(prompt)] = 1
      whole = [model.config.start_id, *answer]
    tokens[row, : len(whole)] = whole
    segments[row, : len(whole)] = 1
    at.append(len(whole) - 1)
  positions = np.tile(np.arange(length, dtype=np.int32), (rows, 1))
  batch |= {'tokens': tokens, 'segments': segments, 'positions': positions}
  x_BTD = HIDDEN(model, batch)
  text = np.asarray(model.tables.output_tables()[0])[: SPACE.text_size]
  return np.asarray(x_BTD)[np.arange(rows), at] @ text.T


HIDDEN = nnx.jit(lambda model, batch: model.hidden(batch))


def oracle(model, prompts, end, allowed=None):
  """Answers and whether they ended, token by token."""
  answers = [[] for _ in prompts]
  done = [False] * len(prompts)
  for _ in range(LIMIT + len(end)):
    logits = next_logits(model, prompts, answers)
    for row, answer in enumerate(answers):
      if done[row]:
        continue
      choices = range(SPACE.text_size)
      if allowed is not None:
        choices = sorted({t[len(answer)] for t in allowed if t[: len(answer)] == answer})
      answer.append(max(choices, key=lambda token: (logits[row, token], -token)))
      done[row] = answer[-len(end) :] == list(end)
  cut = [a[: -len(end)] if d else a[:LIMIT] for a, d in zip(answers, done, strict=True)]
  return cut, done


def prompts_of(count, seed=0):
  rng = np.random.default_rng(seed)
  return [rng.integers(2, SPACE.size, rng.integers(1, 12)).astype(np.int32) for _ in range(count)]


def answered(family, prompts, mesh, end, batch_size=4, texts=None):
  _, params = built(family)
  mesh = mesh_lib.make_mesh(mesh, jax.devices()[: abs(mesh.data * mesh.fsdp * mesh.tensor)])
  answerer = Answerer(
    *(FAMILIES[family], SPACE, mesh),
    batch_size=batch_size, limit=LIMIT, end=end, texts=texts,
  )  # fmt: skip
  found = answerer.answer(params, prompts)
  return [found.tokens[u].tolist() for u in range(len(prompts))], found.is_ended_U.tolist()


@pytest.mark.parametrize(
  ('family', 'end_tokens', 'mesh'),
  [('gemma', 1, Mesh(data=2, fsdp=2, tensor=2)), ('t5', 2, Mesh(data=2))],
)
def test_answers_equal_the_argmax_of_full_forward_passes(family, end_tokens, mesh):
  model, _ = built(family)
  prompts = prompts_of(21)
  free, _ = oracle(model, prompts, (99,))
  # An end that some answers contain, at different places, and others do not.
  ends = {tuple(a[n : n + end_tokens]) for a in free for n in range(LIMIT - end_tokens + 1)}
  found = {end: oracle(model, prompts, end) for end in sorted(ends)}
  end = max(found, key=lambda e: min(sum(found[e][1]), len({len(a) for a in found[e][0]})))
  answers, ended = found[end]
  assert 2 < sum(ended) < len(prompts) - 2
  assert len({len(answer) for answer in answers}) > 2
  assert answered(family, prompts, mesh, end) == (answers, ended)


def test_an_answer_may_have_to_be_one_of_the_texts():
  model, _ = built('gemma')
  prompts = prompts_of(9, seed=1)
  texts = [[], [5], [5, 6], [7, 8, 9, 3, 2, 4], [7, 8, 10], [11, 12], [2, 3, 4, 5], [5, 6]]
  allowed = [[*text, 1] for text in texts]
  answers, ended = oracle(model, prompts, (1,), allowed)
  assert all(ended) and all(answer in texts for answer in answers)
  assert len({tuple(answer) for answer in answers}) > 1
  found = answered('gemma', prompts, Mesh(data=1), (1,), texts=Sequences.from_lists(texts))
  assert found == (answers, ended)
