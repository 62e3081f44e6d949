//! Block 1: a computer by its id, or a folder that the server reaches by itself.
import { Button, Collapse, SegmentedControl, Stack, TextInput } from '@mantine/core'
import { useDisclosure } from '@mantine/hooks'
import { IconDeviceLaptop } from '@tabler/icons-react'
import { useMutation, useQueryClient } from '@tanstack/react-query'
import { useState, type FormEvent } from 'react'
import { useTranslation } from 'react-i18next'
import { toFailure } from '../../api/failure'
import type { DeviceKind, RegisterDevice } from '../../api/generated'
import { listDevicesQueryKey, registerDeviceMutation } from '../../api/generated/@tanstack/react-query.gen'
import { useFieldError } from '../../parts/field-error'
import { Block } from '../../parts/page'
import { Failed } from '../../parts/states'
import { tell } from '../../parts/tell'
import { MoreOptions } from './more-options'

/** What the server calls the folder, depending on what is wrong with it. */
const FOLDER = ['remote.path', 'path', 'remote']
/** Fields that show their own error; any other goes to the form's foot. */
const FIELDS = ['device_id', 'device_name', ...FOLDER, 'base_path']
const EMPTY = { id: '', name: '', path: '', base: '' }

export function Register() {
  const { t } = useTranslation()
  const queries = useQueryClient()
  const [kind, setKind] = useState<DeviceKind>('client')
  const [draft, setDraft] = useState(EMPTY)
  const [open, more] = useDisclosure(false)
  const registering = useMutation({
    ...registerDeviceMutation(),
    onSuccess: (made) => {
      const words = made.status === 'registered' ? 'sync.register.done' : 'sync.register.already'
      tell(t(words, { name: made.device_name }))
      setDraft(EMPTY)
      return queries.invalidateQueries({ queryKey: listDevicesQueryKey() })
    },
  })
  const failure = registering.error ? toFailure(registering.error) : undefined
  const fieldError = useFieldError(failure)
  const field = (name: keyof typeof EMPTY) => ({
    value: draft[name],
    onChange: (event: { currentTarget: { value: string } }) => { const { value } = event.currentTarget; setDraft((old) => ({ ...old, [name]: value })) },
  })
  const submit = (event: FormEvent) => {
    event.preventDefault()
    const body: RegisterDevice = { device_id: draft.id.trim(), kind }
    if (draft.name.trim()) body.device_name = draft.name.trim()
    if (draft.base.trim()) body.base_path = draft.base.trim()
    if (kind === 'remote') body.remote = { type: 'folder', path: draft.path.trim() }
    registering.mutate({ body })
  }
  return (
    <Block title={t('sync.register.title')} lead={t('sync.register.lead')} icon={IconDeviceLaptop}>
      <form onSubmit={submit}>
        <Stack>
          <SegmentedControl
            aria-label={t('sync.register.kind')} fullWidth value={kind} onChange={(value) => setKind(value as DeviceKind)}
            data={[{ value: 'client', label: t('sync.register.client') }, { value: 'remote', label: t('sync.register.remote') }]}
          />
          <TextInput label={t('sync.register.id')} description={t('sync.register.idHint')} required withAsterisk={false} maxLength={255} autoComplete="off" spellCheck={false} {...field('id')} error={fieldError('device_id')} />
          <TextInput label={t('sync.register.name')} description={t('sync.register.nameHint')} maxLength={255} autoComplete="off" {...field('name')} error={fieldError('device_name')} />
          {kind === 'remote' ? (
            <TextInput label={t('sync.register.path')} description={t('sync.register.pathHint')} placeholder="/srv/files/anna" required withAsterisk={false} autoComplete="off" spellCheck={false} {...field('path')} error={fieldError(...FOLDER)} />
          ) : null}
          <MoreOptions open={open} toggle={more.toggle} label={t('sync.register.more')} />
          <Collapse expanded={open || fieldError('base_path') !== undefined}>
            <TextInput label={t('sync.register.base')} description={t('sync.register.baseHint')} placeholder="/" autoComplete="off" spellCheck={false} {...field('base')} error={fieldError('base_path')} />
          </Collapse>
          {failure && !FIELDS.includes(failure.field ?? '') ? <Failed error={failure} /> : null}
          <Button type="submit" loading={registering.isPending}>{t('sync.register.submit')}</Button>
        </Stack>
      </form>
    </Block>
  )
}
