//! All runs, newest first, by device and state. The newest page is live; older ones are fetched when asked for.
import { Anchor, Button, Group, Select, Text } from '@mantine/core'
import { IconHistory } from '@tabler/icons-react'
import { useInfiniteQuery, useQuery } from '@tanstack/react-query'
import { useTranslation } from 'react-i18next'
import { Link, useSearchParams } from 'react-router'
import type { Run, RunState } from '../../api/generated'
import { listDevicesOptions, listRunsInfiniteOptions } from '../../api/generated/@tanstack/react-query.gen'
import { MOST } from '../../api/paging'
import { duration, userZone } from '../../format/time'
import { Badge, StateBadge } from '../../parts/badge'
import { Listed } from '../../parts/listed'
import { Block, Page } from '../../parts/page'
import { Cell, Row } from '../../parts/rows'
import { Empty } from '../../parts/states'
import { When } from '../../parts/when'

const STATES: readonly RunState[] = ['queued', 'running', 'waiting_for_device', 'held', 'succeeded', 'failed', 'cancelled', 'missed', 'skipped']

function RunRow({ run }: { run: Run }) {
  const { t, i18n } = useTranslation()
  const took = run.started_at && run.finished_at ? duration(Date.parse(run.finished_at) - Date.parse(run.started_at)) : undefined
  return (
    <Row columns="minmax(0, 4fr) minmax(0, 3fr) minmax(0, 3fr) minmax(0, 2fr) minmax(0, 2fr)">
      <Cell>
        <Anchor component={Link} to={`/runs/${run.run_id}`} fw={600}>{run.device_name}</Anchor>
        <Text size="sm" c="dimmed">{t(`trigger.${run.trigger}`)}</Text>
      </Cell>
      <Cell><Group gap={6}><StateBadge state={run.state} />{run.dry_run ? <Badge tone="calm">{t('run.dry')}</Badge> : null}{run.missed_count > 1 ? <Badge tone="calm">{t('runs.missedCount', { count: run.missed_count })}</Badge> : null}</Group></Cell>
      <Cell label={t('runs.created')}><When at={run.created_at} /></Cell>
      <Cell label={t('runs.took')}><span className="numbers">{took ?? t('common.none')}</span></Cell>
      <Cell label={t('runs.found')}>{run.changes_detected == null ? t('common.none') : new Intl.NumberFormat(i18n.language).format(run.changes_detected)}</Cell>
    </Row>
  )
}

export function Runs() {
  const { t } = useTranslation()
  const [params, setParams] = useSearchParams()
  const device = params.get('device') ?? undefined
  const state = STATES.find((known) => known === params.get('state'))
  const devices = useQuery(listDevicesOptions({ query: { limit: MOST } }))
  const list = useInfiniteQuery({
    ...listRunsInfiniteOptions({ query: { device_id: device, state } }),
    initialPageParam: {}, getNextPageParam: (page) => page.next_cursor ?? undefined, refetchInterval: 2_000,
  })
  const runs = list.data?.pages.flatMap((page) => page.runs) ?? []
  const filter = (name: 'device' | 'state', value: string | null) => setParams((old) => {
    if (value === null) old.delete(name)
    else old.set(name, value)
    return old
  }, { replace: true })
  const filtered = device !== undefined || state !== undefined
  return (
    <Page title={t('runs.title')} name={t('nav.runs')} lead={<>{t('runs.lead')} {t('common.times', { zone: userZone })}</>}>
      <Group align="flex-end">
        <Select label={t('runs.device')} placeholder={t('common.all')} clearable clearButtonProps={{ 'aria-label': t('common.all') }} value={device ?? null} onChange={(value) => filter('device', value)} data={(devices.data?.devices ?? []).map(({ device_id, device_name }) => ({ value: device_id, label: device_name }))} />
        <Select label={t('runs.state')} placeholder={t('common.all')} clearable clearButtonProps={{ 'aria-label': t('common.all') }} value={state ?? null} onChange={(value) => filter('state', value)} data={STATES.map((value) => ({ value, label: t(`state.${value}`) }))} />
      </Group>
      <Block title={t('runs.title')} hideHead>
        <Listed
          query={list} items={runs} label={t('runs.title')} loading={6}
          empty={filtered
            ? <Empty icon={IconHistory} title={t('runs.emptyFilter')} hint={t('runs.emptyFilterHint')} />
            : <Empty icon={IconHistory} title={t('runs.empty')} hint={t('runs.emptyHint')} action={<Button component={Link} to="/sync" variant="light">{t('runs.toSync')}</Button>} />
          }
        >
          {(run) => <RunRow key={run.run_id} run={run} />}
        </Listed>
      </Block>
    </Page>
  )
}
