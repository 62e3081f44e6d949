//! Changes a schedule in place; the same fields and the same preview as when it was created.
import { Button, Group, Modal, Stack } from '@mantine/core'
import { useMutation, useQueryClient } from '@tanstack/react-query'
import { useState, type FormEvent } from 'react'
import { useTranslation } from 'react-i18next'
import { toFailure } from '../../api/failure'
import type { Schedule } from '../../api/generated'
import { listSchedulesQueryKey, patchScheduleMutation } from '../../api/generated/@tanstack/react-query.gen'
import { Failed } from '../../parts/states'
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
  const submit = (event: FormEvent) => {
    event.preventDefault()
    saving.mutate({ path: { schedule_id: schedule.schedule_id }, body: draft })
  }
  return (
    <Modal opened onClose={onClose} size="lg" title={`${t('sync.list.editTitle')}: ${schedule.device_name}`} closeButtonProps={{ 'aria-label': t('common.close') }}>
      <form onSubmit={submit}>
        <Stack>
          <RuleFields draft={draft} onChange={(part) => setDraft((old) => ({ ...old, ...part }))} failure={failure} />
          <Preview draft={draft} />
          {failure && !RULE_FIELDS.includes(failure.field ?? '') ? <Failed error={failure} /> : null}
          <Group justify="flex-end">
            <Button variant="default" onClick={onClose}>{t('common.cancel')}</Button>
            <Button type="submit" loading={saving.isPending}>{t('common.save')}</Button>
          </Group>
        </Stack>
      </form>
    </Modal>
  )
}
