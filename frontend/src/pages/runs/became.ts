//! What a decision made of a run, on the page at once.
import { useQueryClient } from '@tanstack/react-query'
import type { Run } from '../../api/generated'
import { getRunQueryKey } from '../../api/generated/@tanstack/react-query.gen'

/** Shows the run as the decision's answer tells it. An answer still on its way was asked for before, and is not waited for. */
export function useRunBecame(): (now: Run) => Promise<void> {
  const queries = useQueryClient()
  return async (now) => {
    const queryKey = getRunQueryKey({ path: { run_id: now.run_id } })
    await queries.cancelQueries({ queryKey })
    queries.setQueryData(queryKey, now)
  }
}
