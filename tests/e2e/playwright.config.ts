//! Browser tests on the real binary with a real Postgres, in the system's Chromium. The packages are those of frontend/;
//! `npm run e2e` there links them here first.
import { execFileSync } from 'node:child_process'
import { defineConfig } from '@playwright/test'

const chromium = process.env['CHROMIUM'] ?? execFileSync('sh', ['-c', 'command -v chromium || command -v chromium-browser || command -v google-chrome'], { encoding: 'utf8' }).trim()

export default defineConfig({
  testDir: '.',
  outputDir: '../../frontend/test-results',
  globalSetup: './server.ts',
  // One server, one account: tests keep apart by the names they give.
  workers: 2,
  fullyParallel: true,
  forbidOnly: process.env['CI'] !== undefined,
  reporter: [['list']],
  // Bounds against hanging, not measures: a machine that does other things as well may take many times what ours takes.
  timeout: 300_000,
  expect: { timeout: 60_000 },
  use: {
    // Set by server.ts before the first test starts.
    baseURL: process.env['DRIFTLESS_E2E_URL'] ?? '',
    browserName: 'chromium',
    locale: 'en-US',
    timezoneId: 'Europe/Berlin',
    viewport: { width: 1280, height: 900 },
    reducedMotion: 'reduce',
    trace: 'retain-on-failure',
    launchOptions: {
      executablePath: chromium,
      // Root has no sandbox; and nothing of the browser's own goes out to the network.
      args: ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking', '--disable-component-update', '--disable-sync'],
    },
  },
})
