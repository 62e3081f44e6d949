//! Signing in and out, and what becomes of a session.
import { expect, expectAccessible, PASSWORD, signIn, test } from './app'

test('a wrong password is refused in plain words, the right one opens the page that was asked for', async ({ page }) => {
  await page.goto('/activity')
  await expectAccessible(page)
  await signIn(page, 'not the password')
  await expect(page.getByRole('alert')).toContainText('User name or password is wrong.')
  await expectAccessible(page)
  await signIn(page)
  await expect(page.getByRole('heading', { level: 1, name: 'Activity' })).toBeVisible()
  await expect(page).toHaveTitle('Activity · Driftless')
})

test('a session outlives a reload, and no token can be read by scripts', async ({ app, context }) => {
  await app.reload()
  await expect(app.getByRole('heading', { level: 1, name: 'File Sync' })).toBeVisible()
  expect(await app.evaluate(() => document.cookie)).toBe('')
  expect(await app.evaluate(() => JSON.stringify({ ...localStorage, ...sessionStorage }))).not.toMatch(/eyJ|token/)
  const cookie = (await context.cookies()).find(({ name }) => name === 'driftless_refresh')
  expect(cookie).toMatchObject({ httpOnly: true, sameSite: 'Strict', path: '/api/auth' })
})

test('requests that meet an expired token all succeed after a single refresh', async ({ app }) => {
  let refreshes = 0
  let renewed: string | undefined
  await app.route('**/api/auth/refresh', async (route) => {
    const response = await route.fetch()
    refreshes += 1
    renewed = (await response.json()).access_token
    await route.fulfill({ response })
  })
  // Until then the server gets a token that it refuses, as it refuses an expired one.
  await app.route(/\/api\/sync\//, (route, request) => {
    const headers = request.headers()
    const passes = renewed !== undefined && headers['authorization'] === `Bearer ${renewed}`
    return route.continue({ headers: passes ? headers : { ...headers, authorization: 'Bearer expired' } })
  })
  await app.getByRole('link', { name: /^Devices/ }).click()
  await app.getByRole('link', { name: /^Sync/ }).click()
  await expect(app.getByRole('heading', { name: 'Active schedules' })).toBeVisible()
  await expect(app.getByRole('button', { name: 'Save limits' })).toBeVisible()
  await expect.poll(() => refreshes).toBe(1)
  await expect(app.getByRole('alert')).toHaveCount(0)
  await app.unrouteAll({ behavior: 'ignoreErrors' })
})

test('signing out ends the session in every tab and on the server', async ({ app, context }) => {
  const other = await context.newPage()
  await other.goto('/runs')
  await expect(other.getByRole('heading', { level: 1, name: 'Runs' })).toBeVisible()
  await app.getByRole('button', { name: 'Sign out' }).click()
  await expect(app.getByRole('button', { name: 'Sign in' })).toBeVisible()
  await expect(other.getByRole('button', { name: 'Sign in' })).toBeVisible()
  await app.reload()
  await expect(app.getByRole('button', { name: 'Sign in' })).toBeVisible()
  const refused = await app.request.post('/api/auth/refresh', { data: {} })
  expect(refused.status()).toBe(401)
})

test('an unknown address says so and leads back', async ({ app }) => {
  await app.goto('/no/such/page')
  await expect(app.getByRole('heading', { level: 1 })).toHaveText('There is no such page')
  await expectAccessible(app)
  await app.getByRole('link', { name: 'Go to Sync' }).click()
  await expect(app.getByRole('heading', { level: 1, name: 'File Sync' })).toBeVisible()
})

test('a new password must be long enough and the old one right', async ({ app }) => {
  await app.goto('/settings')
  const fill = async (current: string, next: string) => {
    await app.getByLabel('Current password').fill(current)
    await app.getByLabel('New password', { exact: true }).fill(next)
    await app.getByLabel('New password once more').fill(next)
    await app.getByRole('button', { name: 'Change password' }).click()
  }
  await fill('not the password', 'another long password')
  await expect(app.getByText('This is not your current password.')).toBeVisible()
  await expectAccessible(app)
  await app.getByLabel('New password once more').fill('something else entirely')
  await expect(app.getByText('The two new passwords differ.')).toBeVisible()
  expect(PASSWORD.length).toBeGreaterThanOrEqual(12)
})
