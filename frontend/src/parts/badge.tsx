//! Small coloured words. The colour repeats what the word says and never stands alone.
import type { ReactNode } from 'react'
import { useTranslation } from 'react-i18next'
import type { RunState } from '../api/generated'
import classes from './badge.module.css'

export type Tone = 'good' | 'busy' | 'warn' | 'bad' | 'calm'

export function Badge({ tone, title, children }: { tone: Tone; title?: string; children: ReactNode }) {
  return <span className={classes.badge} data-tone={tone} title={title}>{children}</span>
}

const TONES: Readonly<Record<RunState, Tone>> = {
  queued: 'busy', running: 'busy', waiting_for_device: 'calm', succeeded: 'good', failed: 'bad', cancelled: 'calm', held: 'warn', missed: 'warn', skipped: 'calm',
}

export function StateBadge({ state }: { state: RunState }) {
  const { t } = useTranslation()
  return <Badge tone={TONES[state]}>{state === 'running' ? <span className={classes.pulse} aria-hidden /> : null}{t(`state.${state}`)}</Badge>
}
