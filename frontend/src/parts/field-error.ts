//! Puts a Problem's sentence beside the field that it names.
import type { Failure } from '../api/failure'
import { useExplain } from './states'

/** The error text for the field that goes by one of these names in the API. */
export function useFieldError(failure: Failure | undefined): (...names: string[]) => string | undefined {
  const explain = useExplain()
  return (...names) => (failure?.field !== undefined && names.includes(failure.field) ? explain(failure) : undefined)
}
