//! A schedule's rule in one line of words.
import { useTranslation } from 'react-i18next'
import type { Schedule } from '../../api/generated'
import { weekdays } from '../../format/time'

type Rule = Pick<Schedule, 'schedule_type' | 'time_of_day' | 'day_of_week' | 'day_of_month'>

export function useRuleWords(): (rule: Rule) => string {
  const { t, i18n } = useTranslation()
  return ({ schedule_type, time_of_day, day_of_week, day_of_month }) => {
    const time = time_of_day.slice(0, 5)
    switch (schedule_type) {
      case 'daily': return t('sync.rule.daily', { time })
      case 'weekly': return t('sync.rule.weekly', { time, day: weekdays(i18n.language)[day_of_week] ?? '' })
      case 'monthly': return t('sync.rule.monthly', { time, day: day_of_month })
      case 'on_change': return t('sync.rule.on_change')
    }
  }
}
