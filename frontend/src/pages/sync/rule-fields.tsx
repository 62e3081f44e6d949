//! The fields of a schedule, for creating and editing alike.
import { Collapse, NumberInput, SegmentedControl, Select, Switch, TextInput, Input } from '@mantine/core'
import { useDisclosure } from '@mantine/hooks'
import { useMemo, type ReactNode } from 'react'
import { useTranslation } from 'react-i18next'
import type { Failure } from '../../api/failure'
import { weekdays, zones } from '../../format/time'
import { useFieldError } from '../../parts/field-error'
import { DIRECTIONS, MISSED, OVERLAPS, POLICIES, TYPES, type Draft } from './draft'
import { MoreOptions } from './more-options'
import classes from './sync.module.css'

interface FieldsProps { draft: Draft; onChange: (part: Partial<Draft>) => void; failure: Failure | undefined }

/** Fields that show their own error; any other goes to the form's foot. */
export const RULE_FIELDS = ['schedule_type', 'time_of_day', 'day_of_week', 'day_of_month', 'timezone', 'resolve_conflicts', 'direction', 'missed_run', 'overlap', 'jitter_seconds']

function Day({ draft, onChange, failure }: FieldsProps): ReactNode {
  const { t, i18n } = useTranslation()
  const fieldError = useFieldError(failure)
  if (draft.schedule_type === 'weekly') {
    return (
      <Select
        label={t('sync.create.weekday')} allowDeselect={false} value={String(draft.day_of_week)} onChange={(day) => onChange({ day_of_week: Number(day) })}
        data={weekdays(i18n.language).map((label, day) => ({ value: String(day), label }))} error={fieldError('day_of_week')}
      />
    )
  }
  if (draft.schedule_type !== 'monthly') return null
  return (
    <NumberInput
      label={t('sync.create.monthday')} description={t('sync.create.monthdayHint')} inputWrapperOrder={['label', 'input', 'description', 'error']} min={1} max={31} allowDecimal={false} allowNegative={false} clampBehavior="strict"
      value={draft.day_of_month} onChange={(day) => { if (typeof day === 'number') onChange({ day_of_month: day }) }} error={fieldError('day_of_month')}
    />
  )
}

function Rare({ draft, onChange, failure }: FieldsProps) {
  const { t } = useTranslation()
  const fieldError = useFieldError(failure)
  return (
    <div className={classes.rule}>
      <Select label={t('sync.create.direction')} allowDeselect={false} value={draft.direction} onChange={(direction) => { if (direction) onChange({ direction }) }} data={DIRECTIONS.map((value) => ({ value, label: t(`sync.direction.${value}`) }))} error={fieldError('direction')} />
      <Select label={t('sync.create.missed')} allowDeselect={false} value={draft.missed_run} onChange={(missed_run) => { if (missed_run) onChange({ missed_run }) }} data={MISSED.map((value) => ({ value, label: t(`sync.missed.${value}`) }))} error={fieldError('missed_run')} />
      <Select label={t('sync.create.overlap')} allowDeselect={false} value={draft.overlap} onChange={(overlap) => { if (overlap) onChange({ overlap }) }} data={OVERLAPS.map((value) => ({ value, label: t(`sync.overlap.${value}`) }))} error={fieldError('overlap')} />
      <NumberInput label={t('sync.create.jitter')} description={t('sync.create.jitterHint')} inputWrapperOrder={['label', 'input', 'description', 'error']} min={0} max={3600} allowDecimal={false} allowNegative={false} clampBehavior="strict" value={draft.jitter_seconds} onChange={(seconds) => onChange({ jitter_seconds: Number(seconds) })} error={fieldError('jitter_seconds')} />
    </div>
  )
}

export function RuleFields({ draft, onChange, failure }: FieldsProps) {
  const { t } = useTranslation()
  const fieldError = useFieldError(failure)
  const [open, more] = useDisclosure(false)
  const allZones = useMemo(zones, [])
  return (
    <>
      <Input.Wrapper label={t('sync.create.type')} labelElement="div" error={fieldError('schedule_type')}>
        <SegmentedControl aria-label={t('sync.create.type')} fullWidth mt={4} value={draft.schedule_type} onChange={(schedule_type) => onChange({ schedule_type })} data={TYPES.map((value) => ({ value, label: t(`sync.type.${value}`) }))} />
      </Input.Wrapper>
      <div className={classes.rule}>
        <Day draft={draft} onChange={onChange} failure={failure} />
        <TextInput type="time" label={t('sync.create.time')} required withAsterisk={false} value={draft.time_of_day} onChange={(event) => onChange({ time_of_day: event.currentTarget.value })} error={fieldError('time_of_day')} />
        <Select label={t('sync.create.zone')} searchable allowDeselect={false} limit={60} nothingFoundMessage={t('sync.create.zoneNone')} value={draft.timezone} onChange={(timezone) => { if (timezone) onChange({ timezone }) }} data={allZones.includes(draft.timezone) ? allZones : [draft.timezone, ...allZones]} error={fieldError('timezone')} />
        <Select label={t('sync.create.conflicts')} allowDeselect={false} value={draft.resolve_conflicts} onChange={(resolve_conflicts) => { if (resolve_conflicts) onChange({ resolve_conflicts }) }} data={POLICIES.map((value) => ({ value, label: t(`sync.policy.${value}`) }))} error={fieldError('resolve_conflicts')} />
      </div>
      <Switch label={t('sync.create.deletions')} description={t('sync.create.deletionsHint')} checked={draft.sync_deletions} onChange={(event) => onChange({ sync_deletions: event.currentTarget.checked })} />
      <MoreOptions open={open} toggle={more.toggle} label={t('sync.create.more')} />
      <Collapse expanded={open}><Rare draft={draft} onChange={onChange} failure={failure} /></Collapse>
    </>
  )
}
