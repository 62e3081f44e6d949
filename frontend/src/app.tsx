//! Providers and routes. A page's code is fetched when it is first visited. Whoever is not signed in sees the sign-in
//! page at whatever address, and afterwards the page of that address.
import { localStorageColorSchemeManager, MantineProvider } from '@mantine/core'
import { Notifications } from '@mantine/notifications'
import { QueryClient, QueryClientProvider } from '@tanstack/react-query'
import { lazy, useEffect } from 'react'
import { BrowserRouter, Navigate, Route, Routes } from 'react-router'
import { isPassing, toFailure } from './api/failure'
import { onSession, currentSession } from './api/session'
import { NotFound } from './shell/lost'
import { Shell } from './shell/shell'
import { nonce } from './nonce'
import { theme, variables } from './theme'

const queries = new QueryClient({
  defaultOptions: {
    queries: { retry: (count, error) => count < 2 && isPassing(toFailure(error)), staleTime: 1_000 },
  },
})

const Sync = lazy(async () => ({ default: (await import('./pages/sync/sync')).Sync }))
const Runs = lazy(async () => ({ default: (await import('./pages/runs/runs')).Runs }))
const RunPage = lazy(async () => ({ default: (await import('./pages/runs/run')).RunPage }))
const Devices = lazy(async () => ({ default: (await import('./pages/devices')).Devices }))
const Activity = lazy(async () => ({ default: (await import('./pages/activity')).Activity }))
const Jobs = lazy(async () => ({ default: (await import('./pages/jobs/jobs')).Jobs }))
const Settings = lazy(async () => ({ default: (await import('./pages/settings')).Settings }))

function Pages() {
  return (
    <Routes>
      <Route element={<Shell />}>
        <Route index element={<Navigate to="/sync" replace />} />
        <Route path="sync" element={<Sync />} />
        <Route path="runs" element={<Runs />} />
        <Route path="runs/:runId" element={<RunPage />} />
        <Route path="devices" element={<Devices />} />
        <Route path="activity" element={<Activity />} />
        <Route path="jobs" element={<Jobs />} />
        <Route path="settings" element={<Settings />} />
        <Route path="*" element={<NotFound />} />
      </Route>
    </Routes>
  )
}

const scheme = localStorageColorSchemeManager({ key: 'driftless.theme' })

/** The next person at this browser sees nothing of the last one's data. */
function useForgetting(): void {
  useEffect(() => onSession(() => { if (currentSession().state === 'out') queries.clear() }), [])
}

export function App() {
  useForgetting()
  return (
    <MantineProvider theme={theme} cssVariablesResolver={variables} defaultColorScheme="auto" colorSchemeManager={scheme} getStyleNonce={() => nonce}>
      <QueryClientProvider client={queries}>
        <BrowserRouter>
          <Notifications position="bottom-right" autoClose={6_000} />
          <Pages />
        </BrowserRouter>
      </QueryClientProvider>
    </MantineProvider>
  )
}
