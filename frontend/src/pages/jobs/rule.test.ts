import { expect, test } from 'vitest'
import { ruleOf } from './rule'

test('the rules that the server says are understood, others are left as they are', () => {
  expect(ruleOf('each minute')).toEqual({ every: 'minute' })
  expect(ruleOf('daily at 03:00 America/Argentina/Ushuaia')).toEqual({ every: 'day', time: '03:00', zone: 'America/Argentina/Ushuaia' })
  expect(ruleOf('each full moon')).toBeUndefined()
  expect(ruleOf('daily at noon UTC')).toBeUndefined()
})
