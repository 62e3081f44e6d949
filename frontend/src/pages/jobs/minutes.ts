//! The counts of the last hour, minute by minute, for the chart.
import type { JobCounts } from '../../api/generated'

export interface Minute { at: number; done: number; failed: number }
export interface Hour { minutes: Minute[]; done: number; failed: number; dead: number; run: number | undefined; wait: number | undefined; most: number }

const MINUTE = 60_000
/** Bars in the chart. */
export const SHOWN = 60

/** Sixty minutes up to `now`, empty ones too. Averages are in milliseconds; undefined when nothing ran. */
export function lastHour(counts: readonly JobCounts[], now: number): Hour {
  const newest = Math.floor(now / MINUTE) * MINUTE
  const minutes = Array.from({ length: SHOWN }, (_, back) => ({ at: newest - (SHOWN - 1 - back) * MINUTE, done: 0, failed: 0 }))
  const hour: Hour = { minutes, done: 0, failed: 0, dead: 0, run: undefined, wait: undefined, most: 0 }
  let [run, wait] = [0, 0]
  for (const { minute, done, failed, dead, run_ms, wait_ms } of counts) {
    // The server's clock may be a little ahead.
    const back = Math.max(0, Math.floor((newest - Date.parse(minute)) / MINUTE))
    const bar = minutes[SHOWN - 1 - back]
    if (!bar) continue
    bar.done += done
    bar.failed += failed
    hour.done += done
    hour.failed += failed
    hour.dead += dead
    run += run_ms
    wait += wait_ms
  }
  const ended = hour.done + hour.failed
  if (ended > 0) [hour.run, hour.wait] = [run / ended, wait / ended]
  hour.most = Math.max(...minutes.map((bar) => bar.done + bar.failed))
  return hour
}
