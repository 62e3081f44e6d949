//! What a run would not do by itself: delete so much (the whole list in view, then a decision about exactly that list), or
//! touch a folder that is not the one it knows.
import { Button, Group, Text, Title } from '@mantine/core'
import { IconHandStop } from '@tabler/icons-react'
import { useInfiniteQuery, useMutation } from '@tanstack/react-query'
import { useEffect, useId, useState, type ReactNode } from 'react'
import { useTranslation } from 'react-i18next'
import type { Run } from '../../api/generated'
import { approveRunMutation, discardRunMutation, listHeldDeletionsInfiniteOptions } from '../../api/generated/@tanstack/react-query.gen'
import { useCodes } from '../../i18n/codes'
import { Confirm } from '../../parts/confirm'
import { Failed, Loading } from '../../parts/states'
import { useRunBecame } from './became'
import { PathList } from './paths'
import classes from './runs.module.css'

/** All of them, page after page: who decides must be able to see each. */
function useDeletions(run_id: string) {
  const list = useInfiniteQuery({
    ...listHeldDeletionsInfiniteOptions({ path: { run_id }, query: { limit: 1_000 } }),
    initialPageParam: { path: { run_id } }, getNextPageParam: (page) => page.next_cursor ?? undefined, staleTime: Infinity,
  })
  const { hasNextPage, isFetching, isError, fetchNextPage } = list
  useEffect(() => { if (hasNextPage && !isFetching && !isError) void fetchNextPage() }, [hasNextPage, isFetching, isError, fetchNextPage])
  return list
}

function useDecision(run: Run) {
  const became = useRunBecame()
  const [asked, ask] = useState<'approve' | 'discard'>()
  const path = { run_id: run.run_id }
  const onSuccess = (now: Run) => { ask(undefined); return became(now) }
  const approving = useMutation({ ...approveRunMutation(), onSuccess })
  const discarding = useMutation({ ...discardRunMutation(), onSuccess })
  return { asked, ask, approving, discarding, approve: () => approving.mutate({ path }), discard: () => discarding.mutate({ path }) }
}

function Frame({ title, text, children }: { title: string; text: string; children: ReactNode }) {
  const id = useId()
  return (
    <section className={classes.held} aria-labelledby={id}>
      <div className={classes.heldHead}>
        <span className={classes.heldIcon} aria-hidden><IconHandStop size={20} stroke={1.7} /></span>
        <div>
          <Title order={2} id={id}>{title}</Title>
          <Text size="sm" c="dimmed">{text}</Text>
        </div>
      </div>
      {children}
    </section>
  )
}

function HeldDeletions({ run }: { run: Run }) {
  const { t } = useTranslation()
  const list = useDeletions(run.run_id)
  const { asked, ask, approving, discarding, approve, discard } = useDecision(run)
  const items = (list.data?.pages ?? []).flatMap((page) => page.deletions).map((deletion) => ({ word: 'delete', side: deletion.side, path: deletion.path }))
  const count = run.held_count
  return (
    <Frame title={t('run.held.title', { count })} text={t('run.held.text')}>
      {list.isPending ? <Loading /> : null}
      {list.error ? <Failed error={list.error} title={t('failure.load')} retry={() => void list.refetch()} /> : null}
      {items.length > 0 ? <PathList label={t('run.held.list')} items={items} /> : null}
      <Group mt="md">
        <Button color="red.9" disabled={items.length < count} onClick={() => ask('approve')}>{t('run.held.approve', { count })}</Button>
        <Button variant="default" onClick={() => ask('discard')}>{t('run.held.discard')}</Button>
      </Group>
      <Confirm opened={asked === 'approve'} onClose={() => ask(undefined)} title={t('run.held.approveTitle')} text={t('run.held.approveText', { count })} confirm={t('run.held.approve', { count })} busy={approving.isPending} error={approving.error} onConfirm={approve} />
      <Confirm opened={asked === 'discard'} onClose={() => ask(undefined)} title={t('run.held.discardTitle')} text={t('run.held.discardText')} confirm={t('run.held.discard')} danger={false} busy={discarding.isPending} error={discarding.error} onConfirm={discard} />
    </Frame>
  )
}

/** The folder itself is in doubt: nothing was looked at, so there is nothing to approve but another try. */
function HeldFolder({ run }: { run: Run }) {
  const { t } = useTranslation()
  const problem = useCodes('problems')
  const { approving, discarding, approve, discard } = useDecision(run)
  const reason = run.left_out[0]?.reason
  return (
    <Frame title={t('run.held.folderTitle')} text={`${reason ? (problem(reason) ?? reason) : ''} ${t('run.held.folderText')}`}>
      {approving.error || discarding.error ? <Failed error={approving.error ?? discarding.error} /> : null}
      <Group mt="md">
        <Button loading={approving.isPending} onClick={approve}>{t('common.retry')}</Button>
        <Button variant="default" loading={discarding.isPending} onClick={discard}>{t('run.held.end')}</Button>
      </Group>
    </Frame>
  )
}

/** Whether a run is held because its folder is not the one it knows, and not because of deletions. */
export const folderInDoubt = (run: Run): boolean => run.state === 'held' && run.held_count === 0

export function Held({ run }: { run: Run }) {
  return folderInDoubt(run) ? <HeldFolder run={run} /> : <HeldDeletions run={run} />
}
