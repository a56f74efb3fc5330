"""Amazon Beauty (2014, 5-core), leave-one-out.

Command:   python -m recjax.main --config=configs/beauty.py:cpu --config.data.raw_dir=FOLDER   (after `make encoder`)
Hardware:  2 cores, 24 GiB, no accelerator
Time:      29 min 42 s from raw files to report, other work beside it (2,000 steps, 20 epochs)
Figure:    all 22,363 test users: recall@10 0.0825 ± 0.0018, recall@5 0.0553, ndcg@10 0.0455
           (transition counting 0.0706, 0.0519, 0.0432; popularity 0.0137; results/beauty_cpu.json)
"""

from configs import common


def get_config(variant: str = ''):
  return common.experiment('amazon2014', 'beauty', variant, category='Beauty')
