//! Periodic jobs: when each was last and will next be due, and starting one beside its rhythm.
import { Button, Text } from '@mantine/core'
import { IconCalendarRepeat, IconPlayerPlay } from '@tabler/icons-react'
import { useMutation, useQuery } from '@tanstack/react-query'
import { useTranslation } from 'react-i18next'
import type { Cron } from '../../api/generated'
import { listCronsOptions, runCronMutation } from '../../api/generated/@tanstack/react-query.gen'
import { useCodes } from '../../i18n/codes'
import { Listed } from '../../parts/listed'
import { Block } from '../../parts/page'
import { Cell, Row } from '../../parts/rows'
import { Empty } from '../../parts/states'
import { tell } from '../../parts/tell'
import { When } from '../../parts/when'
import { RHYTHM, useRefresh, useTellFailure } from './live'

function CronRow({ cron }: { cron: Cron }) {
  const { t } = useTranslation()
  const words = useCodes('jobs.cron')
  const refresh = useRefresh()
  const onError = useTellFailure()
  const name = words(cron.name) ?? cron.name
  // One that only another version knows is told in its words.
  const said = cron.every ? t(`jobs.crons.${cron.every}`, { time: cron.time_of_day ?? '', zone: cron.timezone ?? '' }) : cron.rule
  const running = useMutation({ ...runCronMutation(), onSuccess: () => { tell(t('jobs.crons.started', { name })); return refresh() }, onError })
  return (
    <Row columns="minmax(0, 5fr) minmax(0, 3fr) minmax(0, 3fr) minmax(130px, auto)">
      <Cell>
        <Text fw={600} size="sm">{name}</Text>
        <Text size="sm" c="dimmed"><span className="mono">{cron.name}</span>, {said}</Text>
      </Cell>
      <Cell label={t('jobs.crons.last')}>{cron.last_run ? <When at={cron.last_run} /> : t('jobs.crons.never')}</Cell>
      <Cell label={t('jobs.crons.next')}>{cron.next_tick ? <When at={cron.next_tick} /> : t('common.none')}</Cell>
      <Cell end>
        <Button size="xs" variant="default" leftSection={<IconPlayerPlay size={14} aria-hidden />} aria-label={t('jobs.crons.runOf', { name })} loading={running.isPending} onClick={() => running.mutate({ path: { name: cron.name } })}>
          {t('jobs.crons.run')}
        </Button>
      </Cell>
    </Row>
  )
}

export function Crons() {
  const { t } = useTranslation()
  const list = useQuery({ ...listCronsOptions(), refetchInterval: RHYTHM })
  return (
    <Block title={t('jobs.crons.title')} lead={t('jobs.crons.lead')} icon={IconCalendarRepeat}>
      <Listed
        query={list} items={list.data ?? []} label={t('jobs.crons.title')} loading={2}
        empty={<Empty icon={IconCalendarRepeat} title={t('jobs.crons.empty')} hint={t('jobs.crons.emptyHint')} />}
      >
        {(cron) => <CronRow key={cron.name} cron={cron} />}
      </Listed>
    </Block>
  )
}
