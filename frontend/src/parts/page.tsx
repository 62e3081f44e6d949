//! A page's head and its blocks.
import { Title, Text } from '@mantine/core'
import type { Icon } from '@tabler/icons-react'
import { useEffect, useId, type ReactNode } from 'react'
import classes from './page.module.css'

interface PageProps { title: ReactNode; name: string; lead?: ReactNode; actions?: ReactNode; children: ReactNode }

/** `name` goes into the browser's title. */
export function Page({ title, name, lead, actions, children }: PageProps) {
  useEffect(() => { document.title = `${name} · Driftless` }, [name])
  return (
    <div className={classes.page}>
      <div className={classes.head}>
        <div className={classes.words}>
          <Title order={1}>{title}</Title>
          {lead ? <Text c="dimmed" mt={4} component="div">{lead}</Text> : null}
        </div>
        {actions}
      </div>
      {children}
    </div>
  )
}

interface BlockProps { title: string; lead?: ReactNode; icon?: Icon; actions?: ReactNode; hideHead?: boolean; children: ReactNode }

/** A card with a heading; a landmark of its own. `hideHead`: the page's own title says it already. */
export function Block({ title, lead, icon: BlockIcon, actions, hideHead = false, children }: BlockProps) {
  const id = useId()
  if (hideHead) return <section aria-label={title} className={classes.block}>{children}</section>
  return (
    <section aria-labelledby={id} className={classes.block}>
      <div className={classes.blockHead} data-short={lead ? undefined : true}>
        {BlockIcon ? <span className={classes.blockIcon} aria-hidden><BlockIcon size={20} stroke={1.7} /></span> : null}
        <div className={classes.words}>
          <Title order={2} id={id}>{title}</Title>
          {lead ? <Text c="dimmed" size="sm" component="div">{lead}</Text> : null}
        </div>
        {actions}
      </div>
      {children}
    </section>
  )
}
