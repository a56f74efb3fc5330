"""One command: config and flags, checked before anything is prepared, restored or trained."""

import dataclasses

from etils import epath

from recjax import config as config_lib
from recjax.data.history_files import check_histories
from recjax.models import pretrained
from recjax.runtime import files
from recjax.schema.checks import check
from recjax.workdir import claim, identity, paths, serving, stages, trackers
from recjax.workdir.checkpoints import Checkpoints
from recjax.workdir.export import item_vectors
from recjax.workdir.serving import Serving

FORMATS = ('transformers', 'bundle', 'vectors')  # of an export
NEEDS = '--mode=refresh needs --from=WORKDIR of a run and --raw_dir=FOLDER of the new log'


@dataclasses.dataclass(frozen=True, kw_only=True)
class Request:
  """Config and flags of one command. See the flags of `recjax.workdir.command` for the fields.

  Attributes:
    config: value of --config.
    mode: value of --mode.
    workdir: folder of the run.
    histories: value of --histories.
    out: value of --out.
    format: value of --format.
    k: value of --k.
    skip_unknown: value of --skip_unknown.
    masks: value of --masks.
    within: value of --within.
    prune: value of --prune.
    source: value of --from.
    raw_dir: value of --raw_dir.
    budget: value of --budget.
    beams: value of --beams, of an export.
    serving: the flags of --mode=serve. None: another mode.
  """

  config: config_lib.Config
  mode: str
  workdir: epath.Path
  histories: str | None = None
  out: str | None = None
  format: str = 'transformers'
  k: int = 20
  skip_unknown: bool = False
  masks: str | None = None
  within: str | None = None
  prune: bool = False
  source: epath.Path | None = None
  raw_dir: str | None = None
  budget: float = 0.25
  beams: tuple[int, ...] = ()
  serving: Serving | None = None

  def check_refresh(self) -> None:
    """Checks the flags of a refresh, before the earlier run is read.

    Raises:
      ValueError: a flag is missing or names no run with checkpoints.
      OSError: a folder does not exist.
    """
    if self.mode != 'refresh':
      return
    if not (self.source and self.raw_dir):
      raise ValueError(NEEDS)
    if not 0 < self.budget <= 10:
      raise ValueError(f'--budget must be above 0 and at most 10; got {self.budget}. Set --budget')
    files.existing(self.source, '--from', 'folder')
    claim.check_path(self.source, '--from')
    if not (self.source / 'config.json').exists():
      raise ValueError(f'--from must be the workdir of a run; {self.source} holds no config.json')
    with Checkpoints(self.source, read_only=True) as checkpoints:
      if not checkpoints.steps:
        raise ValueError(
          f'--from must be the workdir of a run with a checkpoint; {self.source} has none. Train it first'
        )
    if epath.Path(self.workdir).resolve() == self.source.resolve():
      raise ValueError(f'--workdir must be another folder than --from; both are {self.source}')
    files.existing(self.raw_dir, '--raw_dir', 'folder')

  def check(self) -> None:
    """Checks flags and paths.

    Raises:
      ValueError: a flag is missing or out of range.
      OSError: a path does not exist or cannot be written.
    """
    config, mode = self.config, self.mode
    if mode == 'recommend' and not (self.histories and self.out):
      raise ValueError('--mode=recommend needs --histories=FILE and --out=FILE')
    if mode == 'export' and not self.out:
      raise ValueError('--mode=export needs --out=FOLDER, with --format=vectors --out=FILE.npz')
    if self.beams and self.format != 'bundle':
      raise ValueError(
        f'--beams with --mode=export needs --format=bundle; got --format={self.format}'
      )
    serving.check_beams(self.beams)
    if mode == 'recommend':
      must = (
        f'--k must be from 1 to the {config.eval.beams} items that the search finds, eval.beams'
      )
      check(1 <= self.k <= config.eval.beams, must, self.k, 'eval.beams')
      if self.within is not None and self.masks is None:
        raise ValueError('--within needs --masks=FOLDER of the sub-catalogues that it names')
    if self.serving is not None:
      self.serving.check()
    if mode in ('train', 'refresh'):
      trackers.check(config.log_to)
    self._check_outputs()
    self._check_inputs()

  def _check_outputs(self) -> None:
    config, mode = self.config, self.mode
    # A complete prepared folder is only read; `data_prep.prepare` checks an incomplete one.
    files.check_folder(config.prepared_folder, '--config.data.prepared_dir')
    if paths.absolute(config.prepared_folder) == paths.absolute(self.workdir):
      raise ValueError(  # the training would wait for its own lock
        f'--workdir must be another folder than --config.data.prepared_dir; both are {self.workdir}'
      )
    folders = {}
    if self.prune:
      folders['--config.data.prepared_dir'] = config.prepared_folder
    if mode in ('train', 'refresh', 'evaluate', 'report'):
      folders['--workdir'] = self.workdir
    if mode in ('train', 'refresh'):
      folders['--config.compilation_cache'] = config.compilation_cache
      folders['--config.profile.folder'] = config.profile.folder
    if mode == 'export':
      folders['the folder of --out'] = epath.Path(self.out).parent
    for setting, folder in folders.items():
      if folder:
        files.check_writable(folder, setting)
    if mode == 'recommend':
      files.check_file(self.out, '--out')
    if mode == 'export' and self.format == 'vectors':
      item_vectors.check_out(self.out)
    elif mode == 'export':
      pretrained.check_out(self.out)

  def _check_inputs(self) -> None:
    model, init_from = self.config.model, self.config.checkpoint.init_from
    if self.mode in ('train', 'refresh', 'evaluate', 'recommend', 'serve', 'export'):
      claim.check_path(self.workdir)
    if self.masks is not None:
      files.existing(self.masks, '--masks', 'folder')
    if self.mode == 'recommend':
      check_histories(self.histories)
    if model.pretrained is not None and self.mode in ('train', 'prepare', 'export'):
      files.existing(pretrained.path(model.pretrained), '--config.model.pretrained', 'folder')
    if self.mode == 'train':
      identity.check_is_run(self.workdir)
    if self.mode in ('evaluate', 'recommend', 'serve', 'export'):
      self._check_has('checkpoints', 'the checkpoints of a run')
    if self.mode == 'report':
      self._check_has('evaluation.json', 'evaluation.json, which --mode=evaluate writes')
    if self.mode != 'train' or self.has_begun():  # a resume reads none of the following
      return
    if model.sid_rows == 'sa_init' and model.sid_keywords is not None:
      files.existing(model.sid_keywords, '--config.model.sid_keywords', 'file')
    if init_from is not None:
      folder = files.existing(init_from, '--config.checkpoint.init_from', 'folder')
      claim.check_path(folder, '--config.checkpoint.init_from')
      check(
        (folder / 'checkpoints').exists(),
        'checkpoint.init_from must be the workdir of a run, with checkpoints',
        init_from,
        'checkpoint.init_from',
      )

  def _check_has(self, name: str, what: str) -> None:
    if not (self.workdir / name).exists():
      raise ValueError(f'{self.workdir} must hold {what}; it has none. Set --workdir')

  def has_begun(self) -> bool:
    """Returns whether a stage of the run in the workdir has saved checkpoints."""
    plan = stages.plan(self.config, self.workdir)
    return any((stage.folder / 'checkpoints').exists() for stage in plan)
