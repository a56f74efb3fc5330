"""Measures prompts per second of a GRPO step, compared with a loop around `generate` of `transformers`.

Both make groups of constrained beams for the same prompts with a model of the same shape, reward them by exact match and
rank, score them with the model and a reference, and update every parameter with AdamW. The peer generates with
`prefix_allowed_tokens_fn`, as MiniOneRec does, and keeps its keys and values. Their steps alternate, so that other load
slows both.

Command:  python -m bench.grpo --config=configs/demo.py   (after --mode=prepare; untrained weights; needs the extra [bench])
"""

import dataclasses
import time
from typing import Any

from absl import app, flags
from etils import epath
import jax
import numpy as np

from bench import peer
from bench.circumstances import circumstances, show, start_with_one_heap, write
from recjax import config as config_lib
from recjax import models
from recjax.data.dataset import Dataset
from recjax.data.prompt_stream import PromptStream, leaves
from recjax.schema import flag as config_flag
from recjax.schema.grpo import GRPO, Grpo
from recjax.schema.optim import Stage
from recjax.sharding import mesh as mesh_lib
from recjax.training import optim
from recjax.training import state as state_lib
from recjax.training.grpo import rewards
from recjax.training.grpo import stage as stage_lib
from recjax.training.grpo.groups import Catalogue
from recjax.training.grpo.step import Fixed, jit_step
from recjax.workdir import identity, sizes
from recjax.workdir import stages as stages_lib

_CONFIG = config_flag.define(identity.read_config_dict)
_PROMPTS = flags.DEFINE_integer('prompts', 32, 'Prompts of a step.')
_GROUP = flags.DEFINE_integer('group', 16, 'Items of a group.')
_TURNS = flags.DEFINE_integer('turns', 3, 'Turns of each side.')
_STEPS = flags.DEFINE_integer('steps', 5, 'Steps of recjax in a turn; the peer runs one.')
_PEER = flags.DEFINE_bool('peer', True, 'Measure the peer.')
_PEER_PROMPTS = flags.DEFINE_integer(
  'peer_prompts', None, 'Prompts of a call of `generate`; left out: all of a step.', lower_bound=1
)


class Ours:
  """The compiled step of a stage of kind grpo. A call runs one step and waits for it."""

  def __init__(self, stage: stages_lib.PlannedStage, dataset: Dataset, stream: PromptStream):
    config, space = stage.config, dataset.vocabulary.space
    self._mesh = mesh_lib.make_mesh(config.mesh, jax.devices()[:1])  # one device, like the peer
    self._batch = mesh_lib.host_rows(stream.host_batch(0, 0, 1), self._mesh)
    tx = optim.optimizer(config.optim, config.num_train_steps)
    abstract = state_lib.abstract_state(config.model, space, tx, self._mesh)
    self._step = jit_step(config, stage.grpo, space, abstract, self._mesh)
    self._state = state_lib.init_state(config.model, space, tx, self._mesh, 0)
    reference = state_lib.init_state(config.model, space, tx, self._mesh, 1).params
    catalogue = jax.device_put(Catalogue.of(dataset), mesh_lib.replicated(self._mesh))
    self._fixed = Fixed(catalogue, optim.split(reference, config.optim)[0])

  def __call__(self) -> float:
    """Returns the loss."""
    with jax.set_mesh(self._mesh):
      self._state, metrics = self._step(self._state, self._fixed, self._batch)
    return float(jax.block_until_ready((self._state, metrics))[1]['loss'])


class Peer:
  """The same step with PyTorch and `generate`. A call runs one step.

  Attributes:
    generate_seconds: seconds of the last `generate`.
  """

  def __init__(
    self, shape: Any, dataset: Dataset, stream: PromptStream, settings: Grpo, prompts: int
  ):
    import torch

    self._torch, self._settings, self._prompts = torch, settings, prompts
    space = dataset.vocabulary.space
    torch.manual_seed(0)
    self._model, self._reference = (peer.decoder(shape, space.size).eval() for _ in range(2))
    for model in (self._model, self._reference):
      model.config.use_cache = model.generation_config.use_cache = True
    self._optimizer = torch.optim.AdamW(self._model.parameters(), lr=1e-5, fused=True)
    batch = stream.host_batch(0, 0, 1)
    self._lengths, self._targets = batch['lengths'], leaves(dataset)[0][batch['target']]
    B, S = len(self._lengths), int(self._lengths.max())
    tokens_BS = np.zeros((B, S), np.int64)
    for row, tokens, length in zip(tokens_BS, batch['tokens'], self._lengths, strict=True):
      row[S - length :] = tokens[:length]
    self._tokens = torch.from_numpy(tokens_BS)
    self._mask = torch.from_numpy((np.arange(S) >= S - self._lengths[:, None]).astype(np.int64))
    self._starts = space.sid_start + np.asarray(space.level_starts)
    self._allowed: dict[tuple[int, ...], set[int]] = {}
    for codes in (leaves(dataset)[0] + self._starts).tolist():
      for n, token in enumerate(codes):
        self._allowed.setdefault(tuple(codes[:n]), set()).add(token)
    self._allowed = {prefix: sorted(tokens) for prefix, tokens in self._allowed.items()}
    self.generate_seconds = 0.0

  def _generate(self):
    """Returns the prompts and their groups of codes, int64 `[B M, S + L]`; a call of `generate` has no needless padding."""
    found = []
    for first in range(0, len(self._tokens), self._prompts):
      some = slice(first, first + self._prompts)
      S = int(self._lengths[some].max())
      found.append(self._generated(self._tokens[some, -S:], self._mask[some, -S:])[:, S:])
    tokens = self._tokens.repeat_interleave(self._settings.group, 0)
    return self._torch.cat([tokens, self._torch.cat(found)], 1)

  def _generated(self, tokens, mask):
    S, group = tokens.shape[1], self._settings.group
    return self._model.generate(
      tokens,
      attention_mask=mask,
      max_new_tokens=len(self._starts),
      min_new_tokens=len(self._starts),
      num_beams=group,
      num_return_sequences=group,
      do_sample=False,
      length_penalty=0.0,
      pad_token_id=0,
      eos_token_id=None,
      prefix_allowed_tokens_fn=lambda _, ids: self._allowed[tuple(ids[S:].tolist())],
    )

  def _log_probs(self, model, sequences):
    """Returns the log-probability of every code of the groups `[B M, L]`."""
    L = len(self._starts)
    mask = self._mask.repeat_interleave(self._settings.group, 0)
    mask = self._torch.cat([mask, mask.new_ones(len(mask), L)], 1)
    places = (mask.cumsum(1) - 1).clamp(min=0)
    logits = model(
      sequences, attention_mask=mask, position_ids=places, use_cache=False, logits_to_keep=L + 1
    ).logits[:, :-1]
    codes = sequences[:, -L:, None]
    return logits.log_softmax(-1).gather(-1, codes)[..., 0]

  def __call__(self) -> float:
    """Returns the loss."""
    torch, settings = self._torch, self._settings
    start = time.perf_counter()
    with torch.no_grad():
      sequences = self._generate()
    self.generate_seconds = time.perf_counter() - start
    B, L = len(self._targets), len(self._starts)
    codes_BML = sequences[:, -L:].reshape(B, -1, L).numpy() - self._starts
    ranks_BM = np.broadcast_to(np.arange(codes_BML.shape[1]), codes_BML.shape[:2])
    is_real_BM = np.ones(codes_BML.shape[:2], bool)
    depths_BM = rewards.depths(codes_BML, self._targets)
    found = rewards.parts(depths_BM, ranks_BM, is_real_BM, L)
    total_BM = rewards.total(found, settings.rewards)
    advantages = torch.tensor(np.array(rewards.advantages(total_BM, is_real_BM, True)))
    with torch.no_grad():
      before = self._log_probs(self._reference, sequences)
    now = self._log_probs(self._model, sequences)
    ratio = (now - now.detach()).exp()
    gain = advantages.reshape(-1, 1)
    clipped = ratio.clamp(1 - settings.clip, 1 + settings.clip)
    behind = before - now
    losses = settings.kl * (behind.exp() - behind - 1) - (ratio * gain).minimum(clipped * gain)
    loss = losses.mean()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(self._model.parameters(), 1.0)
    self._optimizer.step()
    self._optimizer.zero_grad(set_to_none=True)
    return loss.item()


def _seconds(side, steps: int) -> tuple[float, float]:
  """Returns seconds and CPU seconds of a step."""
  start, cpu_start = time.perf_counter(), time.process_time()
  for _ in range(steps):
    side()
  return (time.perf_counter() - start) / steps, (time.process_time() - cpu_start) / steps


def main(_) -> None:
  settings = Grpo(group=_GROUP.value)
  config = config_lib.from_config_dict(_CONFIG.value)
  dataset = Dataset.load(config.prepared)
  config = sizes.resolved(config, dataset)
  stages = {
    'first': Stage(num_train_steps=config.num_train_steps),
    'rl': Stage(
      kind=GRPO, num_train_steps=config.num_train_steps, batch_size=_PROMPTS.value, grpo=settings
    ),
  }
  stage = stages_lib.plan(dataclasses.replace(config, stages=stages), epath.Path())[1]
  stream = stage_lib.make_stream(stage, dataset)
  ours = Ours(stage, dataset, stream)
  ours()
  theirs, of_a_call = None, _PEER_PROMPTS.value or _PROMPTS.value
  if _PEER.value:
    theirs = Peer(models.shape_of(config.model), dataset, stream, settings, of_a_call)
    theirs()
  seconds, peer_seconds, generate = [], [], []
  for _ in range(_TURNS.value):
    seconds.append(_seconds(ours, _STEPS.value))
    if theirs is not None:
      peer_seconds.append(_seconds(theirs, 1))
      generate.append(theirs.generate_seconds)
  B, (ours_s, ours_cpu) = _PROMPTS.value, np.median(seconds, axis=0).tolist()
  result = {
    'items': dataset.num_items,
    'parameters': state_lib.num_params(config.model, dataset.vocabulary.space),
    'prompts': B,
    'group': settings.group,
    'recjax_seconds': ours_s,
    'recjax_cpu_seconds': ours_cpu,
    'recjax_prompts_per_sec': B / ours_s,
  }
  if theirs is not None:
    peer_s, peer_cpu = np.median(peer_seconds, axis=0).tolist()
    result |= {
      'peer_prompts_of_a_call': of_a_call,
      'peer_seconds': peer_s,
      'peer_cpu_seconds': peer_cpu,
      'peer_generate_seconds': float(np.median(generate)),
      'peer_prompts_per_sec': B / peer_s,
      'peer_generate_prompts_per_sec': B / float(np.median(generate)),
      'ratio': peer_s / ours_s,
      'ratio_by_cpu_seconds': peer_cpu / ours_cpu,
    }
  show(result)
  write({'circumstances': circumstances()} | result)


if __name__ == '__main__':
  start_with_one_heap()
  app.run(main, flags_parser=config_flag.parse_flags)
