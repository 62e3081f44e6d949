//! Short word that something was done, or was not. Read out by screen readers, gone by itself.
import { notifications } from '@mantine/notifications'
import { IconAlertTriangle, IconCheck } from '@tabler/icons-react'
import i18next from 'i18next'
import type { ReactNode } from 'react'

const close = () => ({ closeButtonProps: { 'aria-label': i18next.t('common.close') } })

export function tell(message: ReactNode): void {
  notifications.show({ message, color: 'tide', icon: <IconCheck size={18} aria-hidden />, withBorder: true, ...close() })
}

export function tellFailure(message: ReactNode): void {
  notifications.show({ message, color: 'red.8', icon: <IconAlertTriangle size={18} aria-hidden />, withBorder: true, autoClose: 12_000, role: 'alert', ...close() })
}
