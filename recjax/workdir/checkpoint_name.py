"""Resolves `model.pretrained` of the hub (hf:organisation/name) to a commit, the same for a run and its resumes."""

import dataclasses

from etils import epath

from recjax.config import Config
from recjax.models import pretrained
from recjax.runtime import distributed
from recjax.workdir import identity


def resolved(config: Config, workdir: epath.Path | None = None) -> Config:
  """Returns the config with the commit in the name of the checkpoint, which is then in this host's cache.

  A name without a revision means the commit that the workdir recorded or, in a new workdir, the newest one. Every
  process must call it.

  Args:
    config: `model.pretrained` may be a path, which stays as it is.
    workdir: folder of the run; None: there is none.

  Raises:
    ValueError, OSError: see `pretrained.fetch`.
  """
  name = config.model.pretrained
  if not pretrained.is_name(name):
    return config
  old = None if workdir is None else identity.config_of(workdir)
  known = (
    None if old is None or not pretrained.is_name(old.model.pretrained) else old.model.pretrained
  )
  answer = {}
  if distributed.is_host0():
    try:
      answer['name'] = pretrained.resolve(name, known)
    except (ValueError, OSError) as error:  # it must reach the other processes
      answer['error'] = type(error).__name__
      answer['message'] = str(error)
  answer = distributed.from_host0('commit of the checkpoint', answer)
  if 'error' in answer:
    kind = ValueError if answer['error'] == 'ValueError' else OSError
    raise kind(answer['message'])
  pretrained.fetch(answer['name'], name)
  model = dataclasses.replace(config.model, pretrained=answer['name'])
  return dataclasses.replace(config, model=model)
