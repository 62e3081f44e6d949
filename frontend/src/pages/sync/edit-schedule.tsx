//! Changes a schedule in place; the same fields and the same preview as when it was created.
import { useMutation, useQueryClient } from '@tanstack/react-query'
import { useState } from 'react'
import { useTranslation } from 'react-i18next'
import { toFailure } from '../../api/failure'
import type { Schedule } from '../../api/generated'
import { listSchedulesQueryKey, patchScheduleMutation } from '../../api/generated/@tanstack/react-query.gen'
import { Edit } from '../../parts/edit'
import { tell } from '../../parts/tell'
import { draftOf } from './draft'
import { Preview } from './preview'
import { RULE_FIELDS, RuleFields } from './rule-fields'

export function EditSchedule({ schedule, onClose }: { schedule: Schedule; onClose: () => void }) {
  const { t } = useTranslation()
  const queries = useQueryClient()
  const [draft, setDraft] = useState(() => draftOf(schedule))
  const saving = useMutation({
    ...patchScheduleMutation(),
    onSuccess: async () => {
      await queries.invalidateQueries({ queryKey: listSchedulesQueryKey() })
      tell(t('sync.list.changed'))
      onClose()
    },
  })
  const failure = saving.error ? toFailure(saving.error) : undefined
  return (
    <Edit
      title={`${t('sync.list.editTitle')}: ${schedule.device_name}`} wide busy={saving.isPending} onClose={onClose} failure={RULE_FIELDS.includes(failure?.field ?? '') ? undefined : failure}
      onSave={() => saving.mutate({ path: { schedule_id: schedule.schedule_id }, body: draft })}
    >
      <RuleFields draft={draft} onChange={(part) => setDraft((old) => ({ ...old, ...part }))} failure={failure} />
      <Preview draft={draft} />
    </Edit>
  )
}
