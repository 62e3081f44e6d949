//! A list of paths with a word each: planned actions, or reasons for being left out. Long lists open in steps.
import { Button, Text, TextInput } from '@mantine/core'
import type { Icon } from '@tabler/icons-react'
import { useState } from 'react'
import { useTranslation } from 'react-i18next'
import { bytes } from '../../format/rate'
import { useCodes } from '../../i18n/codes'
import { Block } from '../../parts/page'
import classes from './runs.module.css'

/** `side` is who is changed, `kept` who wins a conflict. */
export interface Item { path: string; word: string; to?: string | undefined; size?: number | undefined; side?: string | undefined; kept?: string | undefined }

const STEP = 200

function Line({ item }: { item: Item }) {
  const { i18n } = useTranslation()
  const [action, reason, problem, side, kept] = [useCodes('run.action'), useCodes('run.reason'), useCodes('problems'), useCodes('run.side'), useCodes('run.kept')]
  const word = action(item.side ? `${item.word}_${item.side}` : item.word) ?? action(item.word) ?? reason(item.word) ?? problem(item.word) ?? item.word
  const where = item.side && action(`${item.word}_${item.side}`) === undefined && !['upload', 'download'].includes(item.word) ? side(item.side) : undefined
  return (
    <li>
      <span className={classes.action}>{where ? `${word}, ${where}` : word}</span>
      <span className={`${classes.path} mono`}>{item.path}{item.to ? ` → ${item.to}` : ''}</span>
      <span className={classes.size}>{item.size === undefined ? '' : bytes(item.size, i18n.language)}</span>
      {item.kept ? <span className={classes.detail}>{kept(item.kept) ?? item.kept}</span> : null}
    </li>
  )
}

export function PathList({ items, label }: { items: readonly Item[]; label: string }) {
  const { t } = useTranslation()
  const [filter, setFilter] = useState('')
  const [limit, setLimit] = useState(STEP)
  const sought = filter.trim().toLowerCase()
  const found = sought === '' ? items : items.filter((item) => item.path.toLowerCase().includes(sought) || item.to?.toLowerCase().includes(sought))
  const shown = found.slice(0, limit)
  return (
    <>
      {items.length > 10 ? <TextInput mb="sm" aria-label={t('run.filter')} placeholder={t('run.filter')} value={filter} onChange={(event) => setFilter(event.currentTarget.value)} /> : null}
      <ul className={classes.paths} aria-label={label} tabIndex={0}>
        {shown.map((item) => <Line key={`${item.word}:${item.side}:${item.path}`} item={item} />)}
      </ul>
      {found.length > shown.length ? (
        <Text size="sm" c="dimmed" mt="xs" component="div">
          {t('run.of', { shown: shown.length, total: found.length })} <Button variant="subtle" size="compact-sm" onClick={() => setLimit(limit + 5 * STEP)}>{t('common.more')}</Button>
        </Text>
      ) : null}
    </>
  )
}

interface PathsProps { title: string; lead?: string; icon: Icon; items: readonly Item[]; more: number; empty: string }

/** `more` counts what the server did not name. */
export function Paths({ title, lead, icon, items, more, empty }: PathsProps) {
  const { t, i18n } = useTranslation()
  const number = new Intl.NumberFormat(i18n.language)
  return (
    <Block title={items.length > 0 ? `${title} (${number.format(items.length + more)})` : title} lead={lead} icon={icon}>
      {items.length === 0 ? <Text c="dimmed" size="sm">{empty}</Text> : <PathList items={items} label={title} />}
      {more > 0 ? <Text c="dimmed" size="sm" mt="xs">{t('run.andMore', { count: more })}</Text> : null}
    </Block>
  )
}
