//! The switch that shows a form's seldom-needed part.
import { UnstyledButton } from '@mantine/core'
import { IconChevronDown, IconChevronRight } from '@tabler/icons-react'
import classes from './sync.module.css'

export function MoreOptions({ open, toggle, label }: { open: boolean; toggle: () => void; label: string }) {
  const Chevron = open ? IconChevronDown : IconChevronRight
  return (
    <UnstyledButton className={classes.toggle} c="dimmed" onClick={toggle} aria-expanded={open} type="button">
      <Chevron size={16} aria-hidden />{label}
    </UnstyledButton>
  )
}
