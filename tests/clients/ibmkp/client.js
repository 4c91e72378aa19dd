// IBM's Node client (@ibm-cloud/ibm-key-protect 0.1.2) against IAM and Key Protect, or the double of both.
//
// client.js all | read NAME | write NAME PAYLOAD | delete NAME | restore ID NAME: as client.py.
// Environment: KP_IAM, KP_BASE, KP_INSTANCE, KP_API_KEY, NODE_EXTRA_CA_CERTS (file), NODE_PATH (node_modules).
const assert = require('assert')
const KeyProtect = require('@ibm-cloud/ibm-key-protect/ibm-key-protect-api/v2')
const { IamAuthenticator } = require('@ibm-cloud/ibm-key-protect/auth')

const { KP_IAM: iam, KP_BASE: serviceUrl, KP_INSTANCE: instance, KP_API_KEY: apiKey } = process.env
const KEY = 'application/vnd.ibm.kms.key+json'

const client = apikey => {
  const kp = new KeyProtect({ authenticator: new IamAuthenticator({ apikey, url: iam }), serviceUrl })
  return (name, params) => kp[name]({ bluemixInstance: instance, ...params })
}
const call = client(apiKey)
const first = response => response.result.resources[0]
const body = (name, payload, fields) => ({
  metadata: { collectionType: KEY, collectionTotal: 1 },
  resources: [{ name, aliases: [name], type: KEY, extractable: true, payload, ...fields }]
})

// Fails unless the call is refused with this status and these words in the body.
const refused = async (status, words, promise) => {
  const error = await promise.then(() => assert.fail(`expected ${status}`), error => error)
  assert.equal(error.status, status, error)
  const text = typeof error.body === 'string' ? error.body : JSON.stringify(error.body ?? error.result ?? '')
  assert.ok(text.includes(words), `${words} is not in ${text}`)
}

const everyCall = async () => {
  const payload = Buffer.alloc(128, 7).toString('base64')
  const key = first(await call('createKey', { body: body('node-1', payload), prefer: 'return=representation' }))
  const id = key.id
  assert.equal(key.payload, payload)
  await refused(409, 'KEY_ALIAS_NOT_UNIQUE_ERR', call('createKey', { body: body('node-1', payload) }))
  await refused(400, 'INVALID_FIELD_ERR', call('createKey', { body: body('node-2', payload, { aliases: ['has.dot'] }) }))
  assert.equal(first(await call('getKey', { id: 'node-1' })).payload, payload)
  assert.equal(first(await call('getKeyMetadata', { id })).payload, undefined)
  await refused(404, 'KEY_NOT_FOUND_ERR', call('getKey', { id: 'node-none' }))
  const listed = (await call('getKeys', { limit: 10, offset: 0, search: 'exact:name:node-1' })).result.resources
  assert.deepEqual(listed.map(one => one.id), [id])

  assert.equal(first(await call('createKeyAlias', { id, alias: 'node-second' })).keyId, id)
  await refused(409, 'KEY_ALIAS_NOT_UNIQUE_ERR', call('createKeyAlias', { id, alias: 'node-second' }))
  await call('deleteKeyAlias', { id, alias: 'node-second' })
  const gone = first(await call('deleteKey', { id, prefer: 'return=representation', force: true }))
  assert.equal(gone.state, 5)
  await refused(410, 'KEY_DELETED_ERR', call('deleteKey', { id, force: true }))
  await call('restoreKey', { id })
  assert.equal(first(await call('getKey', { id })).payload, payload)
  await call('deleteKey', { id, force: true })
  await refused(401, 'Unauthorized', call('getKey', { id, bluemixInstance: '44444444-3333-3333-3333-333333333333' }))
  const error = await client('wrong')('getKey', { id }).then(() => assert.fail('IAM took a wrong API key'), error => error)
  assert.equal(error.status, 400)
}

const commands = {
  all: everyCall,
  read: async id => {
    try {
      console.log(first(await call('getKey', { id })).payload)
    } catch (error) {
      console.log(error.status)
      process.exit(3)
    }
  },
  write: async (name, payload) => console.log(first(await call('createKey', { body: body(name, payload) })).id),
  delete: async name => {
    const { id } = first(await call('getKey', { id: name }))
    await call('deleteKey', { id, prefer: 'return=representation', force: true })
    console.log(id)
  },
  restore: async (id, alias) => {
    await call('restoreKey', { id })
    await call('createKeyAlias', { id, alias })
  }
}
const [command, ...args] = process.argv.slice(2)
// The client keeps its connections open, and node would wait for them.
commands[command](...args).then(() => process.exit(0), error => { console.error(error); process.exit(1) })
