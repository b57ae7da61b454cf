// Two peers that announce by webtorrent's own tracker client: they come, are told of each other, complete and leave.
//
//   node webtorrent_announce.mjs MODULES URL INFO_HASH
//
// MODULES is the folder with node_modules in it. After each step a line of JSON: the step, the counts of the answer, the
// counts of a scrape after it, and the peers that were told.

import { join } from 'node:path'
import { pathToFileURL } from 'node:url'

const [modules, announce, infoHash] = process.argv.slice(2)
const entry = join(modules, 'node_modules', 'bittorrent-tracker', 'index.js')
const { default: Client } = await import(pathToFileURL(entry))

function peer (letter, port, left) {
  const peerId = Buffer.from(`-WW0000-${letter.repeat(12)}`).toString('hex')
  const getAnnounceOpts = () => ({ uploaded: 0, downloaded: 0, left })
  const client = new Client({ infoHash, peerId, announce: [announce], port, getAnnounceOpts })
  const fail = error => { console.error(error); process.exit(1) }
  client.on('error', fail)
  client.on('warning', fail)
  return client
}

function scrape (client) {
  return new Promise(resolve => {
    client.once('scrape', resolve)
    client.scrape()
  })
}

async function step (name, client, act) {
  const told = []
  const onPeer = addr => told.push(addr)
  client.on('peer', onPeer)
  const answer = await new Promise(resolve => {
    client.once('update', resolve)
    act()
  })
  // Peers are told one by one behind the counts, in the same turn.
  await new Promise(resolve => setImmediate(resolve))
  client.removeListener('peer', onPeer)
  const after = await scrape(client)
  console.log(JSON.stringify({
    step: name,
    answer: [answer.complete, answer.incomplete],
    scrape: [after.complete, after.incomplete, after.downloaded],
    told
  }))
}

const seeder = peer('a', 7001, 0)
const leecher = peer('b', 7002, 100)
await step('seeder comes', seeder, () => seeder.start())
await step('leecher comes', leecher, () => leecher.start())
await step('seeder asks', seeder, () => seeder.update())
await step('leecher completes', leecher, () => leecher.complete({ left: 0 }))
await step('leecher leaves', leecher, () => leecher.stop({ left: 0 }))
await step('seeder leaves', seeder, () => seeder.stop())
seeder.destroy()
leecher.destroy()
process.exit(0)
