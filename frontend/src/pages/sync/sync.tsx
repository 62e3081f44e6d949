//! The four blocks of syncing, in the order in which a newcomer needs them.
import { useTranslation } from 'react-i18next'
import { Page } from '../../parts/page'
import { CreateSchedule } from './create-schedule'
import { Limits } from './limits'
import { Register } from './register'
import { Schedules } from './schedules'
import classes from './sync.module.css'

export function Sync() {
  const { t } = useTranslation()
  return (
    <Page title={t('sync.title')} name={t('nav.sync')} lead={t('sync.lead')}>
      <div className={classes.blocks}>
        <Register />
        <CreateSchedule />
        <Limits />
        <Schedules />
      </div>
    </Page>
  )
}
