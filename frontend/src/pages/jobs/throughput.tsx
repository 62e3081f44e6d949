//! How much was done in each minute of the last hour, as bars, with the sums beside them for those who don't see them.
import { IconChartBar } from '@tabler/icons-react'
import { useQuery } from '@tanstack/react-query'
import { useTranslation } from 'react-i18next'
import { getJobStatsOptions } from '../../api/generated/@tanstack/react-query.gen'
import { span } from '../../format/time'
import { Block } from '../../parts/page'
import { Failed, Loading } from '../../parts/states'
import { useNow } from '../../parts/when'
import classes from './jobs.module.css'
import { RHYTHM } from './live'
import { lastHour, SHOWN, type Hour } from './minutes'

/** Units of the drawing: a bar is a unit wide. */
const HEIGHT = 20

function Bars({ hour }: { hour: Hour }) {
  const { t, i18n } = useTranslation()
  const number = new Intl.NumberFormat(i18n.language)
  const clock = new Intl.DateTimeFormat(i18n.language, { hour: '2-digit', minute: '2-digit', hourCycle: 'h23' })
  const tall = (value: number) => (value === 0 ? 0 : Math.max((value / Math.max(hour.most, 1)) * HEIGHT, 0.6))
  return (
    <div className={classes.chart}>
      <svg viewBox={`0 0 ${SHOWN} ${HEIGHT}`} preserveAspectRatio="none" role="img" aria-label={t('jobs.throughput.chart', { done: number.format(hour.done), failed: number.format(hour.failed) })}>
        {hour.minutes.map(({ at, done, failed }, place) => {
          const [top, bottom] = [tall(done), tall(failed)]
          return (
            <g key={at}>
              <title>{t('jobs.throughput.minute', { time: clock.format(at), done: number.format(done), failed: number.format(failed) })}</title>
              <rect className={classes.ground} x={place + 0.12} y={0} width={0.76} height={HEIGHT} />
              {done > 0 ? <rect className={classes.done} x={place + 0.12} y={HEIGHT - bottom - top} width={0.76} height={top} /> : null}
              {failed > 0 ? <rect className={classes.failed} x={place + 0.12} y={HEIGHT - bottom} width={0.76} height={bottom} /> : null}
            </g>
          )
        })}
      </svg>
      <div className={classes.axis} aria-hidden><span>{t('jobs.throughput.ago')}</span><span>{t('jobs.throughput.perMinute', { count: number.format(hour.most) as unknown as number })}</span><span>{t('jobs.throughput.now')}</span></div>
    </div>
  )
}

export function Throughput() {
  const { t, i18n } = useTranslation()
  const now = useNow(10_000)
  const stats = useQuery({ ...getJobStatsOptions({ query: { hours: 1 } }), refetchInterval: RHYTHM })
  const hour = stats.data ? lastHour(stats.data, now.getTime()) : undefined
  const number = new Intl.NumberFormat(i18n.language)
  const length = (value: number | undefined) => (value === undefined ? t('common.none') : span(value, i18n.language))
  return (
    <Block title={t('jobs.throughput.title')} icon={IconChartBar}>
      {stats.error && !stats.data ? <Failed error={stats.error} title={t('failure.load')} retry={() => void stats.refetch()} /> : null}
      {stats.isPending ? <Loading rows={2} /> : null}
      {hour ? (
        <>
          <dl className={classes.sums}>
            <div data-key="done"><dt>{t('jobs.throughput.done')}</dt><dd>{number.format(hour.done)}</dd></div>
            <div data-key="failed"><dt>{t('jobs.throughput.failed')}</dt><dd>{number.format(hour.failed)}</dd></div>
            <div><dt>{t('jobs.throughput.dead')}</dt><dd>{number.format(hour.dead)}</dd></div>
            <div><dt>{t('jobs.throughput.run')}</dt><dd>{length(hour.run)}</dd></div>
            <div><dt>{t('jobs.throughput.wait')}</dt><dd>{length(hour.wait)}</dd></div>
          </dl>
          <Bars hour={hour} />
        </>
      ) : null}
    </Block>
  )
}
