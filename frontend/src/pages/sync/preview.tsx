//! The next five dates of a rule while it is typed, as the server reckons them, and why a date is not what the rule says.
import { Text } from '@mantine/core'
import { useDebouncedValue } from '@mantine/hooks'
import { keepPreviousData, useQuery } from '@tanstack/react-query'
import { useTranslation } from 'react-i18next'
import type { Upcoming } from '../../api/generated'
import { previewScheduleOptions } from '../../api/generated/@tanstack/react-query.gen'
import { local, moment, userZone } from '../../format/time'
import { Badge } from '../../parts/badge'
import { useExplain } from '../../parts/states'
import { toFailure } from '../../api/failure'
import type { Draft } from './draft'
import classes from './sync.module.css'

function Dated({ occurrence, zone }: { occurrence: Upcoming; zone: string }) {
  const { t, i18n } = useTranslation()
  const { at, note } = occurrence
  return (
    <li>
      <time dateTime={at} title={new Date(at).toISOString()} className="numbers">{local(occurrence.local, i18n.language)}</time>
      {note ? <Badge tone="warn" title={t(`sync.note.${note}Hint`)}>{t(`sync.note.${note}`)}</Badge> : null}
      {zone === userZone ? null : <span className={classes.yours}>{t('sync.preview.yours', { time: moment(new Date(at), i18n.language) })}</span>}
    </li>
  )
}

export function Preview({ draft }: { draft: Draft }) {
  const { t } = useTranslation()
  const explain = useExplain()
  const [settled] = useDebouncedValue(draft, 200)
  const preview = useQuery({
    ...previewScheduleOptions({ body: settled }),
    enabled: settled.time_of_day !== '' && settled.schedule_type !== 'on_change',
    placeholderData: keepPreviousData, staleTime: 30_000, retry: false,
  })
  const upcoming = preview.data?.upcoming ?? []
  const notes = [...new Set(upcoming.flatMap(({ note }) => (note ? [note] : [])))]
  return (
    <div className={classes.preview} role="group" aria-label={t('sync.preview.title')}>
      <Text fw={600} size="sm">{t('sync.preview.title')}</Text>
      <Text c="dimmed" size="xs" mb={4}>{t('sync.preview.zone', { zone: settled.timezone })}</Text>
      <div aria-live="polite" aria-busy={preview.isFetching}>
        {preview.error ? <Text size="sm" c="var(--bad)">{explain(toFailure(preview.error))}</Text> : null}
        {!preview.error && upcoming.length === 0 ? <Text size="sm" c="dimmed">{t('sync.preview.waiting')}</Text> : null}
        {preview.error ? null : <ol className={classes.dates}>{upcoming.map((occurrence) => <Dated key={occurrence.at} occurrence={occurrence} zone={settled.timezone} />)}</ol>}
        {preview.error ? null : notes.map((note) => <Text key={note} size="xs" c="dimmed" mt={4}>{t(`sync.note.${note}`)}: {t(`sync.note.${note}Hint`)}</Text>)}
      </div>
    </div>
  )
}
