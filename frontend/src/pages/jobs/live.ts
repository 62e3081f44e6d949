//! What the blocks of the page share: how often they look, and what happens after an act.
import { useQueryClient } from '@tanstack/react-query'
import { toFailure } from '../../api/failure'
import { listCronsQueryKey, listJobsQueryKey, listQueuesQueryKey } from '../../api/generated/@tanstack/react-query.gen'
import { useExplain } from '../../parts/states'
import { tellFailure } from '../../parts/tell'

/** Milliseconds between two looks. */
export const RHYTHM = 2_000

/** Looks anew at everything that an act on the queue can change. */
export function useRefresh(): () => Promise<unknown> {
  const queries = useQueryClient()
  return () => Promise.all([listJobsQueryKey(), listQueuesQueryKey(), listCronsQueryKey()].map((queryKey) => queries.invalidateQueries({ queryKey })))
}

/** After an act without a dialog: says why it was not done. */
export function useTellFailure(): (error: unknown) => void {
  const explain = useExplain()
  return (error) => tellFailure(explain(toFailure(error)))
}
