"""Amazon Toys and Games (2014, 5-core), leave-one-out.

Command:   python -m recjax.main --config=configs/toys.py:cpu --config.data.raw_dir=FOLDER   (after `make encoder`)
           python -m recjax.main --config=configs/toys.py:gpu …
Hardware:  2 cores, 24 GiB, no accelerator; one GPU with :gpu
Time and figures: none; the raw files were not available
"""

from configs import common


def get_config(variant: str = 'gpu'):
  return common.amazon2014('toys', 'Toys_and_Games', variant, encoder='auto')
