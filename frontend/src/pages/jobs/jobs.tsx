//! The queue for administrators, live: depth, throughput, jobs with their errors, periodic jobs and workers.
import { Button } from '@mantine/core'
import { IconLock } from '@tabler/icons-react'
import { useTranslation } from 'react-i18next'
import { Link } from 'react-router'
import { useSession } from '../../api/use-session'
import { userZone } from '../../format/time'
import { Page } from '../../parts/page'
import { Empty } from '../../parts/states'
import { Crons } from './crons'
import { JobList } from './list'
import { Queues } from './queues'
import { Throughput } from './throughput'
import { WorkerList } from './workers'

export function Jobs() {
  const { t } = useTranslation()
  const session = useSession()
  if (session.state !== 'in' || !session.user.is_admin) {
    return <Empty heading icon={IconLock} title={t('jobs.refused')} hint={t('jobs.refusedHint')} action={<Button component={Link} to="/runs">{t('jobs.toRuns')}</Button>} />
  }
  return (
    <Page title={t('jobs.title')} name={t('nav.jobs')} lead={<>{t('jobs.lead')} {t('common.times', { zone: userZone })}</>}>
      <Queues />
      <Throughput />
      <JobList />
      <Crons />
      <WorkerList />
    </Page>
  )
}
