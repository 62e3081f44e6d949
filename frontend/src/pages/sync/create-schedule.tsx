//! Block 2: a device, a rule, and the dates that come of it before anything is saved.
import { Button, Select, Stack } from '@mantine/core'
import { IconCalendarPlus } from '@tabler/icons-react'
import { useMutation, useQuery, useQueryClient } from '@tanstack/react-query'
import { useState, type FormEvent } from 'react'
import { useTranslation } from 'react-i18next'
import { toFailure } from '../../api/failure'
import { createScheduleMutation, listDevicesOptions, listSchedulesQueryKey } from '../../api/generated/@tanstack/react-query.gen'
import { relative } from '../../format/time'
import { useFieldError } from '../../parts/field-error'
import { Block } from '../../parts/page'
import { Failed } from '../../parts/states'
import { tell } from '../../parts/tell'
import { MOST } from '../../api/paging'
import { newDraft, toCreate } from './draft'
import { Preview } from './preview'
import { RULE_FIELDS, RuleFields } from './rule-fields'

export function CreateSchedule() {
  const { t, i18n } = useTranslation()
  const queries = useQueryClient()
  const devices = useQuery({ ...listDevicesOptions({ query: { limit: MOST } }), refetchInterval: 2_000 })
  const [picked, setPicked] = useState<string | null>(null)
  const [draft, setDraft] = useState(newDraft)
  const creating = useMutation({
    ...createScheduleMutation(),
    onSuccess: (made) => {
      const when = made.next_run_at ? relative(new Date(made.next_run_at), new Date(), i18n.language) : t('common.none')
      tell(t('sync.create.done', { when }))
      return queries.invalidateQueries({ queryKey: listSchedulesQueryKey() })
    },
  })
  const known = devices.data?.devices ?? []
  const device = known.some(({ device_id }) => device_id === picked) ? picked : null
  // The only one there is chooses itself, and stays chosen when others come.
  const [only] = known
  if (device === null && only && known.length === 1) setPicked(only.device_id)
  const failure = creating.error ? toFailure(creating.error) : undefined
  const fieldError = useFieldError(failure)
  const submit = (event: FormEvent) => {
    event.preventDefault()
    if (device !== null) creating.mutate({ body: toCreate(device, draft) })
  }
  const none = devices.data !== undefined && known.length === 0
  return (
    <Block title={t('sync.create.title')} lead={t('sync.create.lead')} icon={IconCalendarPlus}>
      <form onSubmit={submit}>
        <Stack>
          <Select
            label={t('sync.create.device')} placeholder={none ? t('sync.create.noDevice') : t('sync.create.devicePick')} searchable={known.length > 8} required withAsterisk={false} allowDeselect={false} disabled={none} value={device} onChange={setPicked}
            data={known.map(({ device_id, device_name }) => ({ value: device_id, label: device_name === device_id ? device_id : `${device_name} (${device_id})` }))} error={fieldError('device_id')}
          />
          <RuleFields draft={draft} onChange={(part) => setDraft((old) => ({ ...old, ...part }))} failure={failure} />
          <Preview draft={draft} />
          {failure && !['device_id', ...RULE_FIELDS].includes(failure.field ?? '') ? <Failed error={failure} /> : null}
          <Button type="submit" disabled={device === null} loading={creating.isPending}>{t('sync.create.submit')}</Button>
        </Stack>
      </form>
    </Block>
  )
}
