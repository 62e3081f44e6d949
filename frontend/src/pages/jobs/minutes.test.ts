import { expect, it } from 'vitest'
import { lastHour } from './minutes'

const now = Date.parse('2026-11-22T12:34:56Z')
const counts = (minute: string, done: number, failed = 0) => ({ minute, queue: 'q', kind: 'k', done, failed, dead: failed, run_ms: 10 * (done + failed), wait_ms: 2 * (done + failed) })

it('has sixty minutes, the present one last, and adds up queues and kinds', () => {
  const hour = lastHour([counts('2026-11-22T12:34:00Z', 3), counts('2026-11-22T12:34:00Z', 2, 1), counts('2026-11-22T11:35:00Z', 7)], now)
  expect(hour.minutes).toHaveLength(60)
  expect(hour.minutes[59]).toEqual({ at: Date.parse('2026-11-22T12:34:00Z'), done: 5, failed: 1 })
  expect(hour.minutes[0]?.done).toBe(7)
  expect(hour).toMatchObject({ done: 12, failed: 1, dead: 1, run: 10, wait: 2, most: 7 })
})
it('leaves out what is older and takes what is ahead for now', () => {
  const hour = lastHour([counts('2026-11-22T11:34:00Z', 9), counts('2026-11-22T12:36:00Z', 4)], now)
  expect(hour.done).toBe(4)
  expect(hour.minutes[59]?.done).toBe(4)
})
it('has no averages when nothing ran', () => expect(lastHour([], now)).toMatchObject({ done: 0, most: 0, run: undefined, wait: undefined }))
