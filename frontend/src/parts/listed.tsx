//! A list in whichever of its states it is: loading, failed, empty, or there, with more to fetch or not.
import { Button } from '@mantine/core'
import type { ReactNode } from 'react'
import { useTranslation } from 'react-i18next'
import { Rows } from './rows'
import { Failed, Loading } from './states'

/** What a query of TanStack says of itself, paged or not. */
interface Asked { data: unknown; error: unknown; isPending: boolean; refetch: () => Promise<unknown>; hasNextPage?: boolean; isFetchingNextPage?: boolean; fetchNextPage?: () => Promise<unknown> }

interface ListedProps<T> {
  query: Asked
  /** What has been fetched so far. */
  items: readonly T[]
  label: string
  /** What to say instead of an empty list. */
  empty: ReactNode
  /** How many rows to hint at while loading. */
  loading?: number
  children: (item: T) => ReactNode
}

export function Listed<T>({ query, items, label, empty, loading = 3, children }: ListedProps<T>) {
  const { t } = useTranslation()
  return (
    <>
      {query.error && !query.data ? <Failed error={query.error} title={t('failure.load')} retry={() => void query.refetch()} /> : null}
      {query.isPending ? <Loading rows={loading} /> : null}
      {query.data && items.length === 0 ? empty : null}
      {items.length > 0 ? <Rows label={label}>{items.map(children)}</Rows> : null}
      {query.hasNextPage ? <Button variant="default" mt="md" loading={query.isFetchingNextPage ?? false} onClick={() => void query.fetchNextPage?.()}>{t('common.more')}</Button> : null}
    </>
  )
}
