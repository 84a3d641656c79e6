// Server-sent events with the package eventsource.
import { createRequire } from 'node:module'
import { setTimeout as pause } from 'node:timers/promises'

const { ORIGIN, KEY, NODE_MODULES } = process.env
const [CONFIRM_FIRST, TOTAL] = [process.env.CONFIRM_FIRST, process.env.TOTAL].map(Number)
const { EventSource } = createRequire(`${NODE_MODULES}/`)('eventsource')
const base = `${ORIGIN}/api/internal/v1/gateways`

let [last, repeats, confirmed, connections] = [0, 0, 0, 0]
let position
let connection

// Confirms an event; on the first connection only some.
async function confirm(sequence) {
  if (connections === 1 && sequence > CONFIRM_FIRST) return
  const answer = await fetch(`${base}/connections/${connection}/frames`, {
    method: 'POST', headers: { 'api-key': KEY }, body: JSON.stringify({ type: 'delivery.ack', applied: sequence }),
  }).catch(() => undefined)
  // With any other status the stream has ended, or will.
  if (answer?.status === 204) confirmed = Math.max(confirmed, sequence)
}

function receive(message) {
  const { sequence, payload } = JSON.parse(message.data)
  if (payload.number !== sequence) throw new Error(message.data)
  position = message.lastEventId
  if (sequence <= last) repeats += 1
  else if (sequence === last + 1) last = sequence
  else throw new Error(`${sequence} follows ${last}`)
  // What this stream has not sent yet can't be confirmed on it.
  return confirm(sequence)
}

function open() {
  const source = new EventSource(`${base}/stream?instance=node&confirm=applied`, {
    fetch: (input, init) => {
      const headers = { ...init.headers, 'api-key': KEY }
      if (position !== undefined) headers['Last-Event-ID'] = position
      return fetch(input, { ...init, headers })
    },
  })
  source.addEventListener('connection.ack', (message) => {
    connections += 1
    connection = JSON.parse(message.data).connectionId
  })
  source.addEventListener('message', receive)
  return source
}

let source = open()
while (confirmed < TOTAL) {
  await pause(50)
  // It connects again by itself after an error of the network, but not after a status such as 502.
  if (source.readyState === EventSource.CLOSED) source = open()
}
source.close()
if (connections < 2) throw new Error('was never disconnected')
console.log(`${last} events, ${repeats} repeats`)
