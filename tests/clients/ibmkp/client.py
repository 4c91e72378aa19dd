#!/usr/bin/env python3
"""IBM's Python client (keyprotect 3.0.1) against IAM and Key Protect, or the double of both.

client.py all                 every call that kms-ibmkp makes, and the errors that it tells apart
client.py read NAME           prints the payload; exit status 3 and the HTTP status if there is none
client.py write NAME PAYLOAD  imports a key as Rook does
client.py delete NAME         deletes it as Rook does, and prints its id
client.py restore ID NAME     brings it back, with its alias

Environment: KP_IAM, KP_BASE (addresses), KP_CA (file), KP_INSTANCE, KP_API_KEY.
"""
import base64
import json
import os
import sys

from ibm_cloud_sdk_core import ApiException
from ibm_cloud_sdk_core.authenticators import IAMAuthenticator
from keyprotect import IbmKeyProtectApiV2

IAM, BASE, CA, INSTANCE, API_KEY = (os.environ[f"KP_{name}"] for name in ("IAM", "BASE", "CA", "INSTANCE", "API_KEY"))
KEY = "application/vnd.ibm.kms.key+json"


def client(api_key=API_KEY):
    authenticator = IAMAuthenticator(api_key, url=IAM)
    authenticator.token_manager.http_config = {"verify": CA}
    service = IbmKeyProtectApiV2(authenticator=authenticator)
    service.set_service_url(BASE)
    service.set_http_config({"verify": CA})
    return service


def first(response):
    return response.get_result()["resources"][0]


def body(name, payload, **fields):
    key = {"name": name, "aliases": [name], "type": KEY, "extractable": True, "payload": payload, **fields}
    return json.dumps({"metadata": {"collectionType": KEY, "collectionTotal": 1}, "resources": [key]})


def refused(status, code, call):
    """Fails unless the call is refused so. Without a code there are no reasons."""
    try:
        call()
    except ApiException as error:
        reasons = json.loads(error.http_response.text)["resources"][0].get("reasons", [{}])
        assert (error.status_code, reasons[0].get("code")) == (status, code), error.http_response.text
        return
    raise AssertionError(f"expected {status} {code}")


def every_call(kp):
    payload = base64.b64encode(bytes(range(128))).decode()
    key = first(kp.create_key(INSTANCE, body("python-1", payload), prefer="return=representation"))
    assert key["payload"] == payload and key["state"] == 1 and key["aliases"] == ["python-1"]
    refused(409, "KEY_ALIAS_NOT_UNIQUE_ERR", lambda: kp.create_key(INSTANCE, body("python-1", payload)))
    for alias in ["x", "has.dot", "keys", key["id"]]:
        refused(400, "INVALID_FIELD_ERR", lambda a=alias: kp.create_key(INSTANCE, body("python-2", payload, aliases=[a])))
    refused(400, "INVALID_FIELD_ERR", lambda: kp.create_key(INSTANCE, body("python-2", "no base64!")))
    refused(400, "BAD_BODY_ERR", lambda: kp.create_key(INSTANCE, body("python-2", payload, colour="red")))

    assert first(kp.get_key("python-1", INSTANCE))["payload"] == payload
    assert first(kp.get_key(key["id"], INSTANCE))["payload"] == payload
    assert "payload" not in first(kp.get_key_metadata("python-1", INSTANCE))
    refused(404, "KEY_NOT_FOUND_ERR", lambda: kp.get_key("python-none", INSTANCE))

    for search in ["exact:name:python-1", "exact:alias:python-1", "alias:PYTHON-1", "python-"]:
        found = kp.get_keys(INSTANCE, limit=10, offset=0, extractable=True, search=search).get_result()["resources"]
        assert [one["id"] for one in found] == [key["id"]], search
        assert "payload" not in found[0]
    assert kp.get_keys(INSTANCE, offset=1, search="exact:name:python-1").get_result().get("resources", []) == []
    refused(400, "INVALID_QUERY_PARAM_ERR", lambda: kp.get_keys(INSTANCE, limit=5001))
    assert int(kp.get_key_collection_metadata(INSTANCE).get_headers()["Key-Total"]) >= 1

    alias = first(kp.create_key_alias(key["id"], "python-second", INSTANCE))
    assert (alias["keyId"], alias["alias"]) == (key["id"], "python-second")
    refused(409, "KEY_ALIAS_NOT_UNIQUE_ERR", lambda: kp.create_key_alias(key["id"], "python-second", INSTANCE))
    assert first(kp.get_key("python-second", INSTANCE))["id"] == key["id"]
    kp.delete_key_alias(key["id"], "python-second", INSTANCE)
    refused(404, "KEY_NOT_FOUND_ERR", lambda: kp.get_key("python-second", INSTANCE))

    gone = first(kp.delete_key(key["id"], INSTANCE, prefer="return=representation", force=True))
    assert gone["state"] == 5 and gone["deleted"] and gone["deletionDate"]
    refused(410, "KEY_DELETED_ERR", lambda: kp.delete_key(key["id"], INSTANCE, force=True))
    refused(409, "REQ_TOO_EARLY_ERR", lambda: kp.purge_key(key["id"], INSTANCE))
    listed = kp.get_keys(INSTANCE, state=[5], search="exact:name:python-1").get_result()["resources"]
    assert key["id"] in [one["id"] for one in listed]
    kp.restore_key(key["id"], INSTANCE)
    assert first(kp.get_key(key["id"], INSTANCE))["payload"] == payload
    kp.delete_key(key["id"], INSTANCE, force=True)

    refused(401, None, lambda: kp.get_key("python-1", "44444444-3333-3333-3333-333333333333"))
    try:
        client("wrong").get_key("python-1", INSTANCE)
    except ApiException as error:
        assert error.status_code == 400 and json.loads(error.http_response.text)["errorCode"] == "BXNIM0415E"
    else:
        raise AssertionError("IAM took a wrong API key")


def main(command, *args):
    kp = client()
    if command == "all":
        every_call(kp)
    elif command == "read":
        try:
            print(first(kp.get_key(args[0], INSTANCE))["payload"])
        except ApiException as error:
            print(error.status_code)
            sys.exit(3)
    elif command == "write":
        print(first(kp.create_key(INSTANCE, body(*args)))["id"])
    elif command == "delete":
        found = first(kp.get_key(args[0], INSTANCE))["id"]
        kp.delete_key(found, INSTANCE, prefer="return=representation", force=True)
        print(found)
    elif command == "restore":
        kp.restore_key(args[0], INSTANCE)
        kp.create_key_alias(args[0], args[1], INSTANCE)
    else:
        sys.exit(__doc__)


main(*(sys.argv[1:] or ["help"]))
