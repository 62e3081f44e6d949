//! Entry: texts first, then the session that the browser may still have, then the app.
import '@mantine/core/styles.css'
import '@mantine/notifications/styles.css'
import './styles.css'
import { StrictMode } from 'react'
import { createRoot } from 'react-dom/client'
import { resume } from './api/session'
import { App } from './app'
import { startTexts } from './i18n'

const root = document.getElementById('root')
if (!root) throw new Error('index.html holds no #root')

await startTexts()
createRoot(root).render(<StrictMode><App /></StrictMode>)
await resume()
