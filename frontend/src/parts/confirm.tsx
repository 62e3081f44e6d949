//! Asks before what can't be taken back.
import { Button, Group, Modal, Text } from '@mantine/core'
import type { ReactNode } from 'react'
import { useTranslation } from 'react-i18next'
import { Failed } from './states'

interface ConfirmProps { opened: boolean; title: string; text: ReactNode; confirm: string; refuse?: string; danger?: boolean; busy: boolean; error: unknown; onConfirm: () => void; onClose: () => void }

export function Confirm({ opened, title, text, confirm, refuse, danger = true, busy, error, onConfirm, onClose }: ConfirmProps) {
  const { t } = useTranslation()
  return (
    <Modal opened={opened} onClose={onClose} title={title} centered closeButtonProps={{ 'aria-label': t('common.close') }}>
      <Text mb="md">{text}</Text>
      {error ? <Failed error={error} /> : null}
      <Group justify="flex-end" mt="lg">
        <Button variant="default" onClick={onClose} data-autofocus>{refuse ?? t('common.cancel')}</Button>
        <Button {...(danger ? { color: 'red.9' } : {})} loading={busy} onClick={onConfirm}>{confirm}</Button>
      </Group>
    </Modal>
  )
}
