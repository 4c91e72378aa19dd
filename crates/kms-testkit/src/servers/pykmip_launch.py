"""Runs PyKMIP's server with TLS 1.2 and 1.3 and AEAD suites; takes the arguments of pykmip-server.

As it is shipped it speaks TLS 1.2 alone. With PACE in the environment, the clock of its engine goes so many times as fast.
"""

import os
import ssl
import sys
import time

from kmip.services import auth
from kmip.services.server import engine
from kmip.services.server.server import main

PACE = int(os.environ.get("PACE", "1"))
START = time.time()


class Clock:
    """The module `time` with another clock."""

    def __getattr__(self, name):
        return getattr(time, name)

    def time(self):
        return START + PACE * (time.time() - START)


engine.time = Clock()

SUITE = auth.TLS12AuthenticationSuite
original = SUITE.__init__


def newest(self, cipher_suites=None):
    original(self, cipher_suites)
    self._protocol = ssl.PROTOCOL_TLS_SERVER


SUITE.__init__ = newest
SUITE.ciphers = property(lambda self: "ECDHE+AESGCM:ECDHE+CHACHA20")

sys.exit(main())
