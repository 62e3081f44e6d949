//! A framed word to the reader: what went wrong, what to watch for, what this is.
import { Text } from '@mantine/core'
import type { Icon } from '@tabler/icons-react'
import type { ReactNode } from 'react'
import classes from './notice.module.css'

interface NoticeProps { tone: 'bad' | 'warn' | 'busy'; icon: Icon; title?: string; alert?: boolean; children: ReactNode }

/** `alert`: read out at once. */
export function Notice({ tone, icon: NoticeIcon, title, alert = false, children }: NoticeProps) {
  return (
    <div className={classes.notice} data-tone={tone} role={alert ? 'alert' : 'note'}>
      <NoticeIcon size={20} stroke={1.8} aria-hidden />
      <div className={classes.words}>
        {title ? <Text fw={650} size="sm">{title}</Text> : null}
        <Text size="sm" component="div">{children}</Text>
      </div>
    </div>
  )
}
