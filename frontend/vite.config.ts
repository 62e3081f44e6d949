//! How the web app is built, served while developing and unit-tested.
//! The build carries no inline script, so that the server can forbid it.
import react from '@vitejs/plugin-react'
import { defineConfig } from 'vitest/config'

const server = process.env['DRIFTLESS_URL'] ?? 'http://127.0.0.1:8000'

export default defineConfig({
  plugins: [react()],
  build: {
    target: ['chrome123', 'firefox121', 'safari17.5'],
    // data: addresses would need an exception in the content security policy.
    assetsInlineLimit: 0,
    modulePreload: { polyfill: false },
  },
  server: { proxy: { '/api': server, '/docs': server } },
  test: { environment: 'jsdom', include: ['src/**/*.test.{ts,tsx}'], env: { TZ: 'UTC' }, testTimeout: 120_000, hookTimeout: 120_000 },
})
