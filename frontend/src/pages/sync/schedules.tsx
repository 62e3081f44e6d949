//! Block 4: what is scheduled, when it runs next, how it went last, and what can be done about it.
import { ActionIcon, Anchor, Button, Group, Menu, Text } from '@mantine/core'
import { IconCalendarClock, IconDots, IconEdit, IconFlask, IconPlayerPause, IconPlayerPlay, IconTrash } from '@tabler/icons-react'
import { useInfiniteQuery, useMutation, useQueryClient } from '@tanstack/react-query'
import { useState } from 'react'
import { useTranslation } from 'react-i18next'
import { Link, useNavigate } from 'react-router'
import { toFailure } from '../../api/failure'
import type { Schedule } from '../../api/generated'
import { deleteScheduleMutation, disableScheduleMutation, enableScheduleMutation, listSchedulesInfiniteOptions, listSchedulesQueryKey, runScheduleNowMutation } from '../../api/generated/@tanstack/react-query.gen'
import { userZone } from '../../format/time'
import { Badge, StateBadge } from '../../parts/badge'
import { Confirm } from '../../parts/confirm'
import { Listed } from '../../parts/listed'
import { Block } from '../../parts/page'
import { Cell, Row } from '../../parts/rows'
import { Empty, useExplain } from '../../parts/states'
import { tell, tellFailure } from '../../parts/tell'
import { When } from '../../parts/when'
import { EditSchedule } from './edit-schedule'
import { useRuleWords } from './rule-words'

type Asked = 'edit' | 'delete' | undefined

function useScheduleActs(schedule: Schedule) {
  const { t } = useTranslation()
  const explain = useExplain()
  const navigate = useNavigate()
  const queries = useQueryClient()
  const path = { schedule_id: schedule.schedule_id }
  const reload = () => queries.invalidateQueries({ queryKey: listSchedulesQueryKey() })
  const onError = (error: unknown) => tellFailure(explain(toFailure(error)))
  const run = useMutation({
    ...runScheduleNowMutation(), onError,
    onSuccess: ({ run_id }, { query }) => {
      if (query?.dry_run) return navigate(`/runs/${run_id}`)
      tell(<>{t('sync.list.started')} <Anchor component={Link} to={`/runs/${run_id}`} size="sm">{t('sync.list.watch')}</Anchor></>)
      return reload()
    },
  })
  const disable = useMutation({ ...disableScheduleMutation(), onError, onSuccess: () => { tell(t('sync.list.disabledDone')); return reload() } })
  const enable = useMutation({ ...enableScheduleMutation(), onError, onSuccess: () => { tell(t('sync.list.enabled')); return reload() } })
  const remove = useMutation({ ...deleteScheduleMutation(), onSuccess: () => { tell(t('sync.list.deleted')); return reload() } })
  return {
    runNow: () => run.mutate({ path }),
    dryRun: () => run.mutate({ path, query: { dry_run: true } }),
    running: run.isPending,
    toggle: () => (schedule.enabled ? disable : enable).mutate({ path }),
    remove: () => remove.mutate({ path }),
    removing: remove,
  }
}

function ScheduleActions({ schedule, ask, acts }: { schedule: Schedule; ask: (what: Asked) => void; acts: ReturnType<typeof useScheduleActs> }) {
  const { t } = useTranslation()
  return (
    <Group gap={6} wrap="nowrap">
      <Button size="xs" variant="default" leftSection={<IconPlayerPlay size={14} aria-hidden />} loading={acts.running} onClick={acts.runNow} aria-label={`${t('sync.list.run')}: ${schedule.device_name}`}>{t('sync.list.run')}</Button>
      <Menu position="bottom-end" withinPortal>
        <Menu.Target>
          <ActionIcon variant="subtle" color="gray" size="lg" aria-label={t('common.actionsFor', { name: schedule.device_name })}><IconDots size={18} aria-hidden /></ActionIcon>
        </Menu.Target>
        <Menu.Dropdown>
          <Menu.Item leftSection={<IconEdit size={16} aria-hidden />} onClick={() => ask('edit')}>{t('sync.list.edit')}</Menu.Item>
          <Menu.Item leftSection={<IconFlask size={16} aria-hidden />} onClick={acts.dryRun}>{t('sync.list.dryRun')}</Menu.Item>
          <Menu.Item leftSection={<IconPlayerPause size={16} aria-hidden />} onClick={acts.toggle}>{schedule.enabled ? t('sync.list.disable') : t('sync.list.enable')}</Menu.Item>
          <Menu.Divider />
          <Menu.Item c="var(--bad)" leftSection={<IconTrash size={16} aria-hidden />} onClick={() => ask('delete')}>{t('sync.list.delete')}</Menu.Item>
        </Menu.Dropdown>
      </Menu>
    </Group>
  )
}

function ScheduleRow({ schedule }: { schedule: Schedule }) {
  const { t } = useTranslation()
  const words = useRuleWords()
  const [asked, ask] = useState<Asked>()
  const acts = useScheduleActs(schedule)
  const { last_run: last } = schedule
  return (
    <Row columns="minmax(0, 5fr) minmax(0, 3fr) minmax(0, 4fr) auto">
      <Cell>
        <Text fw={600}>{schedule.device_name}</Text>
        <Text size="sm" c="dimmed">{words(schedule)}{schedule.schedule_type === 'on_change' ? '' : ` · ${schedule.timezone}`}</Text>
        {schedule.paused_code ? <Text size="sm" c="var(--warn)">{t('sync.list.paused')}</Text> : null}
      </Cell>
      <Cell label={t('sync.list.next')}>
        {!schedule.enabled ? <Badge tone="calm">{t('sync.list.disabled')}</Badge> : schedule.next_run_at ? <When at={schedule.next_run_at} /> : t('common.none')}
      </Cell>
      <Cell label={t('sync.list.last')}>
        {last ? <Group gap={8} component="span"><Anchor component={Link} to={`/runs/${last.run_id}`} className="quiet"><StateBadge state={last.state} /></Anchor>{schedule.last_run_at ? <When at={schedule.last_run_at} /> : null}</Group> : t('sync.list.notYet')}
      </Cell>
      <Cell end><ScheduleActions schedule={schedule} ask={ask} acts={acts} /></Cell>
      {asked === 'edit' ? <EditSchedule schedule={schedule} onClose={() => ask(undefined)} /> : null}
      <Confirm
        opened={asked === 'delete'} onClose={() => { ask(undefined); acts.removing.reset() }} title={t('sync.list.deleteTitle')} text={t('sync.list.deleteText', { rule: words(schedule), device: schedule.device_name })}
        confirm={t('common.delete')} busy={acts.removing.isPending} error={acts.removing.error} onConfirm={acts.remove}
      />
    </Row>
  )
}

export function Schedules() {
  const { t } = useTranslation()
  const list = useInfiniteQuery({
    ...listSchedulesInfiniteOptions(), initialPageParam: {}, getNextPageParam: (page) => page.next_cursor ?? undefined, refetchInterval: 2_000,
  })
  const schedules = list.data?.pages.flatMap((page) => page.schedules) ?? []
  return (
    <Block title={t('sync.list.title')} lead={<>{t('sync.list.lead')} {t('common.times', { zone: userZone })}</>} icon={IconCalendarClock}>
      <Listed
        query={list} items={schedules} label={t('sync.list.title')}
        empty={<Empty icon={IconCalendarClock} title={t('sync.list.empty')} hint={t('sync.list.emptyHint')} />}
      >
        {(schedule) => <ScheduleRow key={schedule.schedule_id} schedule={schedule} />}
      </Listed>
    </Block>
  )
}
