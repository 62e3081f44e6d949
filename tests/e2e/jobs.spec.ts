//! The queue in the page: real dead jobs with their errors, what can be done to them, and who may see it at all.
import { execFileSync } from 'node:child_process'
import { readFileSync } from 'node:fs'
import path from 'node:path'
import type { Page } from '@playwright/test'
import postgres from 'postgres'
import { expect, expectAccessible, PASSWORD, signIn, test as base, unique } from './app'
import { BINARY, settings } from './server'

const DATA = () => process.env['DRIFTLESS_E2E_DATA'] ?? ''

/** The server's own database: what no API makes is put there by hand. */
const test = base.extend<{ sql: postgres.Sql }>({
  sql: async ({}, use) => {
    const socket = readFileSync(path.join(DATA(), 'postgres/data/postmaster.pid'), 'utf8').split('\n')[4] ?? ''
    const sql = postgres({ path: path.join(socket, '.s.PGSQL.5432'), user: 'driftless', database: 'postgres', max: 1 })
    await use(sql)
    await sql.end()
  },
})

const enqueue = async (sql: postgres.Sql, queue: string, kind: string, payload: string): Promise<string> => {
  const [row] = await sql`insert into queue.jobs (queue, kind, payload) values (${queue}, ${kind}, ${payload}::text::jsonb) returning id`
  return String(row?.['id'])
}

const block = (page: Page, name: string) => page.getByRole('region', { name, exact: true })
const job = (page: Page, id: string) => block(page, 'Jobs').getByRole('listitem').filter({ hasText: new RegExp(`#${id}(?!\\d)`) })
const list = (page: Page, name: RegExp) => page.getByRole('radiogroup', { name: 'Which jobs' }).getByText(name)

test('a job that can not be read is dead with its error; it can be retried, dies again, and can be discarded', async ({ app, api, sql }) => {
  const id = await enqueue(sql, 'system', 'cleanup', '"not what this kind carries"')
  await app.goto('/jobs')
  await list(app, /^Dead/).click()
  await expect(job(app, id)).toContainText('the payload does not fit this kind of job')
  await expect(job(app, id)).toContainText('cleanup')
  await job(app, id).getByText('Details').click()
  await expect(job(app, id)).toContainText('not what this kind carries')
  await expectAccessible(app)
  const died = await job(app, id).locator('time').getAttribute('datetime') ?? ''
  await job(app, id).getByRole('button', { name: `Retry job ${id}` }).click()
  await expect(app.getByText(`Job ${id} is queued again.`)).toBeVisible()
  // Its row of before may stand for a moment more, and goes before that of the second death comes.
  await expect(job(app, id).locator('time')).not.toHaveAttribute('datetime', died)
  await job(app, id).getByRole('button', { name: `Discard job ${id}` }).click()
  await expectAccessible(app)
  await app.getByRole('dialog').getByRole('button', { name: `Discard job ${id}` }).click()
  await expect(job(app, id)).toHaveCount(0)
  // Numbers of users and jobs overlap: both parts name what an entry is about.
  const { entries }: { entries: Record<'action' | 'resource_type' | 'resource_id', string>[] } = await api.send('get', '/api/audit?limit=100')
  expect(entries.filter((entry) => entry.resource_type === 'job' && entry.resource_id === id).map(({ action }) => action)).toEqual(['job_discarded', 'job_retried'])
})

test('a queue is paused, its jobs wait and can be cancelled, and it is resumed', async ({ app, sql }) => {
  const queue = unique('queue')
  const id = await enqueue(sql, queue, 'nothing', '{"n": 1}')
  await app.goto('/jobs')
  const row = block(app, 'Queues').getByRole('listitem').filter({ hasText: queue })
  await row.getByRole('button', { name: `Pause ${queue}` }).click()
  await expect(row.getByText('Paused')).toBeVisible()
  await list(app, /^Waiting/).click()
  await expect(job(app, id)).toContainText(queue)
  await job(app, id).getByRole('button', { name: `Cancel job ${id}` }).click()
  await app.getByRole('dialog').getByRole('button', { name: `Cancel job ${id}` }).click()
  await expect(app.getByText(`Job ${id} is cancelled.`)).toBeVisible()
  await expect(job(app, id)).toHaveCount(0)
  await row.getByRole('button', { name: `Resume ${queue}` }).click()
  await expect(row).toHaveCount(0)
  await list(app, /^Finished/).click()
  await expect(job(app, id)).toContainText('Cancelled')
})

test('a periodic job is started by hand and told by the finished ones, and the worker shows its lease', async ({ app, sql }) => {
  // As the first start registers it; nor shall it be due by itself while we look.
  await sql`update queue.crons set last_run = null, last_tick = queue.now() + interval '1 hour' where name = 'cleanup'`
  await app.goto('/jobs')
  const crons = block(app, 'Periodic jobs')
  const cleanup = crons.getByRole('listitem').filter({ hasText: 'cleanup' })
  await expect(crons.getByRole('listitem').filter({ hasText: 'rescue_runs' })).toContainText('Next')
  await expect(cleanup).toContainText('daily at 03:00 UTC')
  await expect(cleanup).toContainText('Never')
  await crons.getByRole('button', { name: 'Run now: Daily cleanup' }).click()
  await expect(app.getByText('Daily cleanup is queued.')).toBeVisible()
  await expect(cleanup).not.toContainText('Never')
  await list(app, /^Finished/).click()
  await expect(block(app, 'Jobs').getByRole('listitem').filter({ hasText: 'cleanup' }).filter({ hasText: 'Done' }).first()).toBeVisible()
  await expect(block(app, 'Workers').getByRole('listitem')).toContainText(['Alive'])
  await expect(app.getByRole('img', { name: /Jobs in each minute of the last hour: [1-9]/ })).toBeVisible()
})

test('in German every choice and rule is German', async ({ app }) => {
  await app.evaluate(() => localStorage.setItem('driftless.language', 'de'))
  await app.goto('/jobs')
  await expect(app.getByRole('radiogroup', { name: 'Welche Jobs' }).locator('label')).toHaveText([/^Laufend/, /^Wartend/, /^Gescheitert/, /^Beendet/])
  await expect(block(app, 'Regelmäßige Jobs').getByRole('listitem')).toContainText(['täglich um 03:00 UTC', 'jede Minute'])
  await expectAccessible(app)
})

test('a running job shows how far it is', async ({ app, sql }) => {
  const queue = unique('busy')
  const id = await enqueue(sql, queue, 'copy', '{}')
  // As a worker's claim and its handler's progress leave it.
  await sql`update queue.jobs set attempt = 1, lease_token = (select token from queue.workers limit 1), progress = '{"done": 3, "total": 10, "message": "photos"}' where id = ${id}`
  await app.goto('/jobs')
  await expect(job(app, id)).toContainText('3 of 10 · photos')
  await expect(job(app, id).getByRole('progressbar')).toHaveAttribute('aria-valuenow', '30')
  await expectAccessible(app)
  await sql`delete from queue.jobs where id = ${id}`
  await expect(job(app, id)).toHaveCount(0)
})

test('when the server can not tell, the page says so and looks again by itself', async ({ app }) => {
  let broken = true
  await app.route('**/api/jobs/queues', (route) => (broken ? route.fulfill({ status: 500, contentType: 'application/json', body: '{"code":"internal","detail":"x","request_id":"r"}' }) : route.continue()))
  await app.goto('/jobs')
  await expect(block(app, 'Queues').getByRole('alert')).toContainText('Something went wrong on the server.')
  await expect(block(app, 'Queues').getByRole('button', { name: 'Try again' })).toBeVisible()
  await expectAccessible(app)
  broken = false
  await expect(block(app, 'Queues').getByRole('listitem').filter({ hasText: 'system' })).toBeVisible()
})

test('whoever is no administrator has no link to the jobs, and the address refuses in plain words', async ({ page }) => {
  const name = unique('anna')
  execFileSync(BINARY, ['user', 'add', name], { env: settings({ DRIFTLESS_DATA_DIR: DATA() }), input: `${PASSWORD}\n`, stdio: ['pipe', 'ignore', 'inherit'] })
  const asked: string[] = []
  page.on('request', (request) => { if (request.url().includes('/api/jobs')) asked.push(request.url()) })
  await page.goto('/jobs')
  await signIn(page, PASSWORD, name)
  await expect(page.getByRole('heading', { level: 1, name: 'Only administrators see the jobs' })).toBeVisible()
  const navigation = page.getByRole('navigation', { name: 'Main' })
  await expect(navigation.getByRole('link', { name: /^Runs/ })).toBeVisible()
  await expect(navigation.getByRole('link', { name: /^Jobs/ })).toHaveCount(0)
  await expectAccessible(page)
  expect(asked).toEqual([])
})
