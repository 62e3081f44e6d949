//! A dialog with a form: fields, what was wrong with them, save or leave.
import { Button, Group, Modal, Stack } from '@mantine/core'
import type { FormEvent, ReactNode } from 'react'
import { useTranslation } from 'react-i18next'
import type { Failure } from '../api/failure'
import { Failed } from './states'

interface EditProps { title: string; wide?: boolean; busy: boolean; /** One that no field shows. */ failure: Failure | undefined; onSave: () => void; onClose: () => void; children: ReactNode }

export function Edit({ title, wide = false, busy, failure, onSave, onClose, children }: EditProps) {
  const { t } = useTranslation()
  const submit = (event: FormEvent) => {
    event.preventDefault()
    onSave()
  }
  return (
    <Modal opened onClose={onClose} title={title} {...(wide ? { size: 'lg' } : { centered: true })} closeButtonProps={{ 'aria-label': t('common.close') }}>
      <form onSubmit={submit}>
        <Stack>
          {children}
          {failure ? <Failed error={failure} /> : null}
          <Group justify="flex-end">
            <Button variant="default" onClick={onClose}>{t('common.cancel')}</Button>
            <Button type="submit" loading={busy}>{t('common.save')}</Button>
          </Group>
        </Stack>
      </form>
    </Modal>
  )
}
