//! What can be done to a job. What can't be taken back is asked for first.
import { Button, Group } from '@mantine/core'
import { useMutation } from '@tanstack/react-query'
import { useState } from 'react'
import { useTranslation } from 'react-i18next'
import { cancelJobMutation, discardJobMutation, retryJobMutation } from '../../api/generated/@tanstack/react-query.gen'
import { Confirm } from '../../parts/confirm'
import { tell } from '../../parts/tell'
import { useRefresh, useTellFailure } from './live'

export function CancelJob({ id }: { id: number }) {
  const { t } = useTranslation()
  const refresh = useRefresh()
  const [asked, ask] = useState(false)
  const cancelling = useMutation({
    ...cancelJobMutation(),
    onSuccess: ({ was_running }) => {
      ask(false)
      tell(t(was_running ? 'jobs.list.cancelling' : 'jobs.list.cancelled', { id }))
      return refresh()
    },
  })
  return (
    <>
      <Button size="xs" variant="default" aria-label={t('jobs.list.cancelOf', { id })} onClick={() => ask(true)}>{t('jobs.list.cancel')}</Button>
      <Confirm
        opened={asked} onClose={() => ask(false)} title={t('jobs.list.cancelTitle', { id })} text={t('jobs.list.cancelText')} confirm={t('jobs.list.cancelOf', { id })} refuse={t('jobs.list.keep')}
        busy={cancelling.isPending} error={cancelling.error} onConfirm={() => cancelling.mutate({ path: { job_id: id } })}
      />
    </>
  )
}

export function DeadJob({ id }: { id: number }) {
  const { t } = useTranslation()
  const refresh = useRefresh()
  const onError = useTellFailure()
  const [asked, ask] = useState(false)
  const path = { job_id: id }
  const retrying = useMutation({ ...retryJobMutation(), onSuccess: () => { tell(t('jobs.list.retried', { id })); return refresh() }, onError })
  const discarding = useMutation({ ...discardJobMutation(), onSuccess: () => { ask(false); tell(t('jobs.list.discarded', { id })); return refresh() } })
  return (
    <Group gap={8} wrap="nowrap">
      <Button size="xs" aria-label={t('jobs.list.retryOf', { id })} loading={retrying.isPending} onClick={() => retrying.mutate({ path })}>{t('jobs.list.retry')}</Button>
      <Button size="xs" variant="default" aria-label={t('jobs.list.discardOf', { id })} onClick={() => ask(true)}>{t('jobs.list.discard')}</Button>
      <Confirm
        opened={asked} onClose={() => ask(false)} title={t('jobs.list.discardTitle', { id })} text={t('jobs.list.discardText')} confirm={t('jobs.list.discardOf', { id })} refuse={t('jobs.list.keep')}
        busy={discarding.isPending} error={discarding.error} onConfirm={() => discarding.mutate({ path })}
      />
    </Group>
  )
}
