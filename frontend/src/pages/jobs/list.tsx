//! Jobs by what has become of them, newest first, each with what can be done to it. The first page is live; older ones are
//! fetched when asked for. Payloads and errors are whatever programs wrote: shown as text only.
import { Group, Progress, SegmentedControl, Select, Text } from '@mantine/core'
import { IconListDetails } from '@tabler/icons-react'
import { useInfiniteQuery, useQuery } from '@tanstack/react-query'
import { useState } from 'react'
import { useTranslation } from 'react-i18next'
import type { Job } from '../../api/generated'
import { listJobsInfiniteOptions, listQueuesOptions } from '../../api/generated/@tanstack/react-query.gen'
import { Badge, type Tone } from '../../parts/badge'
import { Listed } from '../../parts/listed'
import { Block } from '../../parts/page'
import { Cell, Row } from '../../parts/rows'
import { Empty } from '../../parts/states'
import { When } from '../../parts/when'
import { CancelJob, DeadJob } from './acts'
import classes from './jobs.module.css'
import { RHYTHM } from './live'

const LISTS = ['running', 'waiting', 'dead', 'finished'] as const
type Which = (typeof LISTS)[number]

const STATES = { scheduled: 'calm', ready: 'busy', running: 'busy', done: 'good', cancelled: 'calm', dead: 'bad' } as const satisfies Readonly<Record<string, Tone>>
type State = keyof typeof STATES
const isState = (state: string): state is State => state in STATES

/** What a handler says of how far it is; undefined when it says nothing that can be shown. */
function progressOf(job: Job): { done: number; total: number; message: string } | undefined {
  const { done, total, message } = (job.progress ?? {}) as Readonly<Record<string, unknown>>
  if (typeof done !== 'number' || typeof total !== 'number') return undefined
  return { done, total, message: typeof message === 'string' ? message : '' }
}

function Far({ job }: { job: Job }) {
  const { t, i18n } = useTranslation()
  const progress = progressOf(job)
  if (!progress) return null
  const { done, total, message } = progress
  const number = new Intl.NumberFormat(i18n.language)
  const said = [total > 0 ? t('jobs.list.progress', { done: number.format(done), total: number.format(total) }) : number.format(done), message].filter(Boolean).join(' · ')
  return (
    <div className={classes.far}>
      {total > 0 ? <Progress value={Math.min(100, (done / total) * 100)} aria-label={said} size="sm" /> : null}
      <Text size="xs" c="dimmed">{said}</Text>
    </div>
  )
}

function Times({ job }: { job: Job }) {
  const { t } = useTranslation()
  if (job.ended_at) return <Cell label={t('jobs.list.ended')}><When at={job.ended_at} /></Cell>
  if (job.state === 'scheduled' && job.run_at) return <Cell label={t('jobs.list.due')}><When at={job.run_at} /></Cell>
  return <Cell label={t('jobs.list.created')}><When at={job.created_at} /></Cell>
}

function JobRow({ job }: { job: Job }) {
  const { t } = useTranslation()
  const state = isState(job.state) ? job.state : undefined
  const attempts = job.max_attempts === undefined ? t('jobs.list.attempts', { count: job.attempt }) : t('jobs.list.attempt', { attempt: job.attempt, max: job.max_attempts })
  return (
    <Row columns="minmax(0, 6fr) minmax(0, 2fr) minmax(0, 2.5fr) minmax(100px, auto)">
      <Cell>
        <Group gap={8}>
          <Text fw={600} size="sm" component="span">{job.kind}</Text>
          <Text size="sm" c="dimmed" component="span" className="numbers">#{job.job_id}</Text>
          <Badge tone={state ? STATES[state] : 'calm'}>{state ? t(`jobs.state.${state}`) : job.state}</Badge>
        </Group>
        <Text size="sm" c="dimmed">{job.queue}{job.worker ? ` · ${t('jobs.list.by', { worker: job.worker })}` : ''}</Text>
        <Far job={job} />
        {job.last_error ? <p className={classes.error} data-dead={job.state === 'dead' || undefined}>{job.state === 'dead' ? null : <b>{t('jobs.list.lastError')}: </b>}{job.last_error}</p> : null}
        <details className={classes.payload}><summary>{t('jobs.list.details')}</summary><pre className="mono" tabIndex={0}>{JSON.stringify(job.payload, undefined, 2)}</pre></details>
      </Cell>
      <Cell><span className="numbers">{attempts}</span></Cell>
      <Times job={job} />
      <Cell end>{job.state === 'dead' ? <DeadJob id={job.job_id} /> : job.ended_at ? null : <CancelJob id={job.job_id} />}</Cell>
    </Row>
  )
}

export function JobList() {
  const { t } = useTranslation()
  const [which, setWhich] = useState<Which>('running')
  const [queue, setQueue] = useState<string | null>(null)
  const queues = useQuery({ ...listQueuesOptions(), refetchInterval: RHYTHM })
  const dead = queues.data?.reduce((sum, each) => sum + each.dead, 0) ?? 0
  const list = useInfiniteQuery({
    ...listJobsInfiniteOptions({ query: { list: which, limit: 50, ...(queue === null ? {} : { queue }) } }),
    initialPageParam: {}, getNextPageParam: (page) => page.next_cursor ?? undefined,
    // Re-reading every opened page each time would grow without bound: live only while one page is open.
    refetchInterval: ({ state }) => ((state.data?.pages.length ?? 1) === 1 ? RHYTHM : false),
  })
  const jobs = list.data?.pages.flatMap((page) => page.jobs) ?? []
  const label = (each: Which) => (each === 'dead' && dead > 0 ? `${t('jobs.list.dead')} (${dead})` : t(`jobs.list.${each}`))
  return (
    <Block title={t('jobs.list.title')} icon={IconListDetails}>
      <div className={classes.choice}>
        <SegmentedControl className={classes.which ?? ''} aria-label={t('jobs.list.which')} value={which} onChange={(value) => setWhich(LISTS.find((known) => known === value) ?? 'running')} data={LISTS.map((value) => ({ value, label: label(value) }))} />
        <Select aria-label={t('jobs.list.queue')} placeholder={t('jobs.list.queue')} clearable clearButtonProps={{ 'aria-label': t('common.all') }} value={queue} onChange={setQueue} data={(queues.data ?? []).map((each) => each.queue)} />
      </div>
      <Listed
        query={list} items={jobs} label={label(which)}
        empty={<Empty icon={IconListDetails} title={t(`jobs.list.none.${which}`)} hint={t(`jobs.list.noneHint.${which}`)} />}
      >
        {(job) => <JobRow key={job.job_id} job={job} />}
      </Listed>
    </Block>
  )
}
