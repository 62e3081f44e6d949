//! Against a stand-in for the network only: what is counted here is how often we ask.
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest'

const user = { id: 1, username: 'anna', is_admin: false, created_at: '2026-11-22T00:00:00Z' }
const json = (status: number, body: unknown) => new Response(JSON.stringify(body), { status, headers: { 'Content-Type': 'application/json' } })
const problem = (status: number, code: string) => json(status, { code, detail: code })

let valid: string
let spent: number
let cookieGood: boolean

/** A server that accepts the newest access token only and gives the next one for the cookie. */
async function serve(request: Request): Promise<Response> {
  const { pathname } = new URL(request.url)
  if (pathname === '/api/auth/refresh') {
    spent += 1
    await new Promise((resolve) => { setTimeout(resolve, 5) })
    if (!cookieGood) return problem(401, 'refresh.invalid')
    valid = `token-${spent}`
    return json(200, { access_token: valid, token_type: 'bearer', expires_in: 900, user })
  }
  if (request.headers.get('Authorization') !== `Bearer ${valid}`) return problem(401, 'token.expired')
  return json(200, { sent: await request.text() })
}

async function fresh() {
  vi.resetModules()
  const session = await import('./session')
  const { client } = await import('./generated/client.gen')
  return { session, client }
}

beforeEach(() => {
  valid = 'none yet'
  spent = 0
  cookieGood = true
  localStorage.setItem('driftless.signed-in', '1')
  vi.stubGlobal('fetch', vi.fn(serve))
})
afterEach(() => { vi.unstubAllGlobals() })

describe('a session', () => {
  it('is taken up from the cookie', async () => {
    const { session } = await fresh()
    await session.resume()
    expect(session.currentSession()).toEqual({ state: 'in', user })
  })
  it('is not sought by a browser that never signed in', async () => {
    localStorage.clear()
    const { session } = await fresh()
    await session.resume()
    expect(session.currentSession().state).toBe('out')
    expect(spent).toBe(0)
  })
  it('spends one refresh however many requests meet a 401 at once, and repeats them with their bodies', async () => {
    const { session, client } = await fresh()
    await session.resume()
    valid = 'expired on the server'
    const answers = await Promise.all(Array.from({ length: 8 }, (_, n) => client.post({
      url: '/api/thing', body: { n }, security: [{ scheme: 'bearer', type: 'http' }], headers: { 'Content-Type': 'application/json' },
    })))
    expect(spent).toBe(2)
    expect(answers.map(({ data }) => data)).toEqual(Array.from({ length: 8 }, (_, n) => ({ sent: JSON.stringify({ n }) })))
  })
  it('ends when the server says so', async () => {
    const { session, client } = await fresh()
    await session.resume()
    valid = 'expired on the server'
    cookieGood = false
    const { error } = await client.get({ url: '/api/thing', security: [{ scheme: 'bearer', type: 'http' }] })
    expect(error).toMatchObject({ code: 'token.expired', status: 401 })
    expect(session.currentSession().state).toBe('out')
    expect(localStorage.getItem('driftless.signed-in')).toBeNull()
  })
  it('does not end when the server gives no answer', async () => {
    vi.useFakeTimers()
    const answering = vi.fn(serve)
    vi.stubGlobal('fetch', vi.fn(() => Promise.reject(new TypeError('network'))))
    const { session } = await fresh()
    const resumed = session.resume()
    await vi.advanceTimersByTimeAsync(10)
    expect(session.currentSession()).toEqual({ state: 'starting', waiting: true })
    vi.stubGlobal('fetch', answering)
    await vi.advanceTimersByTimeAsync(3_000)
    vi.useRealTimers()
    await resumed
    expect(session.currentSession().state).toBe('in')
  })
  it('ends with the sign-out of another tab', async () => {
    const { session } = await fresh()
    await session.resume()
    window.dispatchEvent(new StorageEvent('storage', { key: 'driftless.signed-in', newValue: null }))
    expect(session.currentSession().state).toBe('out')
  })
})
