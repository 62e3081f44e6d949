//! A list whose rows are columns on a wide screen and stacked, labelled lines on a phone.
import type { CSSProperties, ReactNode } from 'react'
import classes from './rows.module.css'

export function Rows({ label, children }: { label: string; children: ReactNode }) {
  return <ul className={classes.rows} aria-label={label}>{children}</ul>
}

/** `columns` is a CSS grid template for wide screens. */
export function Row({ columns, children }: { columns: string; children: ReactNode }) {
  return <li className={classes.row} style={{ '--columns': columns } as CSSProperties}>{children}</li>
}

export function Cell({ label, children, end = false }: { label?: string; children: ReactNode; end?: boolean }) {
  return (
    <div className={classes.cell} data-end={end || undefined}>
      {label ? <span className={classes.label}>{label}</span> : null}
      <div className={classes.value}>{children}</div>
    </div>
  )
}
