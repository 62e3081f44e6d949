//! Who is signed in. The access token lives in this module's memory and nowhere else; the refresh token is an HttpOnly
//! cookie that scripts can't read. Invariant: however many requests meet a 401 at once, one refresh answers them all, and
//! tabs take turns, because a refresh token used twice ends the session.
import { client } from './generated/client.gen'
import { login, logout, refresh, type Account, type LoginData, type Tokens } from './generated'
import { toFailure } from './failure'

export type Session = { state: 'starting'; waiting: boolean } | { state: 'out' } | { state: 'in'; user: Account }

/** `unknown`: no answer, so whether there still is a session can't be said. */
type Renewal = 'renewed' | 'ended' | 'unknown'

/** Tells this browser's tabs that somebody is signed in; holds no secret. */
const HINT = 'driftless.signed-in'
/** Milliseconds until an unanswered start is tried again. */
const AGAIN = 2_000

let session: Session = { state: 'starting', waiting: false }
let token: string | undefined
let renewing: Promise<Renewal> | undefined
const listeners = new Set<() => void>()

export const currentSession = (): Session => session

export function onSession(listener: () => void): () => void {
  listeners.add(listener)
  return () => listeners.delete(listener)
}

function change(next: Session): void {
  session = next
  for (const listener of listeners) listener()
}

function enter(pair: Tokens): void {
  token = pair.access_token
  localStorage.setItem(HINT, '1')
  change({ state: 'in', user: pair.user })
}

function leave(): void {
  token = undefined
  localStorage.removeItem(HINT)
  change({ state: 'out' })
}

/** Tabs share the cookie, so only one of them may spend it at a time. Browsers offer locks on https and localhost only. */
async function inTurn(act: () => Promise<Renewal>): Promise<Renewal> {
  return 'locks' in navigator ? await navigator.locks.request('driftless.refresh', act) : await act()
}

async function spendCookie(): Promise<Renewal> {
  const { data, response } = await refresh({ body: {} })
  if (data) enter(data)
  else if (response?.status !== 401) return 'unknown'
  else leave()
  return data ? 'renewed' : 'ended'
}

/** Sees to a token newer than `used`. */
function renew(used: string | undefined): Promise<Renewal> {
  if (token !== undefined && token !== used) return Promise.resolve('renewed')
  renewing ??= inTurn(spendCookie).finally(() => { renewing = undefined })
  return renewing
}

/** Their 401 is an answer, no matter of an old token. */
const isAuth = (url: string) => /\/api\/auth\/(login|refresh)$/.test(new URL(url, location.origin).pathname)

/** The client's fetch: sends, and after a 401 once more with a renewed token. */
async function send(request: Request): Promise<Response> {
  if (isAuth(request.url)) return fetch(request)
  const used = token
  const again = request.clone()
  const response = await fetch(request)
  if (response.status !== 401 || (await renew(used)) !== 'renewed') return response
  again.headers.set('Authorization', `Bearer ${token}`)
  return fetch(again)
}

/** Takes up the session that the browser's cookie holds, if any. Only the server's word ends it: without an answer it asks again. */
async function takeUp(): Promise<void> {
  while (session.state === 'starting' && (await renew(undefined)) === 'unknown') {
    change({ state: 'starting', waiting: true })
    await new Promise((resolve) => { setTimeout(resolve, AGAIN) })
  }
}

/** Wires the generated client to the session, takes it up, and follows sign-outs of other tabs. */
export async function resume(): Promise<void> {
  client.setConfig({ baseUrl: location.origin, auth: () => token, fetch: send as typeof fetch })
  client.interceptors.error.use((error, response) => toFailure(error, response))
  window.addEventListener('storage', (event) => {
    if (event.key === HINT && event.newValue === null && session.state === 'in') leave()
  })
  if (localStorage.getItem(HINT) === null) leave()
  else await takeUp()
}

/** Signs in, or throws the Failure. */
export async function signIn(username: string, password: string): Promise<void> {
  const body: LoginData['body'] = { username, password, cookie: true }
  const { data } = await login({ body, throwOnError: true })
  enter(data)
}

/** Ends the session on the server and in every tab. */
export async function signOut(): Promise<void> {
  await logout().catch(() => undefined)
  leave()
}
