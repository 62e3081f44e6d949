//! How far a run has come. The rate is that of the last few seconds, from what the run reported.
import { Progress } from '@mantine/core'
import { IconProgress } from '@tabler/icons-react'
import { useEffect, useState } from 'react'
import { useTranslation } from 'react-i18next'
import type { Run } from '../../api/generated'
import { bytes } from '../../format/rate'
import { duration } from '../../format/time'
import { Block } from '../../parts/page'
import { useNow } from '../../parts/when'
import classes from './runs.module.css'

interface Sample { at: number; done: number }
const WINDOW = 6_000

/** Bytes per second over the last samples; undefined until two differ in time. */
function useRate(done: number | undefined): number | undefined {
  const [samples, setSamples] = useState<readonly Sample[]>([])
  useEffect(() => {
    if (done === undefined) return
    const at = Date.now()
    setSamples((old) => [...old.filter((sample) => at - sample.at < WINDOW && sample.done <= done), { at, done }])
  }, [done])
  const [first, last] = [samples.at(0), samples.at(-1)]
  return first && last && last.at > first.at ? ((last.done - first.done) * 1000) / (last.at - first.at) : undefined
}

export function Progressing({ run }: { run: Run }) {
  const { t, i18n } = useTranslation()
  const now = useNow()
  const { progress } = run
  const rate = useRate(progress?.bytes_done)
  const number = new Intl.NumberFormat(i18n.language)
  const share = !progress ? 0 : progress.bytes_total > 0 ? progress.bytes_done / progress.bytes_total : progress.files_total > 0 ? progress.files_done / progress.files_total : 0
  const percent = Math.min(100, Math.round(share * 100))
  return (
    <Block title={t('run.progress')} icon={IconProgress}>
      <Progress.Root size="lg">
        <Progress.Section value={progress && progress.files_total > 0 ? percent : 100} animated={!progress || progress.files_total === 0} aria-label={t('run.progress')} />
      </Progress.Root>
      <div className={classes.moving}>
        {progress && progress.files_total > 0 ? (
          <>
            <strong>{percent} %</strong>
            <span>{t('run.files', { done: number.format(progress.files_done), total: number.format(progress.files_total) })}</span>
            <span>{t('run.bytes', { done: bytes(progress.bytes_done, i18n.language), total: bytes(progress.bytes_total, i18n.language) })}</span>
            {rate !== undefined && rate > 0 ? <span>{bytes(rate, i18n.language)}/s</span> : null}
          </>
        ) : <span>{t('run.scanning')}</span>}
        {run.started_at ? <span>{duration(now.getTime() - Date.parse(run.started_at))}</span> : null}
      </div>
    </Block>
  )
}
