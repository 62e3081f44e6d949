//! Instants and dates in words. The user's zone is the browser's; every absolute time names its zone somewhere near.

export const userZone: string = Intl.DateTimeFormat().resolvedOptions().timeZone

/** All zones that this browser knows, UTC first. */
export function zones(): string[] {
  const known = Intl.supportedValuesOf('timeZone')
  return ['UTC', ...known.filter((zone) => zone !== 'UTC')]
}

const SPANS: ReadonlyArray<readonly [Intl.RelativeTimeFormatUnit, number]> = [
  ['day', 86_400], ['hour', 3_600], ['minute', 60], ['second', 1],
]

/** "in 3 hours", "5 minutes ago"; the largest unit that fits, rounded. */
export function relative(at: Date, now: Date, language: string): string {
  const seconds = Math.round((at.getTime() - now.getTime()) / 1000)
  const words = new Intl.RelativeTimeFormat(language, { numeric: 'auto' })
  for (const [unit, size] of SPANS) {
    if (Math.abs(seconds) >= size) return words.format(Math.round(seconds / size), unit)
  }
  return words.format(0, 'second')
}

/** "Nov 22, 2026, 14:05 CET" in the user's zone. */
export function moment(at: Date, language: string, zone: string = userZone): string {
  return new Intl.DateTimeFormat(language, {
    year: 'numeric', month: 'short', day: 'numeric', hour: '2-digit', minute: '2-digit', hourCycle: 'h23', timeZone: zone, timeZoneName: 'short',
  }).format(at)
}

/** "Sun, Mar 14, 2027, 03:00" of a local time without zone, such as the server's "2027-03-14T03:00". */
export function local(text: string, language: string): string {
  return new Intl.DateTimeFormat(language, {
    weekday: 'short', year: 'numeric', month: 'short', day: 'numeric', hour: '2-digit', minute: '2-digit', hourCycle: 'h23', timeZone: 'UTC',
  }).format(new Date(`${text.slice(0, 16)}Z`))
}

/** Monday first, as the server counts: 0 = Monday. */
export function weekdays(language: string, style: 'long' | 'short' = 'long'): string[] {
  const words = new Intl.DateTimeFormat(language, { weekday: style, timeZone: 'UTC' })
  return Array.from({ length: 7 }, (_, day) => words.format(new Date(Date.UTC(2024, 0, 1 + day))))
}

/** "1:07" or "2:03:09" of a length in milliseconds. */
export function duration(milliseconds: number): string {
  const seconds = Math.max(0, Math.round(milliseconds / 1000))
  const two = (value: number) => String(value).padStart(2, '0')
  const [h, m, s] = [Math.floor(seconds / 3600), Math.floor(seconds / 60) % 60, seconds % 60]
  return h > 0 ? `${h}:${two(m)}:${two(s)}` : `${m}:${two(s)}`
}

const LENGTHS: ReadonlyArray<readonly [string, number]> = [['day', 86_400_000], ['hour', 3_600_000], ['minute', 60_000], ['second', 1_000], ['millisecond', 1]]

/** "12 ms", "4.2 sec", "3 min": a length in milliseconds in the largest unit that fits. */
export function span(milliseconds: number, language: string): string {
  const [unit, size] = LENGTHS.find(([, least]) => milliseconds >= least) ?? ['millisecond', 1]
  const value = milliseconds / size
  return new Intl.NumberFormat(language, { style: 'unit', unit, unitDisplay: 'short', maximumFractionDigits: value < 10 && unit !== 'millisecond' ? 1 : 0 }).format(value)
}
