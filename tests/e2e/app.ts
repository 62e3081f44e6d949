//! What the browser tests share: a page that is signed in, and the API for arranging what a test is not about.
import { randomBytes } from 'node:crypto'
import AxeBuilder from '@axe-core/playwright'
import { expect, test as base, type APIRequestContext, type Page } from '@playwright/test'
import { PASSWORD } from './server'

export { PASSWORD }

/** A device id that no other test uses, and that is no part of another's. */
export const unique = (word: string) => `${word}-${randomBytes(4).toString('hex')}`

/** A time of day that is hours away in UTC and in Berlin, so that no schedule runs by itself while a test looks, and that no clock skips. */
export const farTime = () => (new Date().getUTCHours() >= 2 && new Date().getUTCHours() < 14 ? '20:30' : '08:30')

/** Calls the API as the administrator. */
export class Api {
  private constructor(private readonly http: APIRequestContext, private readonly token: string) {}

  static async signIn(http: APIRequestContext): Promise<Api> {
    const answer = await http.post('/api/auth/login', { data: { username: 'admin', password: PASSWORD } })
    expect(answer.ok(), `sign-in: ${answer.status()} ${await answer.text()}`).toBe(true)
    return new Api(http, (await answer.json()).access_token)
  }

  async send(method: 'get' | 'post' | 'put' | 'delete', path: string, data?: unknown) {
    const answer = await this.http.fetch(path, { method, headers: { Authorization: `Bearer ${this.token}` }, ...(data === undefined ? {} : { data }) })
    expect(answer.ok(), `${method} ${path}: ${answer.status()} ${await answer.text()}`).toBe(true)
    const text = await answer.text()
    return text === '' ? undefined : JSON.parse(text)
  }

  registerClient(device_id: string, device_name = device_id) {
    return this.send('post', '/api/sync/register', { device_id, device_name })
  }

  registerFolder(device_id: string, path: string) {
    return this.send('post', '/api/sync/register', { device_id, kind: 'remote', remote: { type: 'folder', path }, base_path: `/${device_id}` })
  }

  createSchedule(device_id: string, more: object = {}) {
    return this.send('post', '/api/sync/schedule/create', { device_id, schedule_type: 'daily', time_of_day: farTime(), timezone: 'UTC', ...more })
  }
}

/** Signs in through the page, at whatever address is open. */
export async function signIn(page: Page, password = PASSWORD, name = 'admin'): Promise<void> {
  await page.getByLabel('User name').fill(name)
  await page.getByLabel('Password', { exact: true }).fill(password)
  await page.getByRole('button', { name: 'Sign in' }).click()
}

interface Fixtures { api: Api; app: Page }

export const test = base.extend<Fixtures>({
  api: async ({ playwright, baseURL }, use) => {
    const http = await playwright.request.newContext({ baseURL: baseURL ?? '', timeout: 120_000 })
    await use(await Api.signIn(http))
    await http.dispose()
  },
  /** A signed-in page that fails the test when the browser complains: a script error, or something the policy forbids. */
  app: async ({ page }, use) => {
    const complaints: string[] = []
    page.on('pageerror', (error) => complaints.push(error.message))
    page.on('console', (message) => { if (/content security policy/i.test(message.text())) complaints.push(message.text()) })
    await page.goto('/')
    await signIn(page)
    await expect(page.getByRole('navigation', { name: 'Main' })).toBeVisible()
    await use(page)
    expect(complaints).toEqual([])
  },
})

/** No fault that axe knows. */
export async function expectAccessible(page: Page): Promise<void> {
  const { violations } = await new AxeBuilder({ page }).analyze()
  expect(violations.map(({ id, nodes }) => `${id}: ${nodes.map((node) => node.html).join(' | ')}`)).toEqual([])
}

export { expect }
