//! The server under test: the built binary with its private Postgres in a folder of its own, gone afterwards.
import { spawn, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { mkdirSync, mkdtempSync, rmSync } from 'node:fs'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import path from 'node:path'

export const PASSWORD = 'correct horse battery staple'
export const BINARY = process.env['DRIFTLESS_BIN'] ?? path.resolve(import.meta.dirname, '../../target/debug/driftless')
/** Milliseconds for the first start, which makes a database. */
const START = 120_000

async function freePort(): Promise<number> {
  const probe = createServer().listen(0, '127.0.0.1')
  await once(probe, 'listening')
  const address = probe.address()
  probe.close()
  if (address === null || typeof address === 'string') throw new Error('no port is free')
  return address.port
}

async function ready(url: string, server: ChildProcess, log: () => string): Promise<void> {
  const deadline = Date.now() + START
  while (Date.now() < deadline) {
    if (server.exitCode !== null) throw new Error(`the server ended with ${server.exitCode}:\n${log()}`)
    const answer = await fetch(`${url}/readyz`).catch(() => undefined)
    if (answer?.ok) return
    await new Promise((resolve) => { setTimeout(resolve, 100) })
  }
  throw new Error(`the server was not ready in time:\n${log()}`)
}

async function stop(server: ChildProcess): Promise<void> {
  if (server.exitCode !== null) return
  const ended = once(server, 'exit')
  server.kill('SIGTERM')
  const late = setTimeout(() => server.kill('SIGKILL'), 30_000)
  await ended
  clearTimeout(late)
}

export default async function start(): Promise<() => Promise<void>> {
  const folder = mkdtempSync(path.join(tmpdir(), 'driftless-e2e-'))
  const roots = path.join(folder, 'roots')
  mkdirSync(roots)
  const port = await freePort()
  const url = `http://127.0.0.1:${port}`
  const { DRIFTLESS_DATABASE_URL: _, ...inherited } = process.env
  const server = spawn(BINARY, ['serve'], {
    env: { ...inherited, DRIFTLESS_LISTEN: `127.0.0.1:${port}`, DRIFTLESS_DATA_DIR: path.join(folder, 'data'), DRIFTLESS_ADMIN_PASSWORD: PASSWORD, DRIFTLESS_REMOTE_ROOTS: roots },
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  let output = ''
  const keep = (part: Buffer) => { output = (output + part.toString()).slice(-20_000) }
  server.stdout.on('data', keep)
  server.stderr.on('data', keep)
  const close = async () => {
    await stop(server)
    rmSync(folder, { recursive: true, force: true })
  }
  try {
    await ready(url, server, () => output)
  } catch (error) {
    await close()
    throw error
  }
  process.env['DRIFTLESS_E2E_URL'] = url
  process.env['DRIFTLESS_E2E_ROOTS'] = roots
  process.env['DRIFTLESS_E2E_DATA'] = path.join(folder, 'data')
  return close
}
