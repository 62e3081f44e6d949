//! A run's plan as the page shows it. The server's preview is free-form, so what is not as expected is left out, not trusted.
import type { Item } from './paths'

export interface Plan { items: Item[]; more: number }

type Fields = Record<string, unknown>

const isFields = (value: unknown): value is Fields => typeof value === 'object' && value !== null && !Array.isArray(value)
const list = (value: unknown): Fields[] => (Array.isArray(value) ? value.filter(isFields) : [])
const text = (value: unknown): string | undefined => (typeof value === 'string' ? value : undefined)
const number = (value: unknown): number | undefined => (typeof value === 'number' ? value : undefined)

function action(fields: Fields): Item {
  const [path, from] = [text(fields['path']) ?? '', text(fields['from'])]
  return { word: text(fields['action']) ?? '', side: text(fields['on']), path: from ?? path, to: from === undefined ? undefined : path, size: number(fields['size']) }
}

/** {"keeps": side}, {"keeps_both": {winner, copy}} or "open". */
function conflict(fields: Fields): Item {
  const outcome = fields['outcome']
  const both = isFields(outcome) && isFields(outcome['keeps_both']) ? outcome['keeps_both'] : undefined
  const keeps = isFields(outcome) ? text(outcome['keeps']) : undefined
  return { word: 'conflict', path: text(fields['path']) ?? '', kept: both ? 'both' : (keeps ?? 'open'), to: both ? text(both['copy']) : undefined }
}

/** Undefined: there is no plan of files, as for a device that plans by itself. */
export function readPlan(plan: unknown): Plan | undefined {
  if (!isFields(plan) || !Array.isArray(plan['actions'])) return undefined
  return {
    items: [...list(plan['conflicts']).map(conflict), ...list(plan['actions']).map(action)],
    more: (number(plan['more_actions']) ?? 0) + (number(plan['more_conflicts']) ?? 0),
  }
}
