// Webtorrent's tracker, over HTTP and by datagrams, on free ports of one address (and one of ::1, which it insists on).
//
//   node webtorrent_tracker.mjs MODULES ADDRESS PORTS
//
// MODULES is the folder with node_modules in it. When it answers, the two ports are written to the file PORTS.

import { renameSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'

const [modules, address, ports] = process.argv.slice(2)
const entry = join(modules, 'node_modules', 'bittorrent-tracker', 'index.js')
const { Server } = await import(pathToFileURL(entry))

const server = new Server({ http: true, udp: true, ws: false, stats: false })
server.on('error', error => { console.error(error); process.exit(1) })
server.on('warning', error => console.error(error))
server.listen(0, { http: address, udp: address, udp6: '::1' }, () => {
  writeFileSync(`${ports}.new`, `${server.http.address().port} ${server.udp.address().port}`)
  renameSync(`${ports}.new`, ports)
})
