//! The three states that every list has besides its content: loading, empty, failed. Each says what to do next.
import { Button, Skeleton, Stack, Text, Title } from '@mantine/core'
import { IconAlertTriangle, type Icon } from '@tabler/icons-react'
import type { ReactNode } from 'react'
import { useTranslation } from 'react-i18next'
import { toFailure, type Failure } from '../api/failure'
import { useCodes } from '../i18n/codes'
import { Notice } from './notice'
import classes from './states.module.css'

export function Loading({ rows = 3 }: { rows?: number }) {
  const { t } = useTranslation()
  return (
    <Stack gap="sm" role="status" aria-label={t('common.loading')}>
      {Array.from({ length: rows }, (_, row) => <Skeleton key={row} height={52} radius="md" />)}
    </Stack>
  )
}

interface EmptyProps { icon: Icon; title: string; hint: string; action?: ReactNode; heading?: boolean }

export function Empty({ icon: EmptyIcon, title, hint, action, heading = false }: EmptyProps) {
  return (
    <div className={classes.empty}>
      <span className={classes.icon} aria-hidden><EmptyIcon size={26} stroke={1.6} /></span>
      {heading ? <Title order={1} size="h2">{title}</Title> : <Text fw={600}>{title}</Text>}
      <Text c="dimmed" size="sm" maw={420}>{hint}</Text>
      {action}
    </div>
  )
}

/** The sentence for a failure in the person's language; the server's own where the catalogue has none. */
export function useExplain(): (failure: Failure) => string {
  const { t, i18n } = useTranslation()
  const words = useCodes('problems')
  return (failure) => {
    const text = words(failure.code) ?? failure.detail
    return failure.retryAfter === undefined ? text : `${text} ${t('failure.wait', { time: waiting(failure.retryAfter, i18n.language) })}`
  }
}

function waiting(seconds: number, language: string): string {
  const minutes = seconds > 90
  return new Intl.NumberFormat(language, { style: 'unit', unit: minutes ? 'minute' : 'second', unitDisplay: 'long' }).format(minutes ? Math.ceil(seconds / 60) : seconds)
}

interface FailedProps { error: unknown; title?: string; retry?: () => void }

export function Failed({ error, title, retry }: FailedProps) {
  const { t } = useTranslation()
  const explain = useExplain()
  const failure = toFailure(error)
  return (
    <Notice tone="bad" icon={IconAlertTriangle} title={title ?? t('failure.title')} alert>
      {explain(failure)}
      {failure.requestId && failure.status >= 500 ? <Text size="xs" mt={4}>{t('failure.reference', { id: failure.requestId })}</Text> : null}
      {retry ? <div><Button mt="sm" size="xs" variant="default" onClick={retry}>{t('common.retry')}</Button></div> : null}
    </Notice>
  )
}
