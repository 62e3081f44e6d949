//! The deletions that a run would not do by itself: the whole list in view, then a decision about exactly that list.
import { Button, Group, Text, Title } from '@mantine/core'
import { IconHandStop } from '@tabler/icons-react'
import { useInfiniteQuery, useMutation, useQueryClient } from '@tanstack/react-query'
import { useEffect, useId, useState } from 'react'
import { useTranslation } from 'react-i18next'
import type { Run } from '../../api/generated'
import { approveRunMutation, discardRunMutation, getRunQueryKey, listHeldDeletionsInfiniteOptions } from '../../api/generated/@tanstack/react-query.gen'
import { Confirm } from '../../parts/confirm'
import { Failed, Loading } from '../../parts/states'
import { PathList } from './paths'
import classes from './runs.module.css'

/** All of them, page after page: who decides must be able to see each. */
function useDeletions(run_id: string) {
  const list = useInfiniteQuery({
    ...listHeldDeletionsInfiniteOptions({ path: { run_id }, query: { limit: 1_000 } }),
    initialPageParam: 0, getNextPageParam: (page) => page.next_cursor ?? undefined, staleTime: Infinity,
  })
  const { hasNextPage, isFetching, isError, fetchNextPage } = list
  useEffect(() => { if (hasNextPage && !isFetching && !isError) void fetchNextPage() }, [hasNextPage, isFetching, isError, fetchNextPage])
  return list
}

export function Held({ run }: { run: Run }) {
  const { t } = useTranslation()
  const id = useId()
  const queries = useQueryClient()
  const [asked, ask] = useState<'approve' | 'discard'>()
  const list = useDeletions(run.run_id)
  const path = { run_id: run.run_id }
  const onSuccess = (now: Run) => { ask(undefined); queries.setQueryData(getRunQueryKey({ path }), now) }
  const approving = useMutation({ ...approveRunMutation(), onSuccess })
  const discarding = useMutation({ ...discardRunMutation(), onSuccess })
  const items = (list.data?.pages ?? []).flatMap((page) => page.deletions).map((deletion) => ({ word: 'delete', side: deletion.side, path: deletion.path }))
  const count = run.held_count
  return (
    <section className={classes.held} aria-labelledby={id}>
      <div className={classes.heldHead}>
        <span className={classes.heldIcon} aria-hidden><IconHandStop size={20} stroke={1.7} /></span>
        <div>
          <Title order={2} id={id}>{t('run.held.title', { count })}</Title>
          <Text size="sm" c="dimmed">{t('run.held.text')}</Text>
        </div>
      </div>
      {list.isPending ? <Loading /> : null}
      {list.error ? <Failed error={list.error} title={t('failure.load')} retry={() => void list.refetch()} /> : null}
      {items.length > 0 ? <PathList label={t('run.held.list')} items={items} /> : null}
      <Group mt="md">
        <Button color="red.9" disabled={items.length < count} onClick={() => ask('approve')}>{t('run.held.approve', { count })}</Button>
        <Button variant="default" onClick={() => ask('discard')}>{t('run.held.discard')}</Button>
      </Group>
      <Confirm opened={asked === 'approve'} onClose={() => ask(undefined)} title={t('run.held.approveTitle')} text={t('run.held.approveText', { count })} confirm={t('run.held.approve', { count })} busy={approving.isPending} error={approving.error} onConfirm={() => approving.mutate({ path })} />
      <Confirm opened={asked === 'discard'} onClose={() => ask(undefined)} title={t('run.held.discardTitle')} text={t('run.held.discardText')} confirm={t('run.held.discard')} danger={false} busy={discarding.isPending} error={discarding.error} onConfirm={() => discarding.mutate({ path })} />
    </section>
  )
}
