"""Stands for a command in the shell of `tests/docs_commands_test.py`.

Programs of recjax are run by the server, which has imported the libraries; other commands are only written down.
"""

import json
import os
import pathlib
import socket
import sys

name = pathlib.Path(sys.argv[0]).name
request = json.dumps([name, sys.argv[1:], os.getcwd(), dict(os.environ)])
if name in ('python', 'python3', 'recjax'):
  with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
    connection.connect(os.environ['DOCS_SERVER'])
    socket.send_fds(connection, [request.encode()], [0, 1, 2])
    status = connection.recv(16)
  sys.exit(int(status) if status else 1)
with open(os.environ['DOCS_LOG'], 'a') as log:
  log.write(request + '\n')
