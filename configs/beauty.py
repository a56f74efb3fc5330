"""Amazon Beauty (2014, 5-core), leave-one-out.

Command:   python -m recjax.main --config=configs/beauty.py:cpu --config.data.raw_dir=FOLDER   (after `make encoder`)
           python -m recjax.main --config=configs/beauty.py:gpu …
Hardware:  2 cores, 24 GiB, no accelerator; one GPU with :gpu
Time and figures: results/README.md; README.md compares them with baselines and published figures
"""

from configs import common


def get_config(variant: str = 'gpu'):
  return common.amazon2014('beauty', 'Beauty', variant, encoder='minilm')
