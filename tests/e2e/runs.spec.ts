//! Runs in the page: one that waits for its device, one of a real folder, held deletions, a dry run, and the audit of it all.
import { mkdirSync, renameSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import type { Page } from '@playwright/test'
import { expect, expectAccessible, test, unique, type Api } from './app'

/** A folder that the server may sync, with so many files in it. */
function folder(name: string, files: number): string {
  const root = process.env['DRIFTLESS_E2E_ROOTS'] ?? ''
  const at = path.join(root, name)
  mkdirSync(at, { mode: 0o755 })
  for (let n = 0; n < files; n += 1) writeFileSync(path.join(at, `file-${String(n).padStart(4, '0')}.txt`), `contents ${n}\n`)
  return at
}

async function scheduledFolder(api: Api, word: string, files: number): Promise<{ id: string; at: string }> {
  const id = unique(word)
  const at = folder(id, files)
  await api.registerFolder(id, at)
  await api.createSchedule(id)
  return { id, at }
}

const scheduleRow = (page: Page, id: string) => page.getByRole('region', { name: 'Active schedules' }).getByRole('listitem').filter({ hasText: id })

/** Starts a run from the Sync page and opens its own. */
async function runNow(page: Page, id: string): Promise<void> {
  await page.goto('/sync')
  await scheduleRow(page, id).getByRole('button', { name: `Run now: ${id}` }).click()
  await page.getByRole('link', { name: 'Watch it' }).last().click()
  await expect(page.getByRole('heading', { level: 1, name: `Run of ${id}` })).toBeVisible()
}

const badge = (page: Page, state: string) => page.getByRole('main').getByText(state, { exact: true }).first()

/** A run of a computer that never calls, on its page. */
async function waitingRun(page: Page, api: Api, word: string): Promise<void> {
  const id = unique(word)
  await api.registerClient(id)
  await api.createSchedule(id)
  await runNow(page, id)
  await expect(badge(page, 'Waiting for device')).toBeVisible()
}

test('a run of a computer waits for it and can be cancelled', async ({ app, api }) => {
  await waitingRun(app, api, 'away')
  await expectAccessible(app)
  await app.getByRole('button', { name: 'Cancel run' }).click()
  await app.getByRole('dialog').getByRole('button', { name: 'Cancel run' }).click()
  await expect(badge(app, 'Cancelled')).toBeVisible()
  await expect(app.getByRole('button', { name: 'Cancel run' })).toHaveCount(0)
})

test('an answer from before a decision does not undo it on the page', async ({ app, api }) => {
  await waitingRun(app, api, 'stale')
  const isRun = /\/api\/sync\/runs\/[^/]+$/
  let [asked, ended, release] = [0, 0, () => {}]
  const decided = new Promise<void>((resolve) => { release = resolve })
  for (const end of ['requestfinished', 'requestfailed'] as const) app.on(end as 'requestfinished', (request) => { if (isRun.test(request.url())) ended += 1 })
  await app.route(isRun, async (route) => {
    const response = await route.fetch()
    asked += 1
    // Whoever asks after the first gets no answer that would hide what the first one did.
    if (asked > 1) return
    await decided
    await route.fulfill({ response })
  })
  await expect.poll(() => asked).toBe(1)
  ended = 0
  await app.getByRole('button', { name: 'Cancel run' }).click()
  await app.getByRole('dialog').getByRole('button', { name: 'Cancel run' }).click()
  await expect(badge(app, 'Cancelled')).toBeVisible()
  release()
  await expect.poll(() => ended).toBeGreaterThan(0)
  await app.evaluate(() => new Promise((resolve) => { requestAnimationFrame(() => requestAnimationFrame(resolve)) }))
  await expect(badge(app, 'Cancelled')).toBeVisible()
  await app.unrouteAll({ behavior: 'ignoreErrors' })
})

test('a folder registered in the page is synced by a run, which counts its files and names what it left out', async ({ app, api }) => {
  const id = unique('folder')
  const at = folder(id, 30)
  symlinkSync('/etc/hostname', path.join(at, 'a-link'))
  const register = app.getByRole('region', { name: 'Register a device' })
  await register.getByText('Folder on the server').click()
  await register.getByLabel('Device ID').fill(id)
  await register.getByRole('textbox', { name: 'Folder', exact: true }).fill(at)
  await register.getByRole('button', { name: 'More options' }).click()
  await register.getByLabel('Folder of your files').fill(`/${id}`)
  await register.getByRole('button', { name: 'Register device' }).click()
  await expect(app.getByText(`${id} is registered.`)).toBeVisible()
  await api.createSchedule(id)
  await runNow(app, id)
  await expect(badge(app, 'Succeeded')).toBeVisible()
  const did = app.getByRole('region', { name: 'What it did' })
  await expect(did.locator('div', { has: app.getByText('Uploaded', { exact: true }) }).last()).toContainText('30')
  const left = app.getByRole('region', { name: /^Left out/ })
  await expect(left).toContainText('Symbolic link')
  await expect(left).toContainText('a-link')
  await expectAccessible(app)
  await app.goto('/sync')
  await expect(scheduleRow(app, id)).toContainText('Succeeded')
})

test('trying a run changes nothing and shows what it would do', async ({ app, api }) => {
  const { id } = await scheduledFolder(api, 'dry', 3)
  await app.goto('/sync')
  await scheduleRow(app, id).getByRole('button', { name: `Actions for ${id}` }).click()
  await app.getByRole('menuitem', { name: 'Try without changing anything' }).click()
  await expect(app.getByText('Nothing was changed. This is what a run would do.')).toBeVisible()
  await expect(badge(app, 'Succeeded')).toBeVisible()
  await expect(app.getByRole('region', { name: /^Plan/ })).toContainText(`/${id}/file-0000.txt`)
  await expectAccessible(app)
  await runNow(app, id)
  await expect(app.getByRole('region', { name: 'What it did' }).locator('div', { has: app.getByText('Uploaded', { exact: true }) }).last()).toContainText('3')
})

test('a run that would delete too much is held with its list, and deletes exactly that once approved', async ({ app, api }) => {
  const { id, at } = await scheduledFolder(api, 'held', 40)
  await runNow(app, id)
  await expect(badge(app, 'Succeeded')).toBeVisible()
  for (let n = 0; n < 30; n += 1) rmSync(path.join(at, `file-${String(n).padStart(4, '0')}.txt`))
  await runNow(app, id)
  await expect(badge(app, 'Held')).toBeVisible()
  const held = app.getByRole('region', { name: '30 deletions wait for you' })
  await expect(held).toContainText(`/${id}/file-0000.txt`)
  await expectAccessible(app)
  await held.getByRole('button', { name: 'Delete these 30 files' }).click()
  await app.getByRole('dialog').getByRole('button', { name: 'Delete these 30 files' }).click()
  await expect(badge(app, 'Succeeded')).toBeVisible()
  const { entries } = await api.send('get', `/api/sync/state?path=${encodeURIComponent(`/${id}`)}`)
  expect(entries.filter(({ path: name }: { path: string }) => name.endsWith('.txt'))).toHaveLength(10)
})

test('held deletions can be refused, and nothing is deleted', async ({ app, api }) => {
  const { id, at } = await scheduledFolder(api, 'keep', 20)
  await runNow(app, id)
  await expect(badge(app, 'Succeeded')).toBeVisible()
  for (let n = 0; n < 15; n += 1) rmSync(path.join(at, `file-${String(n).padStart(4, '0')}.txt`))
  await runNow(app, id)
  await app.getByRole('button', { name: 'Keep all files' }).click()
  await app.getByRole('dialog').getByRole('button', { name: 'Keep all files' }).click()
  await expect(badge(app, 'Cancelled')).toBeVisible()
  const { entries } = await api.send('get', `/api/sync/state?path=${encodeURIComponent(`/${id}`)}`)
  expect(entries.filter(({ path: name }: { path: string }) => name.endsWith('.txt'))).toHaveLength(20)
})

test('a folder that is gone deletes nothing: its run waits, and goes on once the folder is back', async ({ app, api }) => {
  const { id, at } = await scheduledFolder(api, 'unplugged', 12)
  await runNow(app, id)
  await expect(badge(app, 'Succeeded')).toBeVisible()
  renameSync(at, `${at}-away`)
  await runNow(app, id)
  await expect(badge(app, 'Held')).toBeVisible()
  const held = app.getByRole('region', { name: 'The folder waits for you' })
  await expect(held).toContainText('The folder is not there.')
  await expectAccessible(app)
  renameSync(`${at}-away`, at)
  await held.getByRole('button', { name: 'Try again' }).click()
  await expect(badge(app, 'Succeeded')).toBeVisible()
  const { entries } = await api.send('get', `/api/sync/state?path=${encodeURIComponent(`/${id}`)}`)
  expect(entries.filter(({ path: name }: { path: string }) => name.endsWith('.txt'))).toHaveLength(12)
})

test('the list of runs is filtered by device and state, and the address keeps the filter', async ({ app, api }) => {
  const id = unique('filtered')
  await api.registerClient(id)
  await api.createSchedule(id)
  await runNow(app, id)
  await app.getByRole('link', { name: /^Runs/ }).click()
  const list = app.getByRole('list', { name: 'Runs' })
  await app.getByRole('combobox', { name: 'Device' }).click()
  await app.getByRole('option', { name: id }).click()
  await expect(list.getByRole('listitem')).toHaveCount(1)
  await app.getByRole('combobox', { name: 'State' }).click()
  await app.getByRole('option', { name: 'Failed' }).click()
  await expect(app.getByText('No run matches')).toBeVisible()
  await expectAccessible(app)
  await app.reload()
  await expect(app.getByText('No run matches')).toBeVisible()
})

test('a device is renamed, told what to ignore, and removed after a question', async ({ app, api }) => {
  const id = unique('gone')
  await api.registerClient(id)
  await app.getByRole('link', { name: /^Devices/ }).click()
  const row = app.getByRole('listitem').filter({ hasText: id })
  const choose = async (what: string, name: string) => {
    await row.getByRole('button', { name: `Actions for ${name}` }).click()
    await app.getByRole('menuitem', { name: what }).click()
  }
  await choose('Edit', id)
  await app.getByLabel('Name', { exact: true }).fill(`New ${id}`)
  await app.getByLabel('Ignore rules').fill('*.iso\n/cache/')
  await expectAccessible(app)
  await app.getByRole('button', { name: 'Save' }).click()
  await expect(row).toContainText(`New ${id}`)
  await choose('Edit', `New ${id}`)
  await expect(app.getByLabel('Ignore rules')).toHaveValue('*.iso\n/cache/')
  await app.getByRole('button', { name: 'Cancel' }).click()
  await choose('Remove', `New ${id}`)
  await app.getByRole('dialog').getByRole('button', { name: 'Remove' }).click()
  await expect(row).toHaveCount(0)
})

test('the audit log tells what was done, and finds one sort of action', async ({ app, api }) => {
  const id = unique('audited')
  await api.registerClient(id)
  await app.getByRole('link', { name: /^Activity/ }).click()
  await expect(app.getByRole('listitem').filter({ hasText: id })).toBeVisible()
  await app.getByText('Details').first().click()
  await expectAccessible(app)
  await app.getByLabel('Action').fill('no_such_action')
  await expect(app.getByText('Nothing matches')).toBeVisible()
})
