"""Compares the files of this folder with SHA256SUMS. Needs Python alone."""

import hashlib
import json


def check(folder):
  """Raises a ValueError if a file of the folder is missing, damaged, or of another bundle."""
  must = 'must be the file that was exported; it is missing, damaged or of another bundle. Export it again'
  sums = dict(
    reversed(line.split('  ', 1))
    for line in (folder / 'SHA256SUMS').read_text(encoding='utf-8').splitlines()
    if '  ' in line
  )
  for name in ('bundle.json', *sums):
    try:
      with (folder / name).open('rb') as f:
        is_same = hashlib.file_digest(f, 'sha256').hexdigest() == sums.get(name)
    except OSError:
      is_same = False
    if not is_same:
      raise ValueError(f'{folder / name} {must}')
  listed = json.loads((folder / 'bundle.json').read_text(encoding='utf-8'))['files']
  if missing := set(listed) - sums.keys():
    raise ValueError(f'{folder / min(missing)} {must}')
