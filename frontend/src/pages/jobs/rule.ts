//! The rules of periodic jobs in the person's language. The server says them in English, in one of a few forms; a form that is not
//! known here (a newer server's) is shown as it came.

export type Rule = { every: 'minute' } | { every: 'day'; time: string; zone: string }

/** "daily at 03:00 Europe/Berlin" -> its parts; undefined for a form that is not known. */
export function ruleOf(words: string): Rule | undefined {
  if (words === 'each minute') return { every: 'minute' }
  const [, time, zone] = /^daily at (\d\d:\d\d) (\S+)$/.exec(words) ?? []
  return time !== undefined && zone !== undefined ? { every: 'day', time, zone } : undefined
}
