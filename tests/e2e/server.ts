//! The server under test: the built binary with its private Postgres in a folder of its own, gone afterwards.
import { spawn, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { mkdirSync, mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import path from 'node:path'

export const PASSWORD = 'correct horse battery staple'
export const BINARY = process.env['DRIFTLESS_BIN'] ?? path.resolve(import.meta.dirname, '../../target/debug/driftless')
/** Milliseconds for the first start, which makes a database. */
const START = 300_000

/** Our environment with these settings of the server instead of whatever ones it has. */
export const settings = (own: Record<string, string>): NodeJS.ProcessEnv => (
  { ...Object.fromEntries(Object.entries(process.env).filter(([name]) => !name.startsWith('DRIFTLESS_'))), ...own }
)

const hasEnded = ({ exitCode, signalCode, pid }: ChildProcess) => exitCode !== null || signalCode !== null || pid === undefined

/** Where the server says it is. */
async function ready(server: ChildProcess, said: () => string, log: () => string): Promise<string> {
  const deadline = Date.now() + START
  while (Date.now() < deadline) {
    if (hasEnded(server)) throw new Error(`the server ended with ${server.exitCode ?? server.signalCode}:\n${log()}`)
    const url = /^Driftless is at (\S+)\n/m.exec(said())?.[1]
    const answer = url === undefined ? undefined : await fetch(`${url}/readyz`).catch(() => undefined)
    if (url !== undefined && answer?.ok) return url
    await new Promise((resolve) => { setTimeout(resolve, 100) })
  }
  throw new Error(`the server was not ready in time:\n${log()}`)
}

async function stop(server: ChildProcess): Promise<void> {
  if (hasEnded(server)) return
  const ended = once(server, 'exit')
  server.kill('SIGTERM')
  const late = setTimeout(() => server.kill('SIGKILL'), 60_000)
  await ended
  clearTimeout(late)
}

export default async function start(): Promise<() => Promise<void>> {
  const folder = mkdtempSync(path.join(tmpdir(), 'driftless-e2e-'))
  const roots = path.join(folder, 'roots')
  mkdirSync(roots)
  const data = path.join(folder, 'data')
  const server = spawn(BINARY, ['serve'], {
    // The system chooses the port, so that nobody takes it in between.
    env: settings({ DRIFTLESS_LISTEN: '127.0.0.1:0', DRIFTLESS_DATA_DIR: data, DRIFTLESS_ADMIN_PASSWORD: PASSWORD, DRIFTLESS_REMOTE_ROOTS: roots }),
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  let [said, log] = ['', '']
  server.stdout.on('data', (part: Buffer) => { said += part.toString() })
  server.stderr.on('data', (part: Buffer) => { log = (log + part.toString()).slice(-20_000) })
  server.on('error', (error) => { log += String(error) })
  const close = async () => {
    await stop(server)
    rmSync(folder, { recursive: true, force: true, maxRetries: 20 })
  }
  try {
    process.env['DRIFTLESS_E2E_URL'] = await ready(server, () => said, () => log)
  } catch (error) {
    await close()
    throw error
  }
  process.env['DRIFTLESS_E2E_ROOTS'] = roots
  process.env['DRIFTLESS_E2E_DATA'] = data
  return close
}
