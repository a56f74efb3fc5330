"""Recommends items for histories of raw item ids, with the best checkpoint of a run."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
import contextlib
import dataclasses
import logging
import os
from typing import Any, overload

from etils import epath
import jax

from recjax import config as config_lib
from recjax import models
from recjax.config import Config
from recjax.data.dataset import Dataset
from recjax.data.history_files import PART_SIZE, HistoryFile
from recjax.data.requests import Answer as Answer
from recjax.data.requests import History as History
from recjax.data.requests import Recommendation as Recommendation
from recjax.data.requests import Request as Request
from recjax.data.requests import Within as Within
from recjax.data.requests import (
  check,
  ids,
  is_count,
  is_id,
  listed,
  streamed,
  windows,
  with_candidates,
)
from recjax.decode import precision
from recjax.decode.catalogue import Catalogue as Catalogue
from recjax.decode.prompt_store import PromptStore
from recjax.decode.ranker import Ranker
from recjax.decode.warm import warm
from recjax.decode.waves import Waves
from recjax.models import pretrained
from recjax.runtime import device, distributed
from recjax.runtime.files import digest
from recjax.schema.run import Hosts, Mesh
from recjax.sharding import mesh as mesh_lib
from recjax.sharding.fingerprint import fingerprint
from recjax.training import state as state_lib
from recjax.training.start import best_params as best_params
from recjax.workdir import checkpoint_name, evaluation_file, identity, paths, ranked_file, weights
from recjax.workdir.export import loading
from recjax.workdir.parts import Parts

log = logging.getLogger(__name__)

_WINDOW = 8192  # histories of a stream that are ranked together


def make_ranker(
  config: Config,
  dataset: Dataset,
  mesh: jax.sharding.Mesh,
  beams: int | None = None,
  room: float | None = None,
  masks: epath.PathLike | None = None,
) -> Ranker:
  """Returns the ranker of a run; `beams` is `eval.beams` by default. See `Ranker` for `room` and `masks`.

  Raises:
    ValueError: see `config.next_item_component`.
  """
  component = config_lib.next_item_component(config)
  sections = (component, config.model, config.eval, config.hosts)
  return Ranker(*sections, dataset, mesh, beams, room, masks)


def best_ranker(
  config: Config,
  workdir: epath.Path,
  dataset: Dataset,
  mesh: jax.sharding.Mesh,
  beams: int | None = None,
  room: float | None = None,
  masks: epath.PathLike | None = None,
) -> tuple[Ranker, Any, int]:
  """Returns the ranker of the best checkpoint with the weights of its scores, its parameters, and its step.

  Raises:
    ValueError: see `make_ranker`, `best_params` and `workdir.weights.recorded`.
  """
  params, step = best_params(config, workdir, dataset, mesh)
  params = precision.stored(params, config.eval.weights_dtype, config.model.lora_alpha)
  ranker = make_ranker(config, dataset, mesh, beams, room, masks)
  ranker.weights = weights.recorded(config, workdir, step)
  return ranker, params, step


class Recommender:
  """Recommends items for histories of raw item ids, with the best checkpoint of a run.

  Attributes:
    beams: items that the search finds for a history, the largest `k`, unless a call names another number.
    columns: the columns beside `history` that the model reads: `events`, `times`, both or none.
    step: training step of the checkpoint; 0 for an exported folder.
  """

  def __init__(
    self, ranker: Ranker, params: Any, step: int, origin: Mapping[str, Any] | None = None
  ):
    """Wraps a ranker and its parameters; see `from_workdir` for a run.

    Args:
      ranker: ranks the catalogue.
      params: parameters on the mesh.
      step: training step of the parameters.
      origin: JSON values that name the config and the data, so that files of another origin are not continued.
    """
    self.beams, self.columns, self.step = ranker.beams, ranker.columns, step
    self._ranker, self._params, self._origin = ranker, params, dict(origin or {})
    self._waves = Waves({ranker.beams: ranker}, ranker.beams, params, ranker.loaded)
    self._earlier: Waves | None = None

  def warm(
    self, rows: int, buckets: tuple[int, ...] | None = None, beams: int | None = None
  ) -> int:
    """Compiles the searches of all waves of up to `rows` histories; see `recjax.decode.warm.warm`.

    Args:
      rows, buckets: see there.
      beams: beams of the searches. None: those of the recommender.
    """
    return warm(self._waves.ranker(beams or self.beams), self._params, rows, buckets)

  def compile(self, rows: int, beams: int | None = None) -> None:
    """Compiles the one search of waves that are padded to `rows` histories (`size` of `answer`); see `warm`."""
    ranker = self._waves.ranker(beams or self.beams)
    ranker.compile(self._params, rows, ranker.longest)

  def keep_prompts(self, limit: int) -> PromptStore:
    """Keeps the keys and values of prompts in at most `limit` bytes; call it before the first request.

    Returns:
      The store; its `counts` are those of hits and misses.

    Raises:
      ValueError: prompts of this model or mesh cannot be kept, or the limit is too small for one.
    """
    return self._ranker.keep_prompts(limit)

  @property
  def catalogue(self) -> Catalogue:
    """The catalogue that is recommended from."""
    return self._waves.catalogue

  def loaded(self, catalogue: Catalogue) -> Waves:
    """Puts a catalogue on the devices, so that `swap` takes no time; see there."""
    return self._waves.with_catalogue(self._ranker.load(catalogue))

  def swap(self, catalogue: Catalogue | Waves) -> None:
    """Recommends from another catalogue from the next call on; a call that runs keeps its own. Compiles nothing.

    Args:
      catalogue: items with semantic IDs of the same token space, such as `Catalogue.load(FOLDER)` of a later day; or
        the value of `loaded` for them. The recommender must have been loaded with `room`.

    Raises:
      ValueError: it is of another token space, or does not fit the room.
    """
    new = catalogue if isinstance(catalogue, Waves) else self.loaded(catalogue)
    self._earlier, self._waves = self._waves, new

  def roll_back(self) -> None:
    """Recommends from the catalogue before the last `swap` again; a second call undoes the first.

    Raises:
      ValueError: there was no swap.
    """
    if self._earlier is None:
      raise ValueError('roll_back needs an earlier catalogue; there was no swap')
    self._earlier, self._waves = self._waves, self._earlier

  @classmethod
  def of_run(
    cls,
    config: Config,
    workdir: epath.Path,
    dataset: Dataset,
    mesh: jax.sharding.Mesh,
    beams: int | None = None,
    masks: epath.PathLike | None = None,
    room: float | None = None,
  ) -> 'Recommender':
    """Returns the recommender of a run's best checkpoint; see `best_ranker`."""
    data = evaluation_file.data_record(dataset, config.data.item_text)
    sections = config.to_dict() | {'eval': config.eval.identifying()}
    settings = digest({name: sections[name] for name in ('model', 'eval', 'mixture')})
    origin = {'settings': settings, 'interactions': data['interactions'], 'sids': data['sids']}
    return cls(*best_ranker(config, workdir, dataset, mesh, beams, room, masks), origin)

  @classmethod
  def from_workdir(
    cls,
    workdir: epath.PathLike,
    beams: int | None = None,
    prepared_dir: epath.PathLike | None = None,
    masks: epath.PathLike | None = None,
    room: float | None = None,
  ) -> 'Recommender':
    """Loads the best checkpoint of a run on the devices of this process, and compiles the search for one history.

    Args:
      workdir: the workdir, or a folder that --mode=export wrote for transformers.
      beams: items that the search finds for a history. None: `eval.beams` of the run.
      prepared_dir: folder of the prepared data. None: where the run found them.
      masks: folder of named sub-catalogues, with a file `NAME.txt` of item ids for each. None: none has a name.
      room: later catalogues may be so many times as large, and `swap` takes them. None: `swap` takes none.

    Raises:
      OSError, ValueError: the folder is no workdir, it has no undamaged checkpoint, or the data are missing or do
        not fit.
    """
    workdir = epath.Path(workdir).expanduser()
    check(beams is None or is_count(beams), 'beams must be a positive number', beams)
    if loading.is_export(workdir):
      must = 'an exported folder has its own items: leave prepared_dir and room out'
      check(prepared_dir is None and room is None, must, (prepared_dir, room))
      return cls._of_export(workdir, beams, masks)
    check(room is None or room >= 1, 'room must be at least 1', room)
    with _as_arguments():
      config = identity.required_config(workdir)
      if prepared_dir is not None:
        data = dataclasses.replace(config.data, prepared_dir=os.fspath(prepared_dir))
        config = dataclasses.replace(config, data=data)
      device.set_library_cache(workdir)
      config = checkpoint_name.resolved(config, workdir)
      dataset = Dataset.load(paths.prepared_data(config, workdir))
      config = dataclasses.replace(config, model=models.without_source(config.model, workdir))
      mesh = mesh_lib.make_mesh(mesh_lib.fitted(config.mesh, jax.device_count()))
      recommender = cls.of_run(config, workdir, dataset, mesh, beams, masks, room)
    recommender.recommend([])  # compiles
    return recommender

  @classmethod
  def _of_export(
    cls, folder: epath.Path, beams: int | None, masks: epath.PathLike | None
  ) -> 'Recommender':
    """Loads an exported folder, and compiles the search for one history."""
    data, prompt, model, settings = loading.read(folder)
    mesh = mesh_lib.make_mesh(mesh_lib.fitted(Mesh(), jax.device_count()))
    space = data.vocabulary.space
    params = pretrained.load(folder, state_lib.abstract_params(model, space, mesh), space)
    ranker = Ranker(prompt, model, settings, Hosts(), data, mesh, beams, masks=masks)
    recommender = cls(ranker, params, 0, {'prompt': digest(data.prompt)})
    recommender.recommend([])  # compiles
    return recommender

  @overload
  def recommend(
    self,
    histories: History,
    k: int = 10,
    within: Within | None = None,
    exclude: Collection[str] = (),
    beams: int | None = None,
    unknown: str = 'error',
  ) -> list[Recommendation]: ...

  @overload
  def recommend(
    self,
    histories: Sequence[History],
    k: int = 10,
    within: Within | None = None,
    exclude: Collection[str] = (),
    beams: int | None = None,
    unknown: str = 'error',
  ) -> list[list[Recommendation]]: ...

  @overload
  def recommend(
    self,
    histories: Iterator[History],
    k: int = 10,
    within: Within | None = None,
    exclude: Collection[str] = (),
    beams: int | None = None,
    unknown: str = 'error',
  ) -> Iterator[list[Recommendation]]: ...

  def recommend(self, histories, k=10, within=None, exclude=(), beams=None, unknown='error'):
    """Recommends items for one history, for several, or for a stream of them.

    Args:
      histories: item ids, oldest first, or a mapping with the list `history` and, for a model that reads them
        (`columns`), `times` and `events`; or a sequence or an iterator of such histories. Items of a history are not
        recommended (unless the run sets `eval.exclude_seen` to False). For an empty history the model ranks without
        any.
      k: items per history, at most the beams. Fewer are returned if the catalogue or the beams have no more.
      within, exclude, beams, unknown: see `Request`.

    Returns:
      The items, best first; for a sequence of histories a list of such lists in its order. For an iterator an iterator
      of such lists, which reads and keeps some thousands of histories at a time.

    Raises:
      ValueError: an item of a history is unknown, or an argument is out of range.
    """
    waves = self._waves
    shared = {
      'k': k, 'within': within, 'exclude': ids(exclude, 'exclude'), 'beams': beams, 'unknown': unknown
    }  # fmt: skip
    is_stream, histories = streamed(histories)
    if is_stream:
      waves.parsed(0, Request(history=(), **shared), 'the histories', {})  # checks them now
      answers = (
        waves.answers(
          [Request(history=history, **shared) for history in window],
          [f'history {n}' for n in range(first, first + len(window))],
          few_shapes=False,
        )
        for first, window in windows(histories, _WINDOW)
      )
      return (answer.recommendations for wave in answers for answer in wave)
    is_one, histories = listed(histories)
    requests = [Request(history=history, **shared) for history in histories]
    places = ['the history'] if is_one else [f'history {n}' for n in range(len(requests))]
    found = [answer.recommendations for answer in waves.answers(requests, places)]
    return found[0] if is_one else found

  @overload
  def score(
    self, histories: History, candidates: Collection[str], unknown: str = 'error'
  ) -> list[float]: ...

  @overload
  def score(
    self,
    histories: Sequence[History],
    candidates: Collection[str] | Iterable[Collection[str]],
    unknown: str = 'error',
  ) -> list[list[float]]: ...

  @overload
  def score(
    self,
    histories: Iterator[History],
    candidates: Collection[str] | Iterable[Collection[str]],
    unknown: str = 'error',
  ) -> Iterator[list[float]]: ...

  def score(self, histories, candidates, unknown='error'):
    """Returns the exact scores of given items, which an exhaustive search would give them.

    The score is that of `recommend`: the log-probability of the item's semantic ID; in a run with an item head or a
    memory of counts the weighted sum that orders its recommendations (`recjax.decode.blend`). Items of the history have
    scores too.

    Args:
      histories: as in `recommend`.
      candidates: item ids; or for several histories a list or an iterator with the ids for each of them.
      unknown: as in `recommend`, for items of histories. A candidate must be in the catalogue.

    Returns:
      Floats, aligned with the candidates; for a sequence of histories a list of such lists, for an iterator an iterator
      of them.

    Raises:
      ValueError: candidates or items of a history are unknown, or an argument does not fit.
    """
    check(unknown in ('error', 'skip'), "unknown must be 'error' or 'skip'", unknown)
    is_stream, histories = streamed(histories)
    if is_stream:
      waves = self._waves
      return (
        scores
        for first, pairs in windows(with_candidates(histories, candidates), _WINDOW)
        for scores in waves.scores(*zip(*pairs, strict=True), unknown, first)
      )
    is_one, histories = listed(histories)
    if is_one:
      candidates = [ids(candidates, 'candidates')]
      is_flat = all(map(is_id, candidates[0]))
      check(is_flat, 'candidates of one history must be one list of ids', candidates[0])
    pairs = list(with_candidates(iter(histories), candidates))
    first = None if is_one else 0
    found = self._waves.scores(*zip(*pairs, strict=True), unknown, first) if pairs else []
    return found[0] if is_one else found

  def answer(
    self,
    requests: Sequence[Request],
    popular: bool = False,
    raises: bool = True,
    size: int = 1,
  ) -> list[Answer]:
    """Answers a wave of requests; a wave of a size that occurred before compiles nothing.

    Args:
      requests: each with its own `k`, `within`, `exclude`, `candidates` and `beams`.
      popular: whether an empty history gets the most popular items, with a note. False: the model ranks without one.
      raises: False gives a request that is wrong an answer with `error`; the others are answered.
      size: a power of two, at most `eval.batch_size`: the search is padded to so many histories. Waves of at most so
        many have one shape, so an answer depends on no other of its wave, to the last bit.

    Raises:
      ValueError: a request is wrong, and `raises` is set.
    """
    places = [f'request {n}' for n in range(len(requests))]
    return self._waves.answers(requests, places, popular, raises, size=size)

  def recommend_file(
    self,
    histories: epath.PathLike,
    out: epath.PathLike,
    k: int = 10,
    within: Within | None = None,
    exclude: Collection[str] = (),
    beams: int | None = None,
    skip_unknown: bool = False,
    part_size: int = PART_SIZE,
  ) -> None:
    """Recommends items for every history of a file and writes them with `recommendations`, in the same order.

    One part of the file is in memory at a time. A killed call keeps its finished parts beside `out`; the same call
    continues after them.

    Args:
      histories: path of the file; see `recjax.data.history_files` for its format.
      out: file that is written atomically; its folder is created. Its name gives the format: see
        `recjax.workdir.ranked_file.writer`.
      k, within, exclude, beams: as in `recommend`.
      skip_unknown: leave out items of a history that are not in the catalogue.
      part_size: histories of a part.

    Raises:
      OSError: the file of histories does not exist.
      ValueError: one of them is wrong, and nothing was ranked; or another process writes `out`.
    """
    check(is_count(part_size), 'part_size must be a positive number', part_size)
    asked = Request(history=(), k=k, within=within, exclude=ids(exclude, 'exclude'), beams=beams)
    waves = self._waves
    asked = waves.parsed(0, asked, 'the histories', {})
    beams, file = beams or self.beams, HistoryFile(histories, self.columns)
    settings = {'k': k, 'beams': beams, 'skip_unknown': skip_unknown, 'part_size': part_size}
    settings['exclude'] = digest(sorted(asked.excluded.tolist()))
    settings['within'] = None if asked.mask is None else asked.mask.key.hex()
    parts = Parts(out, {'histories': file.digest(), **settings, **self._identity(waves.catalogue)})
    distributed.check_same('command', parts.identity)
    facts = parts.recorded() or file.check(waves.reader, skip_unknown)._asdict()
    if facts['unknown']:
      log.warning(
        'left out %d items of %d histories: they are not in the catalogue',
        *(facts['unknown'], facts['having_unknown']),
      )
    writer, total = ranked_file.writer(out, file, skip_unknown), facts['histories']
    with parts.opened(facts) as done:
      if done:
        log.info('continuing %s after %d of %d histories', out, min(done * part_size, total), total)
      rows = file.parts(waves.reader, part_size, skip_unknown, done * part_size)
      for number, part in enumerate(rows, done):
        of = f' {number + 1}/{-(-total // part_size)}' if total > part_size else ''
        items_UM, scores_UM = waves.rank(beams, part.rows, asked, f'recommend{of}')
        if distributed.is_host0():
          found = map(waves.recommendations, items_UM[:, :k], scores_UM[:, :k])
          parts.write(number, writer.encoded(part, list(found)))
      parts.join(-(-total // part_size), writer.join)
    log.info('%d histories -> %s', total, out)

  def _identity(self, catalogue: Catalogue) -> dict[str, Any]:
    """Returns JSON values that decide the recommendations for a history."""
    titles = [[item['id'], item.get('title')] for item in catalogue.items]
    numbers = [catalogue.dataset.sids.codes_IL.tolist(), catalogue.popularity_I.tolist()]
    return {
      **self._origin,
      'checkpoint': fingerprint(self._params),
      'catalogue': digest([titles, numbers]),
      'weights': self._ranker.weights._asdict(),
    }


# Text of a message of a command → the same for `load`.
_AS_ARGUMENTS = {
  'without --config, --workdir (with --mode=refresh: --from) must': 'workdir must',
  'Set --workdir to a run, or start one with --config, such as --config=recjax:table': 'Set workdir to a run',
  '--config.data.prepared_dir': 'prepared_dir',
  'Set --config.model.pretrained to the folder where it is now': 'Set model.pretrained in config.json of the workdir',
  ', or give a new --workdir': '',
  'Set --workdir': 'Set workdir',
}


@contextlib.contextmanager
def _as_arguments() -> Iterator[None]:
  """Names the arguments of `load` in the messages that commands have too."""
  try:
    yield
  except (ValueError, OSError) as error:
    text = str(error)
    for flag, argument in _AS_ARGUMENTS.items():
      text = text.replace(flag, argument)
    if text == str(error):
      raise
    raise type(error)(text) from error.__cause__
