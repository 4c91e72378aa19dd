// Microsoft's Node client (@azure/keyvault-secrets 4.11.2, @azure/identity 4.13.1) against Entra ID and Key Vault, or the double of both.
//
// client.js all | read NAME | write NAME VALUE | delete NAME | recover NAME | purge NAME: as client.py.
// Environment: AZ_VAULT, AZ_AUTHORITY, AZ_CERT, AZ_TENANT, AZ_CLIENT, NODE_EXTRA_CA_CERTS (file), NODE_PATH (node_modules).
const assert = require('assert')
const { ClientCertificateCredential } = require('@azure/identity')
const { SecretClient } = require('@azure/keyvault-secrets')

const { AZ_VAULT: url, AZ_AUTHORITY: authorityHost, AZ_CERT: certificatePath, AZ_TENANT: tenant, AZ_CLIENT: application } = process.env
const client = id => {
  const credential = new ClientCertificateCredential(tenant, id, { certificatePath }, { authorityHost, disableInstanceDiscovery: true })
  return new SecretClient(url, credential, { disableChallengeResourceVerification: true, retryOptions: { maxRetries: 0 } })
}
const vault = client(application)

const collect = async pages => {
  const found = []
  for await (const one of pages) found.push(one)
  return found
}

// Fails unless the call is refused with this status and code.
const refused = async (status, code, promise) => {
  const error = await promise.then(() => assert.fail(`expected ${status}`), error => error)
  assert.equal(error.statusCode, status, error)
  const body = error.response?.bodyAsText ?? JSON.stringify(error.details ?? {})
  assert.ok(error.code === code || body.includes(code), `${code} is not in ${error.code} ${body}`)
}

const everyCall = async () => {
  const first = await vault.setSecret('node-1', 'v1', { tags: { owner: 'test' } })
  const second = await vault.setSecret('node-1', 'v2')
  assert.notEqual(first.properties.version, second.properties.version)
  assert.equal((await vault.getSecret('node-1')).value, 'v2')
  assert.equal((await vault.getSecret('node-1', { version: first.properties.version })).value, 'v1')
  assert.equal((await collect(vault.listPropertiesOfSecretVersions('node-1'))).length, 2)
  for (let number = 0; number < 30; number++) await vault.setSecret(`node-page-${number}`, 'x')
  const names = (await collect(vault.listPropertiesOfSecrets())).map(one => one.name)
  assert.equal(new Set(names).size, 31)
  const updated = await vault.updateSecretProperties('node-1', first.properties.version, { enabled: false })
  assert.equal(updated.enabled, false)
  await refused(403, 'SecretDisabled', vault.getSecret('node-1', { version: first.properties.version }))
  await refused(400, 'BadParameter', vault.setSecret('has.dot', 'x'))
  await refused(404, 'SecretNotFound', vault.getSecret('node-none'))
  const poller = await vault.beginDeleteSecret('node-1', { intervalInMs: 50 })
  const deleted = await poller.pollUntilDone()
  assert.ok(deleted.recoveryId.endsWith('/deletedsecrets/node-1'))
  await refused(404, 'SecretNotFound', vault.getSecret('node-1'))
  await refused(409, 'ObjectIsDeletedButRecoverable', vault.setSecret('node-1', 'v3'))
  await (await vault.beginRecoverDeletedSecret('node-1', { intervalInMs: 50 })).pollUntilDone()
  assert.equal((await vault.getSecret('node-1')).value, 'v2')
  for (const name of names) {
    await (await vault.beginDeleteSecret(name, { intervalInMs: 50 })).pollUntilDone()
    await vault.purgeDeletedSecret(name)
  }
  await refused(404, 'SecretNotFound', vault.getDeletedSecret('node-1'))
  const wrong = client('99999999-9999-9999-9999-999999999999')
  const error = await wrong.getSecret('node-1').then(() => assert.fail('a stranger got in'), error => error)
  assert.ok(String(error).includes('700016'), error)
}

const commands = {
  all: everyCall,
  read: async name => {
    try {
      console.log((await vault.getSecret(name)).value)
    } catch (error) {
      if (error.statusCode !== 404) throw error
      process.exit(3)
    }
  },
  write: async (name, value) => console.log((await vault.setSecret(name, value)).properties.version),
  delete: async name => (await vault.beginDeleteSecret(name, { intervalInMs: 50 })).pollUntilDone(),
  recover: async name => (await vault.beginRecoverDeletedSecret(name, { intervalInMs: 50 })).pollUntilDone(),
  purge: async name => vault.purgeDeletedSecret(name)
}
const [command, ...args] = process.argv.slice(2)
commands[command](...args).then(() => process.exit(0), error => {
  console.error(error)
  process.exit(1)
})
