"""Runs PyKMIP's server with TLS 1.2 and 1.3 and AEAD suites; takes the arguments of pykmip-server.

As it is shipped it speaks TLS 1.2 alone.
"""

import ssl
import sys

from kmip.services import auth
from kmip.services.server.server import main

SUITE = auth.TLS12AuthenticationSuite
original = SUITE.__init__


def newest(self, cipher_suites=None):
    original(self, cipher_suites)
    self._protocol = ssl.PROTOCOL_TLS_SERVER


SUITE.__init__ = newest
SUITE.ciphers = property(lambda self: "ECDHE+AESGCM:ECDHE+CHACHA20")

sys.exit(main())
