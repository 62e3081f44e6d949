//! Language, theme, narrow screens, accessibility in both themes, and how much is loaded at first.
import type { Response } from '@playwright/test'
import { expect, expectAccessible, PASSWORD, signIn, test, unique } from './app'

const PAGES = ['/sync', '/runs', '/devices', '/activity', '/jobs', '/settings']

test('the language can be chosen and stays chosen', async ({ app }) => {
  await app.goto('/settings')
  await app.getByText('Deutsch', { exact: true }).click()
  await expect(app.getByRole('heading', { level: 1 })).toHaveText('Einstellungen')
  await expect(app.locator('html')).toHaveAttribute('lang', 'de')
  await app.goto('/sync')
  await expect(app.getByRole('heading', { level: 1 })).toHaveText('Dateien abgleichen')
  await expect(app.getByRole('heading', { level: 2 })).toHaveText(['Gerät anmelden', 'Zeitplan anlegen', 'Bandbreite begrenzen', 'Aktive Zeitpläne'])
  await expectAccessible(app)
})

test('the theme can be chosen, stays chosen, and every page is accessible in the dark', async ({ app, api }) => {
  const id = unique('dark')
  await api.registerClient(id)
  await api.createSchedule(id)
  await app.goto('/settings')
  await app.getByText('Dark', { exact: true }).click()
  for (const page of PAGES) {
    await app.goto(page)
    await expect(app.getByRole('heading', { level: 1 })).toBeVisible()
    await expect(app.getByRole('status', { name: 'Loading…' })).toHaveCount(0)
    await expect(app.locator('html')).toHaveAttribute('data-mantine-color-scheme', 'dark')
    await expectAccessible(app)
  }
})

test.describe('on a phone', () => {
  test.use({ viewport: { width: 360, height: 740 } })
  test.beforeEach(async ({ page }) => {
    await page.goto('/')
    await signIn(page)
    await expect(page.getByRole('button', { name: 'Menu', exact: true })).toBeVisible()
  })

  test('no page is wider than the screen, and each is accessible', async ({ page, api }) => {
    const id = unique(`phone-${'long-'.repeat(12)}name`)
    await api.registerClient(id)
    await api.createSchedule(id)
    for (const address of PAGES) {
      await page.goto(address)
      await expect(page.getByRole('heading', { level: 1 })).toBeVisible()
      await expect(page.getByRole('status', { name: 'Loading…' })).toHaveCount(0)
      expect(await page.evaluate(() => document.documentElement.scrollWidth), address).toBeLessThanOrEqual(360)
      await expectAccessible(page)
    }
  })

  test('the menu leads to every page', async ({ page }) => {
    await page.getByRole('button', { name: 'Menu', exact: true }).click()
    const menu = page.getByRole('dialog')
    await expect(menu).toBeVisible()
    await expectAccessible(page)
    await menu.getByRole('link', { name: /^Runs/ }).click()
    await expect(page.getByRole('heading', { level: 1, name: 'Runs' })).toBeVisible()
    await expect(menu).toBeHidden()
  })
})

test('the first load is at most 250 kB of gzipped script', async ({ page }) => {
  const scripts: Response[] = []
  page.on('response', (response) => { if (response.request().resourceType() === 'script') scripts.push(response) })
  await page.addInitScript(() => localStorage.setItem('driftless.signed-in', '1'))
  const answer = await page.context().request.post('/api/auth/login', { data: { username: 'admin', password: PASSWORD, cookie: true } })
  expect(answer.ok(), await answer.text()).toBe(true)
  await page.goto('/sync')
  await expect(page.getByRole('button', { name: 'Save limits' })).toBeVisible()
  const sizes = await Promise.all(scripts.map(async (script) => {
    expect(script.headers()['content-encoding']).toBe('gzip')
    return (await script.request().sizes()).responseBodySize
  }))
  expect(sizes.length).toBeGreaterThan(0)
  expect(sizes.reduce((sum, size) => sum + size, 0)).toBeLessThanOrEqual(250_000)
})
