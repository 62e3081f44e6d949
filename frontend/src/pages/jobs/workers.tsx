//! Processes that do the jobs, each with its lease: when that is over, its jobs go to others.
import { Group, Text } from '@mantine/core'
import { IconServer } from '@tabler/icons-react'
import { useQuery } from '@tanstack/react-query'
import { useTranslation } from 'react-i18next'
import type { Worker } from '../../api/generated'
import { listWorkersOptions } from '../../api/generated/@tanstack/react-query.gen'
import { Badge } from '../../parts/badge'
import { Listed } from '../../parts/listed'
import { Block } from '../../parts/page'
import { Cell, Row } from '../../parts/rows'
import { Empty } from '../../parts/states'
import { When } from '../../parts/when'
import { RHYTHM } from './live'

function WorkerRow({ worker }: { worker: Worker }) {
  const { t } = useTranslation()
  return (
    <Row columns="minmax(0, 5fr) minmax(0, 4fr) minmax(0, 1.5fr) minmax(0, 2.5fr) minmax(0, 2.5fr)">
      <Cell>
        <Group gap={8}><Text fw={600} size="sm" component="span">{worker.name}</Text><Badge tone={worker.alive ? 'good' : 'bad'}>{t(worker.alive ? 'jobs.workers.alive' : 'jobs.workers.lost')}</Badge></Group>
        <Text size="sm" c="dimmed">{t('jobs.workers.process', { pid: worker.pid, host: worker.host })}</Text>
      </Cell>
      <Cell label={t('jobs.workers.serves')}>{worker.queues.length > 0 ? worker.queues.join(', ') : t('jobs.workers.servesNone')}</Cell>
      <Cell label={t('jobs.workers.running')}><span className="numbers">{worker.running}</span></Cell>
      <Cell label={t('jobs.workers.started')}><When at={worker.started_at} /></Cell>
      <Cell label={t('jobs.workers.lease')}><When at={worker.lease_until} /></Cell>
    </Row>
  )
}

export function WorkerList() {
  const { t } = useTranslation()
  const list = useQuery({ ...listWorkersOptions(), refetchInterval: RHYTHM })
  return (
    <Block title={t('jobs.workers.title')} lead={t('jobs.workers.lead')} icon={IconServer}>
      <Listed
        query={list} items={list.data ?? []} label={t('jobs.workers.title')} loading={1}
        empty={<Empty icon={IconServer} title={t('jobs.workers.empty')} hint={t('jobs.workers.emptyHint')} />}
      >
        {(worker) => <WorkerRow key={worker.name} worker={worker} />}
      </Listed>
    </Block>
  )
}
