import { describe, expect, it } from 'vitest'
import { bytes, parseRate, rate } from './rate'

describe('rates', () => {
  it.each([
    ['1.5 MB/s', 1_500_000], ['1,5 mb/s', 1_500_000], ['800KB', 800_000], ['2 MiB/s', 2_097_152], ['1500000', 1_500_000], ['1 GB / s', 1e9],
  ])('reads %s', (text, value) => expect(parseRate(text)).toEqual({ ok: true, value }))
  it('reads nothing as no limit', () => expect(parseRate('  ')).toEqual({ ok: true, value: null }))
  it.each(['fast', '-1 MB/s', '0', '1.5.2 MB', '10 Mbit/s', '10 Mbps', '1e9', '0.2 B', '99999999999 TB'])('refuses %s', (text) => expect(parseRate(text)).toEqual({ ok: false }))
  it.each([1, 999, 1_000, 1_500_000, 1_234_567, 2_097_152, 1e9, 1_000_000_001])('prints %d so that it reads back the same', (value) => {
    expect(parseRate(rate(value, 'en'))).toEqual({ ok: true, value })
    expect(parseRate(rate(value, 'de'))).toEqual({ ok: true, value })
  })
  it('prints in the words of the language', () => {
    expect(rate(1_500_000, 'en')).toBe('1.5 MB/s')
    expect(rate(1_500_000, 'de')).toBe('1,5 MB/s')
  })
})

describe('bytes', () => {
  it.each([[0, '0 B'], [999, '999 B'], [1_000, '1 KB'], [1_550_000, '1.6 MB'], [999_960, '1 MB'], [123_456_789, '123 MB'], [2e12, '2 TB']])('prints %d', (value, text) => {
    expect(bytes(value, 'en')).toBe(text)
  })
})
