//! Sizes and rates between bytes and what people write. Decimal units are powers of 1000 and binary ones of 1024, as
//! their names say; what we print is decimal. A rate is null when there is no limit.

const UNITS: Readonly<Record<string, number>> = {
  '': 1, B: 1, K: 1e3, KB: 1e3, M: 1e6, MB: 1e6, G: 1e9, GB: 1e9, T: 1e12, TB: 1e12,
  KIB: 1024, MIB: 1024 ** 2, GIB: 1024 ** 3, TIB: 1024 ** 4,
}
const STEPS = ['B', 'KB', 'MB', 'GB', 'TB'] as const

/** 1500000 -> "1.5 MB", in the words of the language. */
export function bytes(value: number, language: string): string {
  let step = 0
  let shown = value
  while (Math.round(shown * 10) / 10 >= 1000 && step < STEPS.length - 1) {
    shown /= 1000
    step += 1
  }
  const digits = step === 0 || shown >= 100 ? 0 : 1
  return `${new Intl.NumberFormat(language, { maximumFractionDigits: digits }).format(shown)} ${STEPS[step]}`
}

/** 1500000 -> "1.5 MB/s". Exact: as many decimals as it takes to read back the same number. */
export function rate(value: number, language: string): string {
  let step = 0
  while (value / 1000 ** (step + 1) >= 1 && step < STEPS.length - 1) step += 1
  const shown = value / 1000 ** step
  return `${new Intl.NumberFormat(language, { maximumFractionDigits: 3 * step, useGrouping: false }).format(shown)} ${STEPS[step]}/s`
}

export type Rate = { ok: true; value: number | null } | { ok: false }

/** "1.5 MB/s", "1,5 mb", "800 KiB/s" or "1500000" -> bytes per second; nothing -> no limit. Bits ("Mbit") are refused. */
export function parseRate(text: string): Rate {
  const trimmed = text.trim()
  if (trimmed === '') return { ok: true, value: null }
  const found = /^(\d+(?:[.,]\d+)?)\s*([a-z]*)\s*(?:\/\s*s)?$/i.exec(trimmed)
  const number = found?.[1]
  const unit = UNITS[(found?.[2] ?? '?').toUpperCase()]
  if (number === undefined || unit === undefined) return { ok: false }
  const value = Math.round(Number(number.replace(',', '.')) * unit)
  return value >= 1 && Number.isSafeInteger(value) ? { ok: true, value } : { ok: false }
}
