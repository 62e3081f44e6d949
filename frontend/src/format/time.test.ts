import { expect, it } from 'vitest'
import { duration, local, moment, relative, span, weekdays, zones } from './time'

const now = new Date('2026-11-22T12:00:00Z')
const later = (seconds: number) => new Date(now.getTime() + seconds * 1000)

it.each([[0, 'now'], [5, 'in 5 seconds'], [-120, '2 minutes ago'], [3 * 3600, 'in 3 hours'], [86_400, 'tomorrow'], [-3 * 86_400, '3 days ago']])('says how far %d seconds are', (seconds, text) => {
  expect(relative(later(seconds), now, 'en')).toBe(text)
})
it('names the zone of a moment', () => {
  expect(moment(now, 'en', 'Europe/Berlin')).toContain('13:00')
  expect(moment(now, 'en', 'UTC')).toContain('UTC')
})
it('prints a local time as it stands, whatever the browser zone', () => expect(local('2027-03-14T03:00', 'en')).toContain('Sun, Mar 14, 2027, 03:00'))
it('counts weekdays from Monday', () => {
  expect(weekdays('en')[0]).toBe('Monday')
  expect(weekdays('de')[6]).toBe('Sonntag')
})
it.each([[0, '0:00'], [67_000, '1:07'], [7_389_000, '2:03:09']])('prints a length of %d ms', (length, text) => expect(duration(length)).toBe(text))
it('offers UTC first and real zones', () => {
  expect(zones()[0]).toBe('UTC')
  expect(zones()).toContain('Europe/Berlin')
})
it.each([[0, '0 ms'], [12.4, '12 ms'], [999, '999 ms'], [4_230, '4.2 sec'], [95_000, '1.6 min'], [7_200_000, '2 hr'], [1_000_000_000, '12 days']])('says in short how long %d ms are', (length, text) => expect(span(length, 'en')).toBe(text))
