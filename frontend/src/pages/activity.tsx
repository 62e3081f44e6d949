//! The audit log, newest first. Names and details are whatever people and machines wrote: shown as text only.
import { Anchor, Group, Select, Text, TextInput } from '@mantine/core'
import { useDebouncedValue } from '@mantine/hooks'
import { IconActivity } from '@tabler/icons-react'
import { useInfiniteQuery } from '@tanstack/react-query'
import { useState } from 'react'
import { useTranslation } from 'react-i18next'
import { Link } from 'react-router'
import type { AuditEntry, AuditLevel } from '../api/generated'
import { listAuditInfiniteOptions } from '../api/generated/@tanstack/react-query.gen'
import { userZone } from '../format/time'
import { Badge, type Tone } from '../parts/badge'
import { Listed } from '../parts/listed'
import { Block, Page } from '../parts/page'
import { Cell, Row } from '../parts/rows'
import { Empty } from '../parts/states'
import { When } from '../parts/when'
import classes from './activity.module.css'

const TONES: Readonly<Record<string, Tone>> = { info: 'calm', warning: 'warn', error: 'bad' }
const LEVELS: readonly AuditLevel[] = ['info', 'warning', 'error']

/** "sync_schedule_execution" -> "Sync schedule execution". */
const words = (action: string) => action.charAt(0).toUpperCase() + action.slice(1).replaceAll(/[_.]/g, ' ')

function Details({ entry }: { entry: AuditEntry }) {
  const { t } = useTranslation()
  const details = Object.entries(entry.details)
  return (
    <details className={classes.details}>
      <summary>{t('activity.details')}</summary>
      <dl>
        <div><dt>action</dt><dd className="mono">{entry.action}</dd></div>
        {entry.code ? <div><dt>code</dt><dd className="mono">{entry.code}</dd></div> : null}
        {details.map(([name, value]) => <div key={name}><dt>{name}</dt><dd className="mono">{typeof value === 'string' ? value : JSON.stringify(value)}</dd></div>)}
      </dl>
    </details>
  )
}

/** What it was done to; a run leads to its page. */
function Resource({ entry }: { entry: AuditEntry }) {
  const run = entry.resource_type === 'sync_run' ? entry.resource_id : entry.details['run_id']
  const name = <span className="mono">{entry.resource_id}</span>
  return typeof run === 'string' ? <Anchor component={Link} to={`/runs/${run}`} inherit>{name}</Anchor> : name
}

function EntryRow({ entry }: { entry: AuditEntry }) {
  const { t } = useTranslation()
  return (
    <Row columns="minmax(0, 3fr) minmax(0, 1fr)">
      <Cell>
        <Group gap={8}>
          <Text fw={600} size="sm">{words(entry.action)}</Text>
          {entry.level === 'info' ? null : <Badge tone={TONES[entry.level] ?? 'calm'}>{t(`activity.levels.${entry.level as AuditLevel}`)}</Badge>}
        </Group>
        {entry.resource_id ? <Text size="sm" c="dimmed">{entry.resource_type ? `${words(entry.resource_type)}: ` : ''}<Resource entry={entry} /></Text> : null}
        <Details entry={entry} />
      </Cell>
      <Cell>
        <Text size="sm" component="span" display="block"><When at={entry.at} absolute /></Text>
        <Text size="sm" c="dimmed" component="span">{entry.actor ? t('activity.by', { name: entry.actor }) : t('activity.byItself')}</Text>
      </Cell>
    </Row>
  )
}

export function Activity() {
  const { t } = useTranslation()
  const [action, setAction] = useState('')
  const [level, setLevel] = useState<AuditLevel | null>(null)
  const [since, setSince] = useState('')
  const [sought] = useDebouncedValue(action.trim(), 300)
  const query = { ...(sought ? { action: sought } : {}), ...(level ? { level } : {}), ...(since ? { since: new Date(`${since}T00:00`).toISOString() } : {}) }
  const list = useInfiniteQuery({
    ...listAuditInfiniteOptions({ query }),
    initialPageParam: {}, getNextPageParam: (page) => page.next_cursor ?? undefined,
    // Re-reading every opened page each time would grow without bound: live only while one page is open.
    refetchInterval: ({ state }) => ((state.data?.pages.length ?? 1) === 1 ? 5_000 : false),
  })
  const entries = list.data?.pages.flatMap((page) => page.entries) ?? []
  const filtered = Object.keys(query).length > 0
  return (
    <Page title={t('activity.title')} name={t('nav.activity')} lead={<>{t('activity.lead')} {t('common.times', { zone: userZone })}</>}>
      <Group align="flex-end">
        <TextInput label={t('activity.action')} placeholder="sync_schedule_execution" spellCheck={false} autoComplete="off" value={action} onChange={(event) => setAction(event.currentTarget.value)} w={260} />
        <Select label={t('activity.level')} placeholder={t('common.all')} clearable clearButtonProps={{ 'aria-label': t('common.all') }} value={level} onChange={setLevel} data={LEVELS.map((value) => ({ value, label: t(`activity.levels.${value}`) }))} w={160} />
        <TextInput type="date" label={t('activity.since')} value={since} onChange={(event) => setSince(event.currentTarget.value)} w={160} />
      </Group>
      <Block title={t('activity.title')} hideHead>
        <Listed
          query={list} items={entries} label={t('activity.title')} loading={6}
          empty={<Empty icon={IconActivity} title={filtered ? t('activity.emptyFilter') : t('activity.empty')} hint={filtered ? t('activity.emptyFilterHint') : t('activity.emptyHint')} />}
        >
          {(entry) => <EntryRow key={entry.id} entry={entry} />}
        </Listed>
      </Block>
    </Page>
  )
}
