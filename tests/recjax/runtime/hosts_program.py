"""Run by distributed_test.py in several processes; not a test itself."""

import sys
import threading
import time

from recjax.runtime import distributed, watchdog
from recjax.schema.run import Hosts

mode = sys.argv[1]
hosts = Hosts(start_timeout=3 if mode == 'late' else 60, barrier_timeout=60, heartbeat_timeout=60)
me = int(distributed.os.environ['RECJAX_PROCESS_ID'])
if mode == 'late' and me == 1:
  time.sleep(60)
distributed.initialize(hosts)

if mode == 'together':
  # Two threads in each process, each with its own topic, started in different orders.
  def exchange(topic):
    for n in range(20):
      assert distributed.exchange(topic, f'{topic} {n} of {me}') == [
        f'{topic} {n} of 0',
        f'{topic} {n} of 1',
      ]

  threads = [threading.Thread(target=exchange, args=[topic]) for topic in ('a', 'b')]
  for thread in threads if me else threads[::-1]:
    thread.start()
  for n in range(12):  # with two digits: the folder of exchange 1 is not that of 10, 11
    distributed.barrier('c' if n % 2 else 'cc')
  for thread in threads:
    thread.join()
  assert distributed.from_host0('value', {'me': me, 'x': 0.1}) == {'me': 0, 'x': 0.1}
  distributed.check_same('config', {'a': {'b': 1}})
  try:
    distributed.check_same('config', {'a': {'b': me, 'c': 'same'}})
  except ValueError as error:
    print(f'different: {error}')
elif mode == 'missing':
  if me == 0:
    try:
      distributed.exchange('data prepared', '', timeout_seconds=2)
    except TimeoutError as error:
      print(f'missing: {error}')
  else:
    with watchdog.expect('reading the data', 0):
      time.sleep(6)
elif mode == 'failing':
  if me == 1:
    watchdog.fail('ValueError: the data are bad', '\ndetails')
  distributed.barrier('never')
distributed.barrier('end')
watchdog.stop()
print(f'end of {me}')
