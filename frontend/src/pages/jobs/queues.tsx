//! Every queue with depth and age. Pausing lets go on what runs.
import { Button, Group, Text } from '@mantine/core'
import { IconPlayerPause, IconPlayerPlay, IconStack2 } from '@tabler/icons-react'
import { useMutation, useQuery } from '@tanstack/react-query'
import { useTranslation } from 'react-i18next'
import type { Queue } from '../../api/generated'
import { listQueuesOptions, pauseQueueMutation, resumeQueueMutation } from '../../api/generated/@tanstack/react-query.gen'
import { span } from '../../format/time'
import { Badge } from '../../parts/badge'
import { Listed } from '../../parts/listed'
import { Block } from '../../parts/page'
import { Cell, Row } from '../../parts/rows'
import { Empty } from '../../parts/states'
import { tell } from '../../parts/tell'
import classes from './jobs.module.css'
import { RHYTHM, useRefresh, useTellFailure } from './live'

function Steer({ name, paused }: { name: string; paused: boolean }) {
  const { t } = useTranslation()
  const refresh = useRefresh()
  const onError = useTellFailure()
  const said = (text: string) => () => { tell(text); return refresh() }
  const pausing = useMutation({ ...pauseQueueMutation(), onSuccess: said(t('jobs.queues.pausedDone', { queue: name })), onError })
  const resuming = useMutation({ ...resumeQueueMutation(), onSuccess: said(t('jobs.queues.resumedDone', { queue: name })), onError })
  const act = paused ? resuming : pausing
  const SteerIcon = paused ? IconPlayerPlay : IconPlayerPause
  return (
    <Button
      size="xs" variant={paused ? 'filled' : 'default'} leftSection={<SteerIcon size={14} aria-hidden />} loading={act.isPending} onClick={() => act.mutate({ path: { queue: name } })}
      aria-label={t(paused ? 'jobs.queues.resumeOf' : 'jobs.queues.pauseOf', { queue: name })}
    >
      {t(paused ? 'jobs.queues.resume' : 'jobs.queues.pause')}
    </Button>
  )
}

const COUNTS = ['ready', 'running', 'scheduled', 'dead'] as const

function QueueRow({ queue }: { queue: Queue }) {
  const { t, i18n } = useTranslation()
  const number = new Intl.NumberFormat(i18n.language)
  // A deep queue is not counted: two digits of an estimate, not seven that change with each look.
  const rough = new Intl.NumberFormat(i18n.language, { maximumSignificantDigits: 2 })
  const counted = (count: (typeof COUNTS)[number]) => {
    const guessed = queue.estimated && (count === 'ready' || count === 'scheduled') && queue[count] > 0
    return guessed ? t('jobs.queues.about', { number: rough.format(queue[count]) }) : number.format(queue[count])
  }
  return (
    <Row columns="minmax(0, 5fr) minmax(0, 11fr) minmax(110px, auto)">
      <Cell><Group gap={8}><Text fw={600} size="sm" component="span">{queue.queue}</Text>{queue.paused ? <Badge tone="warn">{t('jobs.queues.paused')}</Badge> : null}</Group></Cell>
      <dl className={classes.depth}>
        {COUNTS.map((count) => (
          <div key={count}>
            <dt>{t(`jobs.queues.${count}`)}</dt>
            <dd data-zero={queue[count] === 0 || undefined} data-loud={(count === 'dead' && queue.dead > 0) || undefined}>{counted(count)}</dd>
          </div>
        ))}
        <div>
          <dt>{t('jobs.queues.age')}</dt>
          <dd data-zero={queue.ready === 0 || undefined}>{queue.ready > 0 ? span(queue.oldest_ready_seconds * 1_000, i18n.language) : t('common.none')}</dd>
        </div>
      </dl>
      <Cell end><Steer name={queue.queue} paused={queue.paused} /></Cell>
    </Row>
  )
}

export function Queues() {
  const { t } = useTranslation()
  const list = useQuery({ ...listQueuesOptions(), refetchInterval: RHYTHM })
  return (
    <Block title={t('jobs.queues.title')} lead={t('jobs.queues.lead')} icon={IconStack2}>
      <Listed
        query={list} items={list.data ?? []} label={t('jobs.queues.title')}
        empty={<Empty icon={IconStack2} title={t('jobs.queues.empty')} hint={t('jobs.queues.emptyHint')} />}
      >
        {(queue) => <QueueRow key={queue.queue} queue={queue} />}
      </Listed>
    </Block>
  )
}
