//! Words for codes that come from the server. It may know codes that the catalogue does not: those have no words.
import { useTranslation } from 'react-i18next'

type Under = 'problems' | 'run.reason' | 'run.action' | 'run.side' | 'run.kept' | 'run.count' | 'jobs.cron'

/** "file.link" below "run.reason" -> "Symbolic link". */
export function useCodes(under: Under): (code: string) => string | undefined {
  const { t, i18n } = useTranslation()
  return (code) => {
    const key = `${under}.${code}`
    return typeof i18n.getResource('en', 'translation', key) === 'string' ? (t as (key: string) => string)(key) : undefined
  }
}
