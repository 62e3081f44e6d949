//! Times as people read them: how far away, with the exact instant on hover and for screen readers.
import { useInterval } from '@mantine/hooks'
import { useState } from 'react'
import { useTranslation } from 'react-i18next'
import { moment, relative, userZone } from '../format/time'

/** The browser's time, renewed every so many milliseconds. */
export function useNow(every = 1_000): Date {
  const [now, setNow] = useState(() => new Date())
  useInterval(() => setNow(new Date()), every, { autoInvoke: true })
  return now
}

/** "in 3 hours"; hovering shows the instant in the user's zone and in UTC. */
export function When({ at, absolute = false }: { at: string; absolute?: boolean }) {
  const { i18n } = useTranslation()
  const now = useNow()
  const date = new Date(at)
  const exact = `${moment(date, i18n.language)} (${userZone}) · ${date.toISOString()}`
  const shown = absolute ? moment(date, i18n.language) : relative(date, now, i18n.language)
  return <time dateTime={at} title={exact}>{shown}</time>
}
