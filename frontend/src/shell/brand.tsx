//! The mark and the name.
import classes from './brand.module.css'

export function Brand({ large = false }: { large?: boolean }) {
  const size = large ? 44 : 30
  return (
    <span className={classes.brand} data-large={large || undefined}>
      <img src="/driftless.svg" width={size} height={size} alt="" />
      Driftless
    </span>
  )
}
