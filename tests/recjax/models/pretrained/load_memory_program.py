"""Prints the host memory in bytes that loading a checkpoint took, and the limits.

Run by pretrained_test.py in a process of its own: `load_memory_program.py FOLDER`.
"""

import json
import math
import pathlib
import re
import sys

import jax
import numpy as np

from recjax.models import pretrained
from recjax.models.pretrained.tensors import Tensors
from recjax.sids.token_space import TokenSpace


def peak():
  status = pathlib.Path('/proc/self/status').read_text()  # getrusage would count the parent's too
  return int(re.search(r'VmHWM:\s+(\d+) kB', status)[1]) * 1024


def main():
  folder = sys.argv[1]
  found = pretrained.read_config(folder)
  space = TokenSpace(found.vocab_rows, (256, 256))
  shapes = pretrained.abstract(found, space)[1]
  jax.block_until_ready(jax.device_put(np.zeros(8, np.float32)))
  before = peak()
  params = jax.block_until_ready(pretrained.load(folder, shapes, space, found.vocab_rows))
  taken = peak() - before
  tensors = [4 * math.prod(info.shape) for info in Tensors(folder).infos.values()]
  local = sum(x.nbytes for x in jax.tree.leaves(params))
  print(json.dumps({'taken': taken, 'local': local, 'largest': max(tensors)}))


if __name__ == '__main__':
  main()
