//! One run, live while it goes on: where it stands, what it did, what it left out and why, and the decisions it waits for.
import { Button, Text } from '@mantine/core'
import { useMutation, useQuery } from '@tanstack/react-query'
import { IconAlertTriangle, IconFlask, IconListCheck, IconListDetails, IconQuestionMark } from '@tabler/icons-react'
import { useState } from 'react'
import { useTranslation } from 'react-i18next'
import { useParams } from 'react-router'
import { Failure } from '../../api/failure'
import type { Run, RunState } from '../../api/generated'
import { cancelRunMutation, getRunOptions } from '../../api/generated/@tanstack/react-query.gen'
import { bytes } from '../../format/rate'
import { duration, userZone } from '../../format/time'
import { useCodes } from '../../i18n/codes'
import { Badge, StateBadge } from '../../parts/badge'
import { Confirm } from '../../parts/confirm'
import { Notice } from '../../parts/notice'
import { Block, Page } from '../../parts/page'
import { Failed, Loading, useExplain } from '../../parts/states'
import { When } from '../../parts/when'
import { NotFound } from '../../shell/lost'
import { useRunBecame } from './became'
import { folderInDoubt, Held } from './held'
import { Paths } from './paths'
import { readPlan } from './plan'
import { Progressing } from './progressing'
import classes from './runs.module.css'

const OPEN: ReadonlySet<RunState> = new Set(['queued', 'running', 'waiting_for_device', 'held'])
const CANCELLABLE: ReadonlySet<RunState> = new Set(['queued', 'running', 'waiting_for_device'])

function Cancel({ run, asked, onAsked }: { run: Run; asked: boolean; onAsked: () => void }) {
  const { t } = useTranslation()
  const became = useRunBecame()
  const [open, setOpen] = useState(false)
  const path = { run_id: run.run_id }
  const cancelling = useMutation({
    ...cancelRunMutation(),
    onSuccess: (now) => {
      setOpen(false)
      onAsked()
      return became(now)
    },
  })
  return (
    <>
      <Button variant="default" onClick={() => setOpen(true)} disabled={asked}>{t('run.cancel')}</Button>
      <Confirm
        opened={open} onClose={() => setOpen(false)} title={t('run.cancelTitle')} text={t('run.cancelText')} confirm={t('run.cancelDo')} refuse={t('run.keep')}
        busy={cancelling.isPending} error={cancelling.error} onConfirm={() => cancelling.mutate({ path })}
      />
    </>
  )
}

function Facts({ run }: { run: Run }) {
  const { t, i18n } = useTranslation()
  const took = run.started_at && run.finished_at ? duration(Date.parse(run.finished_at) - Date.parse(run.started_at)) : undefined
  const instants = [['runs.due', run.scheduled_for], ['runs.created', run.created_at], ['runs.started', run.started_at], ['runs.finished', run.finished_at]] as const
  return (
    <Block title={t('run.facts')} icon={IconListDetails} lead={t('common.times', { zone: userZone })}>
      <dl className={classes.facts}>
        {instants.map(([label, at]) => (at ? <div key={label}><dt>{t(label)}</dt><dd><When at={at} absolute /></dd></div> : null))}
        {took ? <div><dt>{t('runs.took')}</dt><dd className="numbers">{took}</dd></div> : null}
        {run.attempts > 1 ? <div><dt>{t('runs.attempts')}</dt><dd>{run.attempts}</dd></div> : null}
        {run.changes_detected != null ? <div><dt>{t('runs.found')}</dt><dd>{new Intl.NumberFormat(i18n.language).format(run.changes_detected)}</dd></div> : null}
      </dl>
    </Block>
  )
}

const COUNTS = [
  'uploaded', 'downloaded', 'moved', 'deleted_on_device', 'deleted_on_server', 'folders', 'conflicts', 'skipped', 'bytes_uploaded', 'bytes_downloaded',
] as const

function Counts({ run }: { run: Run }) {
  const { t, i18n } = useTranslation()
  const word = useCodes('run.count')
  const counts = COUNTS.map((name) => [name, run.counts[name] ?? 0] as const).filter(([, value]) => value > 0)
  if (run.dry_run || counts.length === 0) return null
  return (
    <Block title={t('run.counts')} icon={IconListCheck}>
      <dl className={classes.counts}>
        {counts.map(([name, value]) => (
          <div key={name}>
            <dt>{word(name) ?? name}</dt>
            <dd>{name.startsWith('bytes') ? bytes(value, i18n.language) : new Intl.NumberFormat(i18n.language).format(value)}</dd>
          </div>
        ))}
      </dl>
    </Block>
  )
}

function Word({ run, stopping }: { run: Run; stopping: boolean }) {
  const { t } = useTranslation()
  if (stopping && run.state === 'running') return <Text c="dimmed">{t('stateHint.cancelling')}</Text>
  if (run.error) return null
  switch (run.state) {
    case 'queued': case 'waiting_for_device': case 'missed': case 'skipped': case 'cancelled':
      return <Text c="dimmed">{t(`stateHint.${run.state}`)}</Text>
    default: return null
  }
}

function Trouble({ run }: { run: Run }) {
  const { t } = useTranslation()
  const explain = useExplain()
  if (run.error) {
    const why = new Failure(run.error.code, run.error.detail, 422, undefined, undefined, undefined)
    if (run.state === 'failed') return <Failed error={why} title={t('run.error')} />
    return <Notice tone="warn" icon={IconAlertTriangle} title={t('run.notRun')}>{explain(why)}</Notice>
  }
  if (!run.last_error || !OPEN.has(run.state)) return null
  return <Notice tone="warn" icon={IconAlertTriangle} title={t('run.lastError')}>{run.last_error}</Notice>
}

function RunView({ run }: { run: Run }) {
  const { t } = useTranslation()
  const [stopping, setStopping] = useState(false)
  const plan = readPlan(run.plan)
  return (
    <Page
      name={t('run.title', { device: run.device_name })} title={t('run.title', { device: run.device_name })}
      actions={CANCELLABLE.has(run.state) ? <Cancel run={run} asked={stopping} onAsked={() => setStopping(true)} /> : null}
      lead={<span className={classes.lead}><StateBadge state={run.state} />{run.dry_run ? <Badge tone="calm">{t('run.dry')}</Badge> : null}<span>{t(`trigger.${run.trigger}`)}</span></span>}
    >
      <Word run={run} stopping={stopping} />
      {run.dry_run ? <Notice tone="busy" icon={IconFlask}>{t('run.dryHint')}</Notice> : null}
      <Trouble run={run} />
      {run.state === 'held' ? <Held run={run} /> : null}
      {run.state === 'running' ? <Progressing run={run} /> : null}
      <div className={classes.pair}><Facts run={run} /><Counts run={run} /></div>
      {plan && (plan.items.length > 0 || run.state !== 'held') ? <Paths title={t('run.plan')} icon={IconListCheck} empty={t('run.planEmpty')} items={plan.items} more={plan.more} /> : null}
      {run.left_out_count > 0 && !folderInDoubt(run) ? (
        <Paths title={t('run.unplanned')} lead={t('run.unplannedHint')} icon={IconQuestionMark} empty={t('run.unplannedHint')} items={run.left_out.map(({ path, reason }) => ({ path, word: reason }))} more={Math.max(0, run.left_out_count - run.left_out.length)} />
      ) : null}
    </Page>
  )
}

export function RunPage() {
  const { t } = useTranslation()
  const { runId = '' } = useParams()
  const query = useQuery({
    ...getRunOptions({ path: { run_id: runId } }),
    refetchInterval: ({ state }) => (state.data === undefined || OPEN.has(state.data.state) ? 1_000 : false),
  })
  if (query.data) return <RunView key={runId} run={query.data} />
  if (query.error instanceof Failure && (query.error.status === 404 || query.error.status === 422 || query.error.status === 400)) return <NotFound />
  return <Page title={t('runs.title')} name={t('nav.runs')}>{query.error ? <Failed error={query.error} title={t('failure.load')} retry={() => void query.refetch()} /> : <Loading rows={4} />}</Page>
}
