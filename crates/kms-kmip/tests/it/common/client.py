"""PyKMIP's own client: PORT PKI register|get|activate|destroy|rate VERSION ..."""

import socket
import ssl
import struct
import sys
import time

from kmip.core import enums
from kmip.core.attributes import Name
from kmip.core.factories.attributes import AttributeFactory
from kmip.pie import objects
from kmip.pie.client import ProxyKmipClient

port, pki, action, version, *args = sys.argv[1:]
files = {"cert": f"{pki}/client1.crt", "key": f"{pki}/client1.key", "ca": f"{pki}/ca.crt"}


def name(text):
    value = Name.create(text, enums.NameType.UNINTERPRETED_TEXT_STRING)
    return AttributeFactory().create_attribute(enums.AttributeType.NAME, value)


def rate(uid, count):
    """Gets a second over one connection, by frames that were made before."""
    context = ssl.create_default_context(cafile=files["ca"])
    context.load_cert_chain(files["cert"], files["key"])
    plain = socket.create_connection(("127.0.0.1", int(port)))
    plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    stream = context.wrap_socket(plain, server_hostname="localhost")

    def item(tag, kind, value):
        return struct.pack(">II", tag << 8 | kind, len(value)) + value + bytes(-len(value) % 8)

    head = item(0x420069, 1, item(0x42006A, 2, b"\0\0\0\1") + item(0x42006B, 2, b"\0\0\0\4"))
    header = item(0x420077, 1, head + item(0x42000D, 2, b"\0\0\0\1"))
    payload = item(0x420079, 1, item(0x420094, 7, uid.encode()))
    batch = item(0x42000F, 1, item(0x42005C, 5, b"\0\0\0\x0a") + item(0x420093, 8, bytes(16)) + payload)
    frame = item(0x420078, 1, header + batch)
    start = None
    for done in range(count + 1):
        stream.sendall(frame)
        answer = b""
        while len(answer) < 8 or len(answer) < 8 + int.from_bytes(answer[4:8], "big"):
            answer += stream.recv(65536)
        # The first answer on a new connection is slow.
        start = start or time.monotonic()
    return count / (time.monotonic() - start)


kmip_version = getattr(enums.KMIPVersion, "KMIP_" + version.replace(".", "_"))
with ProxyKmipClient(
    hostname="127.0.0.1", port=int(port), ssl_version="PROTOCOL_TLSv1_2", kmip_version=kmip_version, **files
) as client:
    if action == "register":
        kind, text, material = args
        material = bytes.fromhex(material)
        if kind == "symmetric-key":
            masks = [enums.CryptographicUsageMask.EXPORT]
            algorithm = enums.CryptographicAlgorithm.AES
            made = objects.SymmetricKey(algorithm, 1024, material, masks=masks, name=text)
        elif kind == "secret-data":
            made = objects.SecretData(material, enums.SecretDataType.PASSWORD, name=text)
        else:
            made = objects.OpaqueObject(material, enums.OpaqueDataType.NONE, name=text)
        print(client.register(made))
    elif action == "get":
        (uid,) = client.locate(attributes=[name(args[0])])
        found = client.get(uid)
        print(
            uid,
            found.object_type.name,
            found.cryptographic_algorithm.name,
            found.cryptographic_length,
            found.value.hex(),
        )
    elif action == "activate":
        client.activate(args[0])
    elif action == "destroy":
        client.destroy(args[0])
    elif action == "rate":
        (uid,) = client.locate(attributes=[name(args[0])])
        print(rate(uid, int(args[1])))
