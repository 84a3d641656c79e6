// Server-sent events with the package eventsource: events, confirmation, and a reconnect.
import { EventSource } from 'eventsource'

const { ORIGIN, DIRECT, TOKEN, KEY_OF } = process.env
const base = '/api/internal/v1'

async function call(method, path, body) {
  const headers = { authorization: `Bearer ${TOKEN}`, 'content-type': 'application/json' }
  const answer = await fetch(DIRECT + base + path, { method, headers, body: body && JSON.stringify(body) })
  if (!answer.ok) throw new Error(`${method} ${path}: ${answer.status} ${await answer.text()}`)
  return answer.json()
}

const gateway = await call('POST', '/gateways', { name: KEY_OF })
const { token: key } = await call('POST', `/gateways/${gateway.id}/tokens`, {})
const event = {
  type: 'gateway.config.updated', gatewayIds: [gateway.id],
  payload: { configType: 'cache', action: 'update' },
}
await call('POST', '/events', [event, event, event])

const url = `${ORIGIN}${base}/gateways/stream?instance=node&confirm=applied`
const source = new EventSource(url, {
  fetch: (input, init) => fetch(input, { ...init, headers: { ...init.headers, 'api-key': key } }),
})
const connection = new Promise((resolve) => {
  source.addEventListener('connection.ack', (message) => resolve(JSON.parse(message.data).connectionId))
})
const seen = []
await new Promise((resolve) => {
  source.addEventListener('message', (message) => {
    seen.push(JSON.parse(message.data).sequence)
    if (seen.length === 3) resolve()
  })
})
if (seen.join() !== '1,2,3') throw new Error(`seen ${seen}`)
const answer = await fetch(`${ORIGIN}${base}/gateways/connections/${await connection}/frames`, {
  method: 'POST', headers: { 'api-key': key }, body: JSON.stringify({ type: 'delivery.ack', applied: 3 }),
})
if (answer.status !== 204) throw new Error(`${answer.status} ${await answer.text()}`)
for (let confirmed = 0; confirmed !== 3; ) {
  ({ confirmed } = await call('GET', `/gateways/${gateway.id}`))
}
source.close()
process.exit(0)
