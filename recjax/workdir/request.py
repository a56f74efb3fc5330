"""One command: config and flags, checked before anything is prepared, restored or trained."""

import dataclasses

from etils import epath

from recjax import config as config_lib
from recjax.data.histories import check_histories
from recjax.models import pretrained
from recjax.runtime import files
from recjax.schema.checks import check
from recjax.workdir import claim, identity, stages


@dataclasses.dataclass(frozen=True, kw_only=True)
class Request:
  """Config and flags of one command. See the flags of `recjax.main` for the fields.

  Attributes:
    config: value of --config.
    mode: value of --mode.
    workdir: folder of the run.
    histories: value of --histories.
    out: value of --out.
    k: value of --k.
    skip_unknown: value of --skip_unknown.
    prune: value of --prune.
  """

  config: config_lib.Config
  mode: str
  workdir: epath.Path
  histories: str | None = None
  out: str | None = None
  k: int = 20
  skip_unknown: bool = False
  prune: bool = False

  def check(self) -> None:
    """Checks flags and paths.

    Raises:
      ValueError: a flag is missing or does not fit the mode.
      OSError: a path does not exist or cannot be written.
    """
    config, mode = self.config, self.mode
    if mode == 'recommend' and not (self.histories and self.out):
      raise ValueError('--mode=recommend needs --histories=FILE and --out=FILE')
    if mode == 'export' and not (self.out and config.model.pretrained):
      raise ValueError(
        '--mode=export needs --out=FOLDER and --config.model.pretrained, the folder that training started '
        'from: its config.json and tokenizer files are copied'
      )
    if self.prune and mode != 'prepare':
      raise ValueError(f'--prune needs --mode=prepare; got --mode={mode}')
    if mode == 'recommend':
      must = (
        f'--k must be from 1 to the {config.eval.beams} items that the search finds, eval.beams'
      )
      check(1 <= self.k <= config.eval.beams, must, self.k, 'eval.beams')
    self._check_outputs()
    self._check_inputs()

  def _check_outputs(self) -> None:
    config, mode = self.config, self.mode
    # A complete prepared folder is only read; `data_prep.prepare` checks an incomplete one.
    files.check_folder(config.prepared_folder, '--config.data.prepared_dir')
    folders = {}
    if self.prune:
      folders['--config.data.prepared_dir'] = config.prepared_folder
    if mode in ('train', 'evaluate', 'report'):
      folders['--workdir'] = self.workdir
    if mode == 'train':
      folders['--config.compilation_cache'] = config.compilation_cache
      folders['--config.profile.folder'] = config.profile.folder
    if mode in ('recommend', 'export'):
      folders['the folder of --out'] = epath.Path(self.out).parent
    for setting, folder in folders.items():
      if folder:
        files.check_writable(folder, setting)
    if mode == 'recommend' and epath.Path(self.out).is_dir():
      raise IsADirectoryError(f'--out must be a file; {self.out} is a folder')
    if mode == 'export':
      pretrained.check_out(self.out)

  def _check_inputs(self) -> None:
    model, init_from = self.config.model, self.config.checkpoint.init_from
    if self.mode in ('train', 'evaluate', 'recommend', 'export'):
      claim.check_path(self.workdir)
    if self.mode == 'recommend':
      check_histories(self.histories)
    if model.pretrained is not None and self.mode in ('train', 'prepare', 'export'):
      files.existing(model.pretrained, '--config.model.pretrained', 'folder')
    if self.mode == 'train':
      identity.check_is_run(self.workdir)
    if self.mode in ('evaluate', 'recommend', 'export'):
      self._check_has('checkpoints', 'the checkpoints of a run')
    if self.mode == 'report':
      self._check_has('evaluation.json', 'evaluation.json, which --mode=evaluate writes')
    if self.mode != 'train' or self._has_begun():  # a resume reads none of the following
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

  def _has_begun(self) -> bool:
    plan = stages.plan(self.config, self.workdir)
    return any((folder / 'checkpoints').exists() for _, _, folder in plan)
