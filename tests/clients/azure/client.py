#!/usr/bin/env python3
"""Microsoft's Python client (azure-keyvault-secrets 4.12.0, azure-identity 1.27.0) against Entra ID and Key Vault, or the double of both.

client.py all               every call that kms-azure makes, and the errors that it tells apart
client.py read NAME         prints the value; exit status 3 if there is none
client.py write NAME VALUE  stores a value, and prints its version
client.py delete NAME       deletes it, and waits until that is complete
client.py recover NAME      brings it back
client.py purge NAME        destroys it for good

Environment: AZ_VAULT, AZ_AUTHORITY (addresses), AZ_CA, AZ_CERT (files), AZ_TENANT, AZ_CLIENT.
"""
import os
import sys

from azure.core.exceptions import ClientAuthenticationError, HttpResponseError, ResourceExistsError, ResourceNotFoundError
from azure.identity import CertificateCredential
from azure.keyvault.secrets import SecretClient

VAULT, AUTHORITY, CA, CERT, TENANT, CLIENT = (os.environ[f"AZ_{name}"] for name in ("VAULT", "AUTHORITY", "CA", "CERT", "TENANT", "CLIENT"))


def client(application=CLIENT):
    credential = CertificateCredential(TENANT, application, certificate_path=CERT, authority=AUTHORITY, disable_instance_discovery=True, connection_verify=CA)
    return SecretClient(VAULT, credential, verify_challenge_resource=False, connection_verify=CA)


def refused(kind, status, inner, call):
    """Fails unless the call is refused with this class, status and code."""
    try:
        call()
    except kind as error:
        assert type(error) is kind, repr(error)
        assert error.status_code == status, error.status_code
        if inner:
            assert inner in (error.error.code, (error.error.innererror or {}).get("code")), vars(error.error)
        return
    raise AssertionError(f"expected {kind.__name__} {status}")


def every_call(vault):
    first = vault.set_secret("python-1", "v1", tags={"owner": "test"}, content_type="text/plain")
    second = vault.set_secret("python-1", "v2")
    assert first.properties.version != second.properties.version
    assert first.properties.tags == {"owner": "test"} and first.properties.content_type == "text/plain"
    assert vault.get_secret("python-1").value == "v2" and vault.get_secret("PYTHON-1", first.properties.version).value == "v1"
    versions = {p.version for p in vault.list_properties_of_secret_versions("python-1")}
    assert versions == {first.properties.version, second.properties.version}
    for number in range(30):
        vault.set_secret(f"python-page-{number}", "x")
    names = [p.name for p in vault.list_properties_of_secrets()]
    assert len(names) == len(set(names)) == 31, names
    updated = vault.update_secret_properties("python-1", first.properties.version, enabled=False, tags={"a": "b"})
    assert updated.enabled is False and updated.tags == {"a": "b"}
    refused(HttpResponseError, 403, "SecretDisabled", lambda: vault.get_secret("python-1", first.properties.version))
    refused(HttpResponseError, 400, "BadParameter", lambda: vault.set_secret("has.dot", "x"))
    refused(ResourceNotFoundError, 404, "SecretNotFound", lambda: vault.get_secret("python-none"))
    refused(ResourceNotFoundError, 404, "SecretNotFound", lambda: vault.begin_delete_secret("python-none"))
    deleted = vault.begin_delete_secret("python-1")
    assert deleted.result().recovery_id.endswith("/deletedsecrets/python-1")
    deleted.wait()
    refused(ResourceNotFoundError, 404, "SecretNotFound", lambda: vault.get_secret("python-1"))
    refused(ResourceExistsError, 409, "ObjectIsDeletedButRecoverable", lambda: vault.set_secret("python-1", "v3"))
    assert [p.name for p in vault.list_deleted_secrets()] == ["python-1"]
    vault.begin_recover_deleted_secret("python-1").wait()
    assert vault.get_secret("python-1").value == "v2"
    for name in names:
        vault.begin_delete_secret(name).wait()
        vault.purge_deleted_secret(name)
    refused(ResourceNotFoundError, 404, "SecretNotFound", lambda: vault.get_deleted_secret("python-1"))
    try:
        client("99999999-9999-9999-9999-999999999999").get_secret("python-1")
    except ClientAuthenticationError as error:
        assert "AADSTS700016" in str(error), error
    else:
        raise AssertionError("expected ClientAuthenticationError")


def main(command, *args):
    vault = client()
    match command, args:
        case "all", []:
            every_call(vault)
        case "read", [name]:
            try:
                print(vault.get_secret(name).value)
            except ResourceNotFoundError:
                sys.exit(3)
        case "write", [name, value]:
            print(vault.set_secret(name, value).properties.version)
        case "delete", [name]:
            vault.begin_delete_secret(name).wait()
        case "recover", [name]:
            vault.begin_recover_deleted_secret(name).wait()
        case "purge", [name]:
            vault.purge_deleted_secret(name)
        case _:
            sys.exit(__doc__)


main(*sys.argv[1:])
